"""Wanted tunnels for the tests of the gateway."""

from __future__ import annotations

from typing import Any

from tunnelfleet.proto import Endpoint, Mode
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway.wanted import WantedTunnel


def wanted(name: str = "a", **given: Any) -> WantedTunnel:
    """A destination that nobody serves, unless told otherwise."""
    keys: dict[str, Any] = {
        "name": name,
        "mode": Mode.DESTINATION,
        "endpoint": Endpoint.parse("ws://127.0.0.1:1"),
        "access_token": f"{name}-{'t' * 40}",
        "services": {"SSH": TcpAddress("127.0.0.1", 22)},
        **given,
    }
    return WantedTunnel(**keys)
