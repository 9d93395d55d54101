"""Where a tunnel may come from: one list, for what is asked of a gateway."""

from __future__ import annotations

from tunnelfleet.runtime.gateway import API
from tunnelfleet.runtime.gateway.door.fleet_view import ON_DEMAND
from tunnelfleet.runtime.gateway.listing import SOURCES
from tunnelfleet.runtime.gateway.messages import FILES
from tunnelfleet.runtime.gateway.supervisor import NOTIFY


def test_every_source_of_tunnels_can_be_asked_for() -> None:
    assert SOURCES == (FILES, API, NOTIFY, ON_DEMAND)
