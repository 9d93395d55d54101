"""How fast gateways take over from each other, and what the others notice, with 300 tunnels.

The figures are printed (`pytest -s`); docs/fleet.md has those of one run.
"""

from __future__ import annotations

import itertools
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.shared_fleet import FleetProcess, Pulse, SharedFleet
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

TUNNELS = 300
LEASE_SECONDS = 10.0
CONNECT_RATE = 100
DRAIN_SECONDS = 30.0
PULSES = 8
"""Connections with traffic at each gateway."""
BACK_SECONDS = 15.0
OUTAGE_SECONDS = 60.0


class Three:
    """A fleet with three gateways, settled."""

    def __init__(self, fleet: SharedFleet) -> None:
        self.fleet = fleet
        self.one, self.two, self.three = self.gateways = [
            fleet.start(name) for name in ("one", "two", "three")
        ]
        fleet.wait_shared_by(self.gateways)
        fleet.wait_sources()
        self.settled_at = time.time()
        self.had = {each.name: fleet.of(each) for each in self.gateways}

    def pulse(self, *gateways: FleetProcess) -> Pulse:
        """Traffic through tunnels of these."""
        names = itertools.chain.from_iterable(self.had[each.name][:PULSES] for each in gateways)
        return Pulse(self.fleet, names)

    def connects_of_others(self, gone: FleetProcess, since: float) -> int:
        """How often those tunnels that `gone` did not have were connected again."""
        others = set(self.fleet.names) - set(self.had[gone.name])
        return sum(self.fleet.connects(self.gateways, name, since) for name in others)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    with SharedFleet(tmp_path, TUNNELS, LEASE_SECONDS, CONNECT_RATE) as fleet:
        fleet.rig.drain_seconds = DRAIN_SECONDS
        fleet.rig.write()
        yield Three(fleet)


def test_one_is_killed(three: Three) -> None:
    fleet = three.fleet
    with three.pulse(three.two, three.three) as pulse:
        pulse.wait_beats()
        at = time.time()
        three.one.kill()
        seconds = fleet.wait_shared_by([three.two, three.three]) - at
        pulse.wait_beats()
        assert not pulse.cut
    moved = len(three.had["one"])
    print(f"\nkill -9: {moved} of {TUNNELS} tunnels back after {seconds:.1f} s")
    assert seconds < BACK_SECONDS
    assert three.connects_of_others(three.one, at) == 0


def test_one_is_frozen_and_thaws(three: Three) -> None:
    fleet = three.fleet
    with three.pulse(three.two, three.three) as pulse:
        pulse.wait_beats()
        at = time.time()
        three.one.signal(signal.SIGSTOP)
        seconds = fleet.wait_shared_by([three.two, three.three]) - at
        assert not pulse.cut
        pulse.wait_beats()
    taken = {name: fleet.connects(three.gateways, name, at) for name in three.had["one"]}
    thawed_at = time.time()
    three.one.signal(signal.SIGCONT)
    back_seconds = fleet.wait_shared_by(three.gateways) - thawed_at
    # Long enough for a gateway that had not understood to throw the others out many times.
    eventually(lambda: time.time() > thawed_at + 30.0, timeout_seconds=60.0, pause_seconds=0.5)
    counts = [fleet.connects(three.gateways, name, thawed_at) for name in three.had["one"]]
    print(
        f"\nSIGSTOP: {len(taken)} tunnels back after {seconds:.1f} s, each connected "
        f"{max(taken.values())} time; SIGCONT: shared by three again after {back_seconds:.1f} s, "
        f"each connected at most {max(counts)} time, {sum(counts)} in all in 30 s"
    )
    assert seconds < BACK_SECONDS
    assert max(taken.values()) == 1
    assert max(counts) <= 1
    assert three.connects_of_others(three.one, at) == 0


def test_a_fourth_joins(three: Three) -> None:
    fleet = three.fleet
    at = time.time()
    four = fleet.start("four")
    four.wait_event("up")
    up_at = time.time()
    seconds = fleet.wait_shared_by([*three.gateways, four]) - up_at
    moved = fleet.of(four)
    others = set(fleet.names) - set(moved)
    again = sum(fleet.connects(three.gateways, name, at) for name in others)
    away = [
        fleet.away_seconds(old, [four], name)
        for old in three.gateways
        for name in three.had[old.name]
        if name in set(moved)
    ]
    print(
        f"\na fourth joins: {len(moved)} of {TUNNELS} tunnels move in {seconds:.1f} s, each away "
        f"for at most {max(away):.2f} s; of the others {again} connected again"
    )
    assert again == 0
    assert TUNNELS / 8 < len(moved) < TUNNELS / 2.5


def test_one_is_stopped(three: Three) -> None:
    fleet = three.fleet
    with three.pulse(three.two, three.three) as pulse:
        pulse.wait_beats()
        at = time.time()
        three.one.signal(signal.SIGTERM)
        seconds = fleet.wait_shared_by([three.two, three.three]) - at
        assert three.one.wait_end() == 0
        assert not pulse.cut
    away = [
        fleet.away_seconds(three.one, [three.two, three.three], name) for name in three.had["one"]
    ]
    print(
        f"\nSIGTERM: {len(away)} tunnels handed over in {seconds:.1f} s, each away for "
        f"{sum(away) / len(away):.2f} s on average and {max(away):.2f} s at most"
    )
    assert max(away) < 2.0
    assert three.connects_of_others(three.one, at) == 0


def test_the_store_is_away(three: Three) -> None:
    fleet = three.fleet
    with three.pulse(*three.gateways) as pulse:
        pulse.wait_beats()
        at = time.time()
        fleet.postgres.stop()
        eventually(lambda: time.time() > at + OUTAGE_SECONDS, timeout_seconds=120.0)
        assert '"confirmed": false' in three.one.get("/readyz")
        fleet.postgres.start()
        back_at = time.time()
        for each in three.gateways:
            each.wait_event("lease_confirmed")
        seconds = time.time() - back_at
        eventually(lambda: time.time() > back_at + 2 * LEASE_SECONDS, timeout_seconds=60.0)
        pulse.wait_beats()
        assert not pulse.cut
    again = sum(fleet.connects(three.gateways, name, at) for name in fleet.names)
    print(
        f"\nPostgreSQL away for {OUTAGE_SECONDS:.0f} s: {3 * PULSES} connections with traffic went "
        f"on, {again} of {TUNNELS} tunnels connected again; leases confirmed {seconds:.1f} s after"
    )
    assert again == 0


def test_the_store_and_a_gateway_die_together(three: Three) -> None:
    fleet = three.fleet
    with three.pulse(three.two, three.three) as pulse:
        pulse.wait_beats()
        fleet.postgres.stop(signal.SIGQUIT)
        three.one.kill()
        at = time.time()
        eventually(lambda: time.time() > at + 1.5 * LEASE_SECONDS, timeout_seconds=60.0)
        fleet.postgres.start()
        back_at = time.time()
        seconds = fleet.wait_shared_by([three.two, three.three]) - back_at
        assert not pulse.cut
    print(f"\nPostgreSQL and a gateway died: all back {seconds:.1f} s after PostgreSQL was")
    # The heartbeat that finds it again, a grace of a lease, and the connects.
    assert seconds < 1.2 * LEASE_SECONDS + 0.5 * LEASE_SECONDS
    assert three.connects_of_others(three.one, at) == 0
