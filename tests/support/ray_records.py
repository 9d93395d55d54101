"""What a directory of a fleet on Ray keeps, in memory, and plans to declare."""

from __future__ import annotations

import threading
from typing import Any

from tests.support.fleet import wanted
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime.gateway.config import FleetConfig, GatewaySettings
from tunnelfleet.runtime.ray_fleet.plan import FleetPlan

SECRET = b"s" * 40


class Shelf:
    """Records in memory, which many keepers see alike."""

    def __init__(self) -> None:
        self.found: dict[str, bytes] = {}
        self.is_away = False
        self.gate: threading.Event | None = None
        """Who looks waits for it."""

    def _look(self) -> None:
        if self.is_away:
            raise ConnectionError("away")
        if self.gate is not None:
            assert self.gate.wait(WAIT_SECONDS)

    def get(self, key: str) -> bytes | None:
        self._look()
        return self.found.get(key)

    def put(self, key: str, value: bytes) -> None:
        self._look()
        self.found[key] = value

    def put_new(self, key: str, value: bytes) -> bool:
        self._look()
        return self.found.setdefault(key, value) is value

    def delete(self, key: str) -> None:
        self._look()
        self.found.pop(key, None)


def ray_plan(*names: str, groups: int = 1, secret: bytes = SECRET, **settings: Any) -> FleetPlan:
    gateway = GatewaySettings(name="gw", admin="off", **settings)
    return FleetPlan.of_config(
        FleetConfig(gateway, {name: wanted(name) for name in names}), secret, groups
    )
