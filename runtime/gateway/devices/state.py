"""What is known of the devices of a gateway, kept where a crash of NotifyActor does not lose it.

Owns the book, the numbers, the tokens that are not in the state yet, and the connections that
there are, for those who look at them. Written on NotifyActor's thread alone; other threads may read
single values.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.runtime.gateway.supervisor import NOTIFY

from .book import DeviceBook
from .counters import DeviceCounters, Seldom

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.fleet_state import FleetState

    from .connection import BrokerConnection
    from .keeper import KeepsDevices

__all__ = ["NOTIFY", "DeviceState"]

MAX_LISTED: Final = 100
"""Connections to brokers that `/readyz` lists."""


class DeviceState:
    """The facts.

    Args:
        fleet: what is known of the fleet; only read here.
        store: takes refusals down; None takes down nothing.
    """

    def __init__(self, fleet: FleetState, store: KeepsDevices | None) -> None:
        self.fleet = fleet
        self._store = store
        self.book = DeviceBook()
        self.unsaved: dict[str, None] = {}
        """Hashes of tokens that are not in the state so far."""
        self.unforgotten: dict[str, None] = {}
        """Hashes of tokens that are still in the state, and should not be."""
        self.is_keeping = True
        """Whether tokens can be put into the state, as far as it is known."""
        self.connections: tuple[BrokerConnection, ...] = ()
        """Those that are wanted."""
        self.ending: list[BrokerConnection] = []
        """Those whose threads are about to end."""
        self.seldom = Seldom()
        self.counters = DeviceCounters()
        self.counters.tunnels = lambda: len(self.fleet.sources.get(NOTIFY, {}))
        self.counters.unsaved = lambda: len(self.unsaved)
        self.counters.connections = lambda: self.connections

    def is_taken(self, name: str) -> bool:
        """Whether another source wants a tunnel of this name."""
        sources = tuple(self.fleet.sources.items())
        return any(name in tunnels for source, tunnels in sources if source != NOTIFY)

    def note_refused(self, thing: str, service_id: str, broker: str) -> None:
        """Take down that a device was asked for a service that it does not give."""
        told = self.seldom.ask(("audit", thing), time.monotonic())
        if self._store is None or told is None:
            return
        reason = "the service is not in the allow-list of [[notify]]"
        if told:
            reason += f"; so it was {told} times more since"
        self._store.note_denied(thing, service_id, peer=broker, user="", reason=reason)

    def brokers(self) -> list[dict[str, Any]]:
        """The connections to brokers, those that are away first, for `/readyz`."""
        found = sorted(self.connections, key=lambda each: each.is_up)[:MAX_LISTED]
        return [
            {
                "broker": str(each.settings),
                "client_id": each.client_id,
                "connected": each.is_up,
                "things": each.subscribed,
                "reason": each.reason,
            }
            for each in found
        ]
