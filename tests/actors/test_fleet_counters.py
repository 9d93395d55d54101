"""The counters of many tunnels, and who is in which state."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.counters import FleetCounters, Histogram, TunnelStats
from tunnelfleet.actors.events import TunnelState


def make_fleet() -> FleetCounters:
    return FleetCounters("source", lambda service_id: service_id or "(none)", threading.Lock())


def join(fleet: FleetCounters) -> TunnelStats:
    stats = TunnelStats(fleet)
    fleet.join(stats)
    return stats


def test_tunnels_count_into_it() -> None:
    fleet = make_fleet()
    for size in (1, 20):
        stats = join(fleet)
        stats.service("").count_sent(size)
        stats.observe_ping(0.003)
    assert fleet.services["(none)"].sent_bytes == 21
    pings = fleet.ping_seconds
    assert pings.count == 2
    assert isinstance(pings, Histogram)
    assert pings.counts[2] == 2, "by size, as a histogram has it"


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(list(TunnelState)))))
def test_each_tunnel_is_in_one_state(steps: list[tuple[int, TunnelState]]) -> None:
    fleet = make_fleet()
    tunnels = [join(fleet) for _ in range(5)]
    for index, state in steps:
        tunnels[index].enter(state)
    expected: dict[TunnelState, list[float]] = {}
    for stats in tunnels:
        expected.setdefault(stats.state, []).append(stats.since)
    assert fleet.states() == {state: (len(s), min(s)) for state, s in expected.items()}


def test_the_first_to_enter_a_state_says_since_when() -> None:
    fleet = make_fleet()
    first, second = join(fleet), join(fleet)
    first.since, second.since = 10.0, 20.0
    assert fleet.states() == {TunnelState.CONNECTING: (2, 10.0)}
    fleet.leave(first)
    assert fleet.states() == {TunnelState.CONNECTING: (1, 20.0)}


def test_who_has_left_does_not_come_back() -> None:
    fleet = make_fleet()
    stats = join(fleet)
    fleet.leave(stats)
    stats.enter(TunnelState.STOPPED)
    fleet.leave(stats)
    assert fleet.states() == {}
