"""Gateways that take over from each other: real processes, PostgreSQL, TLS tunnels with traffic.

The short form says that all comes back; `test_shared_fleet_long` says how fast, and what it costs
the others.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.rig import echo
from tests.support.shared_fleet import Pulse, SharedFleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(400)
TUNNELS = 12


@pytest.fixture
def lease_seconds() -> float:
    return 3.0


@pytest.fixture
def fleet(tmp_path: Path, lease_seconds: float) -> Iterator[SharedFleet]:
    with SharedFleet(tmp_path, TUNNELS, lease_seconds) as running:
        yield running


def carry_all(fleet: SharedFleet) -> None:
    for name in fleet.names:
        with fleet.client(name) as client:
            echo(client, b"hello")


def test_gateways_take_over_from_each_other(fleet: SharedFleet) -> None:
    one, two = fleet.start("one"), fleet.start("two")
    fleet.wait_shared_by([one, two])
    carry_all(fleet)

    one.kill()
    fleet.wait_shared_by([two])
    carry_all(fleet)


def test_a_gateway_that_stops_hands_over(fleet: SharedFleet) -> None:
    one, two = fleet.start("one"), fleet.start("two")
    fleet.wait_shared_by([one, two])
    one.signal(signal.SIGTERM)
    fleet.wait_shared_by([two])
    assert one.wait_end() == 0
    carry_all(fleet)


@pytest.mark.parametrize("lease_seconds", [10.0])
def test_no_connection_notices_that_the_store_is_away(fleet: SharedFleet) -> None:
    one, two = fleet.start("one"), fleet.start("two")
    fleet.wait_shared_by([one, two])
    with Pulse(fleet, fleet.names) as pulse:
        pulse.wait_beats()
        fleet.postgres.stop()
        try:
            for each in (one, two):
                each.wait_event("lease_unconfirmed")
        finally:
            fleet.postgres.start()
        for each in (one, two):
            each.wait_event("lease_confirmed")
        pulse.wait_beats()
        assert not pulse.cut
