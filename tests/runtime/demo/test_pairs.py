from __future__ import annotations

import pytest

from tests.support.demo import FakeTunnel
from tests.support.supervisors import Clock
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.demo.fleet import SETTLE_SECONDS, TunnelPair


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pair(clock: Clock) -> TunnelPair:
    return TunnelPair("press-01", FakeTunnel(), FakeTunnel(Mode.DESTINATION), clock)


def ends(pair: TunnelPair) -> list[FakeTunnel]:
    assert isinstance(pair.source, FakeTunnel)
    assert isinstance(pair.destination, FakeTunnel)
    return [pair.source, pair.destination]


def test_a_pair_is_whole_when_both_ends_are_connected(pair: TunnelPair) -> None:
    assert pair.is_whole()
    for end in ends(pair):
        end.set(state=TunnelState.BACKOFF)
        assert not pair.is_whole()
        end.set(state=TunnelState.CONNECTED)


def test_nothing_happened_to_a_pair_that_was_left_alone(pair: TunnelPair, clock: Clock) -> None:
    started = pair.now()
    clock.now += 30

    assert not pair.was_disturbed_since(started)


def test_a_strike_is_a_disturbance_until_it_has_settled(pair: TunnelPair, clock: Clock) -> None:
    started = pair.now()
    clock.now += 5
    pair.strike()

    assert pair.was_disturbed_since(started)
    assert pair.was_disturbed_since(clock.now + SETTLE_SECONDS / 2)
    assert not pair.was_disturbed_since(clock.now + SETTLE_SECONDS * 2)


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("change", [{"reconnects": 1}, {"session_resets": 1}])
def test_a_break_that_nobody_saw_is_a_disturbance(
    pair: TunnelPair, clock: Clock, end: int, change: dict[str, int]
) -> None:
    started = pair.now()
    clock.now += 5
    ends(pair)[end].set(**change)

    assert pair.was_disturbed_since(started)
    clock.now += 5
    assert not pair.was_disturbed_since(pair.now())


def test_an_end_that_is_away_is_a_disturbance_as_long_as_it_lasts(
    pair: TunnelPair, clock: Clock
) -> None:
    ends(pair)[1].set(state=TunnelState.BACKOFF)
    clock.now += 60
    started = pair.now()
    clock.now += 60

    assert pair.was_disturbed_since(started)
