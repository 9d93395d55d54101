from __future__ import annotations

import pytest

from tests.support.demo import FakeTunnel, make_row, make_snapshot
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.demo.fleet import TunnelPair
from tunnelfleet.runtime.demo.report import (
    HISTORY_LENGTH,
    SEVERITY,
    FleetSampler,
    PairSampler,
    TrafficRate,
)

START = 1_000.0


class Scene:
    """A pair, its sampler, and a clock in seconds of the Unix epoch."""

    def __init__(self) -> None:
        self.source, self.destination = FakeTunnel(), FakeTunnel(Mode.DESTINATION)
        self.sampler = PairSampler(TunnelPair("press-01", self.source, self.destination))
        self.now = START

    def event(self, seconds: float = 0.25) -> str:
        self.now += seconds
        return self.sampler.sample(self.now).last_event


def test_every_state_has_its_severity() -> None:
    assert set(SEVERITY) == set(TunnelState)
    assert min(SEVERITY, key=lambda state: SEVERITY[state]) is TunnelState.CONNECTED


@pytest.mark.parametrize(
    ("source", "destination", "shown"),
    [
        (TunnelState.CONNECTED, TunnelState.CONNECTED, TunnelState.CONNECTED),
        (TunnelState.BACKOFF, TunnelState.CONNECTED, TunnelState.BACKOFF),
        (TunnelState.CONNECTED, TunnelState.CONNECTING, TunnelState.CONNECTING),
        (TunnelState.BACKOFF, TunnelState.REFUSED, TunnelState.REFUSED),
    ],
)
def test_the_worse_of_the_ends_is_shown(
    source: TunnelState, destination: TunnelState, shown: TunnelState
) -> None:
    scene = Scene()
    scene.source.set(state=source)
    scene.destination.set(state=destination)

    assert scene.sampler.sample(START).state is shown


def test_bytes_and_streams_are_the_source_s_and_reconnects_are_of_both() -> None:
    scene = Scene()
    scene.source.set(sent_bytes=10, received_bytes=20, streams_active=3, reconnects=1)
    scene.destination.set(sent_bytes=20, received_bytes=10, streams_active=2, reconnects=2)
    row = scene.sampler.sample(START)

    assert (row.sent_bytes, row.received_bytes, row.streams, row.reconnects) == (10, 20, 3, 3)


def test_a_session_reset_of_both_ends_is_one() -> None:
    scene = Scene()
    scene.source.set(session_resets=2)
    scene.destination.set(session_resets=1)

    assert scene.sampler.sample(START).session_resets == 2


def test_the_first_connect_is_an_event_and_stays_the_last_one() -> None:
    scene = Scene()
    scene.source.set(state=TunnelState.CONNECTING)
    scene.event()
    scene.source.set(state=TunnelState.CONNECTED)

    assert [scene.event(), scene.event()] == ["connected", "connected"]
    assert scene.sampler.sample(scene.now + 5).event_age_seconds == pytest.approx(5.25)


def test_a_break_on_purpose_and_the_way_back_are_told() -> None:
    scene = Scene()
    scene.event()
    scene.sampler.strike("source dropped", scene.now)
    assert scene.event() == "chaos: source dropped"

    scene.source.set(state=TunnelState.BACKOFF, reason="the connection was reset", since=scene.now)
    assert scene.event() == "source: the connection was reset"

    scene.source.set(state=TunnelState.CONNECTED, reason="", reconnects=1, since=START + 1.45)
    assert scene.event() == "back after 1.2 s"


def test_a_break_between_two_looks_is_told() -> None:
    scene = Scene()
    scene.event()
    scene.sampler.strike("destination dropped", scene.now)
    scene.destination.set(reconnects=1, since=scene.now + 0.1)

    assert [scene.event(), scene.event()] == ["chaos: destination dropped", "back after 0.1 s"]


def test_a_break_by_nobody_is_told() -> None:
    scene = Scene()
    scene.event()
    scene.destination.set(state=TunnelState.BACKOFF, since=scene.now)
    assert scene.event() == "destination: backoff"

    scene.destination.set(state=TunnelState.CONNECTED, reconnects=1, since=scene.now + 2)
    assert scene.event(3) == "back after 2.2 s"

    scene.destination.set(reconnects=2)
    assert scene.event() == "back again"


def test_a_session_reset_is_told() -> None:
    scene = Scene()
    scene.event()
    scene.sampler.strike("session reset", scene.now)
    scene.source.set(session_resets=1)

    assert [scene.event(), scene.event()] == ["chaos: session reset", "back after a session reset"]


def test_a_rate_is_that_of_the_last_seconds() -> None:
    meter = TrafficRate()

    assert meter.update(10.0, 0) == 0
    assert meter.update(10.5, 500) == pytest.approx(1_000)
    for step in range(1, 20):
        rate = meter.update(10.5 + step * 0.5, 500 + step * 100)
    assert rate == pytest.approx(200)


def test_a_rate_falls_to_nothing_when_nothing_moves() -> None:
    meter = TrafficRate()
    meter.update(10.0, 0)
    meter.update(10.5, 500)

    assert [meter.update(now, 500) for now in (13.0, 16.0, 19.0)][-1] == 0


def test_a_clock_that_goes_back_gives_no_rate() -> None:
    meter = TrafficRate()
    meter.update(10.0, 0)

    assert meter.update(9.0, 500) == 0


def test_the_fleet_has_a_row_for_each_tunnel_and_a_bounded_history() -> None:
    sampler, sources = FleetSampler(), [FakeTunnel(), FakeTunnel()]
    for number, source in enumerate(sources):
        sampler.add(TunnelPair(f"press-{number}", source, FakeTunnel(Mode.DESTINATION)))
    for step in range(HISTORY_LENGTH + 10):
        for source in sources:
            source.set(sent_bytes=step * 100)
        rows = sampler.rows(START + step)

    assert [row.name for row in rows] == ["press-0", "press-1"]
    assert len(sampler.history) == HISTORY_LENGTH
    assert sampler.history[-1] == pytest.approx(200)


def test_a_strike_goes_to_its_tunnel_alone() -> None:
    sampler = FleetSampler()
    for name in ("press-01", "press-02"):
        sampler.add(TunnelPair(name, FakeTunnel(), FakeTunnel(Mode.DESTINATION)))
    sampler.rows(START)
    sampler.strike("press-02", "session reset", START)

    assert [row.last_event for row in sampler.rows(START)] == ["connected", "chaos: session reset"]


def test_totals_are_sums() -> None:
    snapshot = make_snapshot(
        make_row("a"), make_row("b", state=TunnelState.BACKOFF, bytes_per_second=0.0)
    )

    assert snapshot.connected == 1
    assert snapshot.bytes_per_second == 12_345
    assert snapshot.total("streams") == 6
