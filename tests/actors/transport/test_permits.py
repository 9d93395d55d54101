"""Permits: the decisions of the governor, by table and by property, without an actor."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rates import busiest_second
from tunnelfleet.actors.events import AttemptOutcome
from tunnelfleet.actors.transport import permits
from tunnelfleet.actors.transport.connect_gate import BREAKER_DELAYS, BREAKER_FAILURES, BreakerState
from tunnelfleet.actors.transport.permits import TRIAL_SECONDS, CallBack, Cause, Grant, Permits

CONNECTED, REFUSED, FAILED, CANCELLED = AttemptOutcome
SECOND = 1.1
"""After so long a second is over for sure."""


class Desk:
    """Permits, a clock, and what was decided. A key is "endpoint/tunnel"."""

    def __init__(
        self,
        rate: float = 1_000.0,
        concurrency: int = 100,
        per_endpoint: int | None = None,
        seed: int = 1,
    ) -> None:
        self.now = 0.0
        self.permits: Permits[str] = Permits(rate, concurrency, per_endpoint, random.Random(seed))
        self.granted: list[str] = []
        self.called_back: list[tuple[str, Cause]] = []
        self.wait_seconds: float | None = None

    def ask(self, *keys: str) -> None:
        for key in keys:
            self.permits.ask(key, key.partition("/")[0], key)
        self.decide()

    def end(self, key: str, outcome: AttemptOutcome) -> None:
        self.permits.end(key, outcome, self.now)
        self.decide()

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        self.decide()

    def decide(self) -> None:
        actions, self.wait_seconds = self.permits.decide(self.now)
        for action in actions:
            if isinstance(action, Grant):
                self.granted.append(action.key)
            else:
                self.called_back.append((action.key, action.cause))

    def attempt(self, key: str, outcome: AttemptOutcome) -> None:
        """One that is granted at once, and over."""
        self.ask(key)
        assert self.granted[-1] == key
        self.end(key, outcome)

    def break_down(self, endpoint: str) -> None:
        """Have the endpoint fail until its breaker opens."""
        for number in range(BREAKER_FAILURES):
            self.attempt(f"{endpoint}/{number}", FAILED)
        assert self.permits.breakers.state(endpoint) is BreakerState.OPEN


# -- an endpoint that is down


def test_an_endpoint_that_is_down_is_tried_by_one_tunnel_at_a_time() -> None:
    desk = Desk()
    desk.break_down("down")
    before = len(desk.granted)
    desk.ask(*[f"down/{number}" for number in range(50)])
    assert len(desk.granted) == before
    assert desk.permits.held_back == 50
    for opening in range(1, 8):
        desk.go_on(BREAKER_DELAYS.max_seconds)
        assert len(desk.granted) == before + opening
        desk.go_on(1.0)
        desk.end(desk.granted[-1], FAILED)
    assert len(desk.granted) == before + 7
    assert len(set(desk.granted[before:])) == 7, "each time another one"


def test_it_costs_the_others_nothing() -> None:
    desk = Desk(concurrency=4)
    desk.break_down("down")
    desk.ask(*[f"down/{number}" for number in range(500)])
    desk.go_on(SECOND)
    for number in range(100):
        desk.attempt(f"up/{number}", CONNECTED)


def test_when_it_answers_all_of_its_tunnels_come_at_the_rate() -> None:
    desk = Desk(rate=10.0)
    desk.break_down("down")
    desk.ask(*[f"down/{number}" for number in range(100)])
    desk.go_on(BREAKER_DELAYS.max_seconds)
    before = len(desk.granted)
    desk.end(desk.granted[-1], CONNECTED)
    assert len(desk.granted) == before + 9, "and the probe, in this second"
    assert desk.permits.held_back == 0
    assert desk.permits.in_line == 90


@pytest.mark.parametrize("outcome", [REFUSED, CANCELLED, CONNECTED])
def test_what_is_no_failure_of_an_endpoint(outcome: AttemptOutcome) -> None:
    desk = Desk()
    for number in range(10 * BREAKER_FAILURES):
        desk.attempt(f"e/{number}", outcome)
    assert desk.permits.breakers.state("e") is BreakerState.CLOSED


def test_a_refused_token_shows_that_the_endpoint_is_up_again() -> None:
    desk = Desk()
    desk.break_down("e")
    desk.ask("e/a", "e/b")
    desk.go_on(BREAKER_DELAYS.max_seconds)
    desk.end("e/a", REFUSED)
    assert desk.granted[-1] == "e/b"


def test_those_that_were_in_line_when_it_opened_are_held_back() -> None:
    desk = Desk(concurrency=4, per_endpoint=3)
    keys = [f"e/{number}" for number in range(30)]
    desk.ask(*keys)
    for number in range(BREAKER_FAILURES):
        desk.end(desk.granted[number], FAILED)
    assert desk.permits.in_line == 0
    assert desk.permits.held_back == 30 - len(desk.granted)


@pytest.mark.parametrize("is_granted", [True, False])
def test_a_probe_that_is_given_up_is_followed_by_the_next(is_granted: bool) -> None:
    desk = Desk(concurrency=2)
    desk.break_down("e")
    if not is_granted:
        desk.ask("other/1", "another/1")
    desk.ask("e/a", "e/b")
    desk.go_on(BREAKER_DELAYS.max_seconds)
    assert ("e/a" in desk.granted) is is_granted
    desk.end("e/a", CANCELLED)
    assert desk.permits.held_back == 0
    desk.end("other/1", CONNECTED)
    desk.end("another/1", CONNECTED)
    assert desk.granted[-1] == "e/b"


def test_one_that_asks_when_the_delay_is_long_over_tries_at_once() -> None:
    desk = Desk()
    desk.break_down("e")
    desk.go_on(BREAKER_DELAYS.max_seconds)
    desk.ask("e/late")
    assert desk.granted[-1] == "e/late"


def test_one_that_somebody_asks_for_tries_before_the_delay_is_over() -> None:
    desk = Desk()
    desk.break_down("e")
    desk.ask("e/a", "e/b", "e/c")
    before = len(desk.granted)
    desk.permits.try_now("e", "e/b", desk.now)
    desk.decide()
    assert desk.granted[before:] == ["e/b"]
    # One tries it at this moment: there is no second one beside it.
    desk.permits.try_now("e", "e/c", desk.now)
    desk.decide()
    assert desk.granted[before:] == ["e/b"]
    desk.end("e/b", CONNECTED)
    assert desk.granted[before:] == ["e/b", "e/a", "e/c"]


def test_to_try_now_what_is_not_down_or_nobody_asks_for_is_no_harm() -> None:
    desk = Desk()
    desk.permits.try_now("e", "e/a", desk.now)
    desk.break_down("e")
    before = len(desk.granted)
    desk.permits.try_now("e", "e/a", desk.now)
    desk.decide()
    assert desk.granted[before:] == []
    # It comes a moment later, as one does that a command has ended the backoff of.
    desk.ask("e/a", "e/b")
    assert desk.granted[before:] == ["e/a"]
    desk.end("e/a", FAILED)
    assert desk.permits.breakers.state("e") is BreakerState.OPEN
    assert desk.granted[before:] == ["e/a"]


def test_an_endpoint_that_nobody_asks_for_is_forgotten() -> None:
    desk = Desk()
    desk.break_down("gone")
    for _ in range(3):
        desk.go_on(permits.FORGOTTEN_SECONDS)
    assert len(desk.permits.breakers) == 0
    assert desk.wait_seconds is None


def test_nothing_piles_up_while_many_ask_an_endpoint_that_is_down() -> None:
    desk = Desk()
    desk.break_down("e")
    for _ in range(200):
        desk.ask("e/a")
        desk.end("e/a", CANCELLED)
    assert len(desk.permits._dues) <= 3


# -- a suspension


def test_nobody_connects_while_connects_are_suspended() -> None:
    desk = Desk()
    desk.ask("e/used")
    desk.end("e/used", CONNECTED)
    desk.ask("e/under way")
    called_back = desk.permits.suspend()
    assert called_back == [CallBack("e/under way", Cause.SUSPENDED, "e")]
    desk.ask("e/1", "f/2")
    desk.end("e/under way", FAILED)
    desk.go_on(100.0)
    assert desk.granted == ["e/used", "e/under way"]
    desk.permits.resume()
    desk.decide()
    assert desk.granted[2:] == ["e/1", "f/2"]


def test_what_was_called_back_says_nothing_of_its_endpoint() -> None:
    desk = Desk()
    for number in range(10 * BREAKER_FAILURES):
        desk.ask(f"e/{number}")
        desk.permits.suspend()
        desk.end(f"e/{number}", FAILED)
        desk.permits.resume()
    assert desk.permits.breakers.state("e") is BreakerState.CLOSED


def test_those_that_came_through_all_the_same_count_as_connected() -> None:
    desk = Desk()
    desk.break_down("e")
    desk.ask("e/a")
    desk.go_on(BREAKER_DELAYS.max_seconds)
    desk.permits.suspend()
    desk.end("e/a", CONNECTED)
    assert desk.permits.breakers.state("e") is BreakerState.CLOSED


# -- newcomers


def test_a_newcomer_does_not_wait_for_all_that_never_answer() -> None:
    desk = Desk(concurrency=4)
    connect_timeout, silent = 15.0, 40
    desk.ask(*[f"silent{number}/t" for number in range(silent)])
    desk.ask("new/t")
    began = dict.fromkeys(desk.granted, 0.0)
    while "new/t" not in desk.granted:
        assert desk.now < silent * connect_timeout
        desk.go_on(0.1)
        for key, _cause in desk.called_back:
            if began.pop(key, None) is not None:
                desk.end(key, CANCELLED)
        for key in [key for key in began if desk.now - began[key] >= connect_timeout]:
            del began[key]
            desk.end(key, FAILED)
        began |= {key: desk.now for key in desk.granted if key not in began and key != "new/t"}
        began = {key: at for key, at in began.items() if key in desk.permits._requests}
    assert desk.now <= silent / 3 * (TRIAL_SECONDS + 0.2), "and not a third of 40 times 15 s"
    assert {cause for _, cause in desk.called_back} == {Cause.HUNG}


def test_one_that_was_called_back_has_longer_the_next_time() -> None:
    desk = Desk(concurrency=2, per_endpoint=2)
    given_seconds = []
    for number in range(4):
        desk.ask("slow/t", f"new{number}/t")
        began, before = desk.now, len(desk.called_back)
        while len(desk.called_back) == before:
            assert desk.wait_seconds is not None
            desk.go_on(desk.wait_seconds)
        given_seconds.append(desk.now - began)
        desk.end("slow/t", CANCELLED)
        desk.end(f"new{number}/t", CANCELLED)
    assert given_seconds == pytest.approx([TRIAL_SECONDS * 2**number for number in range(4)])


def test_nobody_is_called_back_while_no_newcomer_waits() -> None:
    desk = Desk(concurrency=4)
    desk.ask(*[f"silent/{number}" for number in range(40)])
    desk.go_on(100.0)
    assert desk.called_back == []


def test_only_so_many_endpoints_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permits, "MAX_ENDPOINTS", 5)
    desk = Desk(concurrency=2)
    for number in range(20):
        desk.ask(f"silent{number}/t", f"new{number}/t")
        desk.go_on(TRIAL_SECONDS)
        desk.end(f"silent{number}/t", CANCELLED)
        desk.end(f"new{number}/t", CANCELLED)
    assert len(desk.permits._trials) == 5


# -- whatever happens

ACTIONS = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 3), st.integers(0, 7)),
    st.tuples(st.just("end"), st.integers(0, 40), st.sampled_from(list(AttemptOutcome))),
    st.tuples(st.just("time"), st.floats(0.0, 2.0), st.none()),
    st.tuples(st.just("suspend"), st.booleans(), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([0.5, 1.0, 3.0, 7.5]),
    concurrency=st.integers(1, 6),
    seed=st.integers(0, 100),
    actions=st.lists(ACTIONS, max_size=60),
    parts=st.randoms(use_true_random=False),
)
def test_never_above_rate_or_number_and_nobody_starves(
    rate: float,
    concurrency: int,
    seed: int,
    actions: list[tuple[str, int, object]],
    parts: random.Random,
) -> None:
    desk = Desk(rate, concurrency, None, seed)
    asked: dict[str, None] = {}
    out: dict[str, float] = {}
    arrivals: list[float] = []
    suspended = False

    def check() -> None:
        """After each decision: what was granted since, and what is promised."""
        new = desk.granted[check.seen :]  # type: ignore[attr-defined]
        check.seen = len(desk.granted)  # type: ignore[attr-defined]
        assert not (suspended and new)
        for key in new:
            assert key in asked
            assert key not in out
            out[key] = desk.now
        assert len(out) == desk.permits.under_way <= concurrency
        assert len(asked) == desk.permits.under_way + desk.permits.in_line + desk.permits.held_back
        # Not asleep: if somebody waits, there is a time to look again, or an end to come.
        if len(asked) > len(out) and not out and not suspended:
            assert desk.wait_seconds is not None

    check.seen = 0  # type: ignore[attr-defined]

    def end(key: str, outcome: AttemptOutcome) -> None:
        began = out.pop(key, None)
        del asked[key]
        if began is not None and desk.now - began < 3.0:
            # It arrived at some moment of its life; one that is late counts as hung.
            arrivals.append(began + (desk.now - began) * parts.random())
        desk.end(key, outcome)
        check()

    for name, first, second in actions:
        if name == "ask":
            key = f"e{first}/t{second}"
            asked.setdefault(key)
            desk.ask(key)
        elif name == "end" and asked:
            assert isinstance(second, AttemptOutcome)
            key = list(asked)[first % len(asked)]
            is_out = key in out
            end(key, second if is_out else CANCELLED)
        elif name == "time":
            desk.go_on(first)
        elif name == "suspend":
            suspended = bool(first)
            if suspended:
                desk.permits.suspend()
            else:
                desk.permits.resume()
            desk.decide()
        check()
    # From now on all goes well: everybody who asked is served, in a time that has a bound.
    suspended = False
    desk.permits.resume()
    desk.decide()
    check()
    bound_seconds = desk.now + len(asked) * (2 / rate + 1) + 2 * BREAKER_DELAYS.max_seconds + 10
    while asked:
        for key in list(out):
            end(key, CONNECTED)
        if asked and not out:
            assert desk.wait_seconds is not None
            desk.go_on(desk.wait_seconds)
            check()
        assert desk.now <= bound_seconds
    assert busiest_second(arrivals) <= max(1, int(rate))


@settings(max_examples=30, deadline=None)
@given(
    crowds=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    concurrency=st.integers(2, 8),
    takes=st.floats(0.0, 0.2),
)
def test_endpoints_have_their_turns_whatever_their_size(
    crowds: list[int], concurrency: int, takes: float
) -> None:
    desk = Desk(1_000.0, concurrency)
    keys = [f"e{group}/{number}" for group, size in enumerate(crowds) for number in range(size)]
    # Those who came first are first within an endpoint; endpoints take turns.
    desk.ask(*keys)
    at = {}
    while len(desk.granted) < len(keys):
        desk.go_on(takes)
        key = next(key for key in desk.granted if key not in at)
        at[key] = len(at)
        desk.end(key, CONNECTED)
    order = defaultdict(list)
    for place, key in enumerate(desk.granted):
        group, _, number = key.partition("/")
        order[group].append((place, int(number)))
    for index, size in enumerate(crowds):
        places = order[f"e{index}"]
        assert [number for _, number in places] == list(range(size))
        last = places[-1][0]
        # Nobody waits for more than one turn of each other endpoint, and those that began at once.
        assert last <= size * len(crowds) + concurrency
