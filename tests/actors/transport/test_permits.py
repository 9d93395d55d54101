"""Permits: the decisions of the governor, by table and by property, without an actor."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.actors.transport.test_rate_window import busiest_second
from tunnelfleet.actors.state import AttemptOutcome
from tunnelfleet.actors.transport import permits
from tunnelfleet.actors.transport.breaker import BREAKER_DELAYS, BREAKER_FAILURES, BreakerState
from tunnelfleet.actors.transport.permits import TRIAL_SECONDS, CallBack, Cause, Grant, Permits

CONNECTED, REFUSED, FAILED, CANCELLED = AttemptOutcome
SECOND = 1.1
"""After so long a second is over for sure."""


class Rig:
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
    rig = Rig()
    rig.break_down("down")
    before = len(rig.granted)
    rig.ask(*[f"down/{number}" for number in range(50)])
    assert len(rig.granted) == before
    assert rig.permits.held_back == 50
    for opening in range(1, 8):
        rig.go_on(BREAKER_DELAYS.max_seconds)
        assert len(rig.granted) == before + opening
        rig.go_on(1.0)
        rig.end(rig.granted[-1], FAILED)
    assert len(rig.granted) == before + 7
    assert len(set(rig.granted[before:])) == 7, "each time another one"


def test_it_costs_the_others_nothing() -> None:
    rig = Rig(concurrency=4)
    rig.break_down("down")
    rig.ask(*[f"down/{number}" for number in range(500)])
    rig.go_on(SECOND)
    for number in range(100):
        rig.attempt(f"up/{number}", CONNECTED)


def test_when_it_answers_all_of_its_tunnels_come_at_the_rate() -> None:
    rig = Rig(rate=10.0)
    rig.break_down("down")
    rig.ask(*[f"down/{number}" for number in range(100)])
    rig.go_on(BREAKER_DELAYS.max_seconds)
    before = len(rig.granted)
    rig.end(rig.granted[-1], CONNECTED)
    assert len(rig.granted) == before + 9, "and the probe, in this second"
    assert rig.permits.held_back == 0
    assert rig.permits.in_line == 90


@pytest.mark.parametrize("outcome", [REFUSED, CANCELLED, CONNECTED])
def test_what_is_no_failure_of_an_endpoint(outcome: AttemptOutcome) -> None:
    rig = Rig()
    for number in range(10 * BREAKER_FAILURES):
        rig.attempt(f"e/{number}", outcome)
    assert rig.permits.breakers.state("e") is BreakerState.CLOSED


def test_a_refused_token_shows_that_the_endpoint_is_up_again() -> None:
    rig = Rig()
    rig.break_down("e")
    rig.ask("e/a", "e/b")
    rig.go_on(BREAKER_DELAYS.max_seconds)
    rig.end("e/a", REFUSED)
    assert rig.granted[-1] == "e/b"


def test_those_that_were_in_line_when_it_opened_are_held_back() -> None:
    rig = Rig(concurrency=4, per_endpoint=3)
    keys = [f"e/{number}" for number in range(30)]
    rig.ask(*keys)
    for number in range(BREAKER_FAILURES):
        rig.end(rig.granted[number], FAILED)
    assert rig.permits.in_line == 0
    assert rig.permits.held_back == 30 - len(rig.granted)


@pytest.mark.parametrize("is_granted", [True, False])
def test_a_probe_that_is_given_up_is_followed_by_the_next(is_granted: bool) -> None:
    rig = Rig(concurrency=2)
    rig.break_down("e")
    if not is_granted:
        rig.ask("other/1", "another/1")
    rig.ask("e/a", "e/b")
    rig.go_on(BREAKER_DELAYS.max_seconds)
    assert ("e/a" in rig.granted) is is_granted
    rig.end("e/a", CANCELLED)
    assert rig.permits.held_back == 0
    rig.end("other/1", CONNECTED)
    rig.end("another/1", CONNECTED)
    assert rig.granted[-1] == "e/b"


def test_one_that_asks_when_the_delay_is_long_over_tries_at_once() -> None:
    rig = Rig()
    rig.break_down("e")
    rig.go_on(BREAKER_DELAYS.max_seconds)
    rig.ask("e/late")
    assert rig.granted[-1] == "e/late"


def test_an_endpoint_that_nobody_asks_for_is_forgotten() -> None:
    rig = Rig()
    rig.break_down("gone")
    for _ in range(3):
        rig.go_on(permits.FORGOTTEN_SECONDS)
    assert len(rig.permits.breakers) == 0
    assert rig.wait_seconds is None


def test_nothing_piles_up_while_many_ask_an_endpoint_that_is_down() -> None:
    rig = Rig()
    rig.break_down("e")
    for _ in range(200):
        rig.ask("e/a")
        rig.end("e/a", CANCELLED)
    assert len(rig.permits._dues) <= 3


# -- a suspension


def test_nobody_connects_while_connects_are_suspended() -> None:
    rig = Rig()
    rig.ask("e/used")
    rig.end("e/used", CONNECTED)
    rig.ask("e/under way")
    called_back = rig.permits.suspend()
    assert called_back == [CallBack("e/under way", Cause.SUSPENDED, "e")]
    rig.ask("e/1", "f/2")
    rig.end("e/under way", FAILED)
    rig.go_on(100.0)
    assert rig.granted == ["e/used", "e/under way"]
    rig.permits.resume()
    rig.decide()
    assert rig.granted[2:] == ["e/1", "f/2"]


def test_what_was_called_back_says_nothing_of_its_endpoint() -> None:
    rig = Rig()
    for number in range(10 * BREAKER_FAILURES):
        rig.ask(f"e/{number}")
        rig.permits.suspend()
        rig.end(f"e/{number}", FAILED)
        rig.permits.resume()
    assert rig.permits.breakers.state("e") is BreakerState.CLOSED


def test_those_that_came_through_all_the_same_count_as_connected() -> None:
    rig = Rig()
    rig.break_down("e")
    rig.ask("e/a")
    rig.go_on(BREAKER_DELAYS.max_seconds)
    rig.permits.suspend()
    rig.end("e/a", CONNECTED)
    assert rig.permits.breakers.state("e") is BreakerState.CLOSED


# -- newcomers


def test_a_newcomer_does_not_wait_for_all_that_never_answer() -> None:
    rig = Rig(concurrency=4)
    connect_timeout, silent = 15.0, 40
    rig.ask(*[f"silent{number}/t" for number in range(silent)])
    rig.ask("new/t")
    began = dict.fromkeys(rig.granted, 0.0)
    while "new/t" not in rig.granted:
        assert rig.now < silent * connect_timeout
        rig.go_on(0.1)
        for key, _cause in rig.called_back:
            if began.pop(key, None) is not None:
                rig.end(key, CANCELLED)
        for key in [key for key in began if rig.now - began[key] >= connect_timeout]:
            del began[key]
            rig.end(key, FAILED)
        began |= {key: rig.now for key in rig.granted if key not in began and key != "new/t"}
        began = {key: at for key, at in began.items() if key in rig.permits._requests}
    assert rig.now <= silent / 3 * (TRIAL_SECONDS + 0.2), "and not a third of 40 times 15 s"
    assert {cause for _, cause in rig.called_back} == {Cause.HUNG}


def test_one_that_was_called_back_has_longer_the_next_time() -> None:
    rig = Rig(concurrency=2, per_endpoint=2)
    given_seconds = []
    for number in range(4):
        rig.ask("slow/t", f"new{number}/t")
        began, before = rig.now, len(rig.called_back)
        while len(rig.called_back) == before:
            assert rig.wait_seconds is not None
            rig.go_on(rig.wait_seconds)
        given_seconds.append(rig.now - began)
        rig.end("slow/t", CANCELLED)
        rig.end(f"new{number}/t", CANCELLED)
    assert given_seconds == pytest.approx([TRIAL_SECONDS * 2**number for number in range(4)])


def test_nobody_is_called_back_while_no_newcomer_waits() -> None:
    rig = Rig(concurrency=4)
    rig.ask(*[f"silent/{number}" for number in range(40)])
    rig.go_on(100.0)
    assert rig.called_back == []


def test_only_so_many_endpoints_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permits, "MAX_ENDPOINTS", 5)
    rig = Rig(concurrency=2)
    for number in range(20):
        rig.ask(f"silent{number}/t", f"new{number}/t")
        rig.go_on(TRIAL_SECONDS)
        rig.end(f"silent{number}/t", CANCELLED)
        rig.end(f"new{number}/t", CANCELLED)
    assert len(rig.permits._trials) == 5


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
    rig = Rig(rate, concurrency, None, seed)
    asked: dict[str, None] = {}
    out: dict[str, float] = {}
    arrivals: list[float] = []
    suspended = False

    def check() -> None:
        """After each decision: what was granted since, and what is promised."""
        new = rig.granted[check.seen :]  # type: ignore[attr-defined]
        check.seen = len(rig.granted)  # type: ignore[attr-defined]
        assert not (suspended and new)
        for key in new:
            assert key in asked
            assert key not in out
            out[key] = rig.now
        assert len(out) == rig.permits.under_way <= concurrency
        assert len(asked) == rig.permits.under_way + rig.permits.in_line + rig.permits.held_back
        # Not asleep: if somebody waits, there is a time to look again, or an end to come.
        if len(asked) > len(out) and not out and not suspended:
            assert rig.wait_seconds is not None

    check.seen = 0  # type: ignore[attr-defined]

    def end(key: str, outcome: AttemptOutcome) -> None:
        began = out.pop(key, None)
        del asked[key]
        if began is not None and rig.now - began < 3.0:
            # It arrived at some moment of its life; one that is late counts as hung.
            arrivals.append(began + (rig.now - began) * parts.random())
        rig.end(key, outcome)
        check()

    for name, first, second in actions:
        if name == "ask":
            key = f"e{first}/t{second}"
            asked.setdefault(key)
            rig.ask(key)
        elif name == "end" and asked:
            assert isinstance(second, AttemptOutcome)
            key = list(asked)[first % len(asked)]
            is_out = key in out
            end(key, second if is_out else CANCELLED)
        elif name == "time":
            rig.go_on(first)
        elif name == "suspend":
            suspended = bool(first)
            if suspended:
                rig.permits.suspend()
            else:
                rig.permits.resume()
            rig.decide()
        check()
    # From now on all goes well: everybody who asked is served, in a time that has a bound.
    suspended = False
    rig.permits.resume()
    rig.decide()
    check()
    bound_seconds = rig.now + len(asked) * (2 / rate + 1) + 2 * BREAKER_DELAYS.max_seconds + 10
    while asked:
        for key in list(out):
            end(key, CONNECTED)
        if asked and not out:
            assert rig.wait_seconds is not None
            rig.go_on(rig.wait_seconds)
            check()
        assert rig.now <= bound_seconds
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
    rig = Rig(1_000.0, concurrency)
    keys = [f"e{group}/{number}" for group, size in enumerate(crowds) for number in range(size)]
    # Those who came first are first within an endpoint; endpoints take turns.
    rig.ask(*keys)
    at = {}
    while len(rig.granted) < len(keys):
        rig.go_on(takes)
        key = next(key for key in rig.granted if key not in at)
        at[key] = len(at)
        rig.end(key, CONNECTED)
    order = defaultdict(list)
    for place, key in enumerate(rig.granted):
        group, _, number = key.partition("/")
        order[group].append((place, int(number)))
    for index, size in enumerate(crowds):
        places = order[f"e{index}"]
        assert [number for _, number in places] == list(range(size))
        last = places[-1][0]
        # Nobody waits for more than one turn of each other endpoint, and those that began at once.
        assert last <= size * len(crowds) + concurrency
