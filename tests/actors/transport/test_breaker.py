"""The breaker of an endpoint: its table, and how few records there are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.transport import connect_gate
from tunnelfleet.actors.transport.connect_gate import (
    BREAKER_DELAYS,
    BREAKER_FAILURES,
    RULES,
    Breakers,
    BreakerState,
    Fact,
)

CLOSED, OPEN, HALF_OPEN = BreakerState


def make() -> Breakers:
    return Breakers(random.Random(1))


def fail_all(
    breakers: Breakers, count: int = BREAKER_FAILURES, endpoint: str = "e"
) -> BreakerState:
    """Let so many tunnels fail, one after the other."""
    for number in range(count):
        breakers.learn(endpoint, Fact.FAILED, f"t{number}", 0.0)
    return breakers.state(endpoint)


def half_open() -> Breakers:
    breakers = make()
    fail_all(breakers)
    breakers.learn("e", Fact.DELAY_OVER, "t0", 100.0)
    return breakers


def test_every_state_has_a_rule_for_what_can_come_there() -> None:
    always = {Fact.SUCCEEDED, Fact.FAILED}
    only = {
        CLOSED: {Fact.FAILED_TOO_OFTEN},
        OPEN: {Fact.DELAY_OVER},
        HALF_OPEN: {Fact.PROBE_FAILED, Fact.PROBE_GONE},
    }
    assert set(RULES) == {(state, fact) for state in only for fact in always | only[state]}


@pytest.mark.parametrize(
    ("fact", "after"),
    [
        (Fact.SUCCEEDED, CLOSED),
        (Fact.FAILED, HALF_OPEN),
        (Fact.PROBE_FAILED, OPEN),
        (Fact.PROBE_GONE, OPEN),
    ],
)
def test_what_follows_while_one_tries(fact: Fact, after: BreakerState) -> None:
    assert half_open().learn("e", fact, "t0", 100.0) is after


def test_failures_of_different_tunnels_open_it() -> None:
    breakers = make()
    assert fail_all(breakers, BREAKER_FAILURES - 1) is CLOSED
    assert breakers.learn("e", Fact.FAILED, "another", 0.0) is OPEN
    assert breakers.openings == 1
    assert breakers.state("other") is CLOSED


def test_one_tunnel_alone_never_opens_it() -> None:
    breakers = make()
    for _ in range(100):
        assert breakers.learn("e", Fact.FAILED, "t", 0.0) is CLOSED


def test_a_success_in_between_starts_the_count_anew() -> None:
    breakers = make()
    fail_all(breakers, BREAKER_FAILURES - 1)
    breakers.learn("e", Fact.SUCCEEDED, "t", 0.0)
    assert len(breakers) == 0
    assert fail_all(breakers, BREAKER_FAILURES - 1) is CLOSED


def test_a_success_of_any_tunnel_closes_it() -> None:
    breakers = make()
    fail_all(breakers)
    assert breakers.learn("e", Fact.SUCCEEDED, "an older attempt", 0.0) is CLOSED
    assert len(breakers) == 0


def test_the_delay_is_drawn_by_chance_and_its_ceiling_grows_up_to_a_limit() -> None:
    ceilings = []
    for opening in range(12):
        delays = []
        for seed in range(40):
            breakers = Breakers(random.Random(seed))
            fail_all(breakers)
            for _ in range(opening):
                breakers.learn("e", Fact.DELAY_OVER, "t", 0.0)
                breakers.learn("e", Fact.PROBE_FAILED, "t", 0.0)
            found = breakers.get("e")
            assert found is not None
            delays.append(found.due_at)
        assert len(set(delays)) > 30
        ceilings.append(max(delays))
        assert max(delays) <= BREAKER_DELAYS.ceiling(opening)
    assert ceilings[0] < BREAKER_DELAYS.min_seconds
    assert ceilings[-1] > BREAKER_DELAYS.max_seconds / 2


def test_a_probe_that_was_given_up_has_a_successor_at_once() -> None:
    breakers = half_open()
    before = breakers.get("e")
    assert before is not None
    due_at = before.due_at
    breakers.learn("e", Fact.PROBE_GONE, "t0", 100.0)
    after = breakers.get("e")
    assert after is not None
    assert (after.due_at, after.openings) == (due_at, 1)


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect_gate, "MAX_ENDPOINTS", 10)
    breakers = make()
    for number in range(100):
        fail_all(breakers, 2, f"e{number}")
    assert len(breakers) == 10
    assert breakers.get("e99") is not None


def test_one_that_holds_tunnels_back_is_not_forgotten_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connect_gate, "MAX_ENDPOINTS", 10)
    breakers = make()
    for number in range(20):
        fail_all(breakers, BREAKER_FAILURES, f"e{number}")
    assert len(breakers) == 10
    assert set(breakers.not_closed()) == {f"e{number}" for number in range(10)}


@given(
    facts=st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]), st.sampled_from(list(Fact)), st.sampled_from("123456789")
        ),
        max_size=80,
    )
)
def test_whatever_comes_it_is_in_the_table(facts: list[tuple[str, Fact, str]]) -> None:
    breakers = make()
    for endpoint, fact, tunnel in facts:
        if (breakers.state(endpoint), fact) not in RULES or fact is Fact.FAILED_TOO_OFTEN:
            # The caller never says so in that state.
            continue
        after = breakers.learn(endpoint, fact, tunnel, 0.0)
        assert after is breakers.state(endpoint)
        found = breakers.get(endpoint)
        assert (after is CLOSED) == (endpoint not in breakers.not_closed())
        if found is not None:
            assert len(found.tunnels) < BREAKER_FAILURES
            assert (found.openings == 0) == (after is CLOSED)
        if fact is Fact.SUCCEEDED:
            assert found is None
