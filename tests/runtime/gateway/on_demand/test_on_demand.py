"""Tunnels on demand of a real gateway: a service with its API, boto3, the doors, devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.doors import door_answer, http_request
from tests.support.rig import echo

if TYPE_CHECKING:
    from tests.support.demand import DemandFleet


def test_who_asks_gets_a_tunnel(fleet: DemandFleet) -> None:
    fleet.open_gateway()
    with fleet.client(http_request("press-4")) as sock:
        assert door_answer(sock) == (200, "")
        assert echo(sock, b"hello") == b"hello"
    assert fleet.ask("press-4") == (200, "")
    assert fleet.calls["OpenTunnel"] == 1
