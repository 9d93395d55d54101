"""The counters and the present state of one tunnel, written by its actors and read by anyone.

Owns the state, its reason and its beginning; `counters` owns how things are counted. Every field
has one writer, an actor on the tunnel's dispatcher. The object outlives restarts of the actors, so
that no counter goes back while the tunnel exists.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING

from tunnelfleet.proto import MAX_REASON_CHARACTERS, printable

from .counters import Counters

if TYPE_CHECKING:
    from .fleet_counters import FleetCounters

__all__ = ["TunnelState", "TunnelStats"]


class TunnelState(StrEnum):
    """The states of a tunnel, for people, API and metrics (DESIGN.md section 2)."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    BACKOFF = "backoff"
    REFUSED = "refused"
    QUARANTINED = "quarantined"
    DRAINING = "draining"
    STOPPED = "stopped"


class TunnelStats(Counters):
    """The counters of one tunnel, and how it is.

    Args:
        fleet: counts the same for all tunnels of its kind, and knows who is in which state.
    """

    __slots__ = (
        "_fleet",
        "channel_id",
        "last_event",
        "listening",
        "reason",
        "service_ids",
        "since",
        "state",
    )

    def __init__(self, fleet: FleetCounters | None = None) -> None:
        super().__init__(fleet)
        self._fleet = fleet
        self.state = TunnelState.CONNECTING
        self.reason = ""
        self.since = time.time()
        self.last_event = "opened"
        self.channel_id = ""
        self.service_ids: tuple[str, ...] = ()
        self.listening: dict[str, tuple[str, ...]] = {}

    def enter(self, state: TunnelState, reason: str = "") -> bool:
        """Change the state; False if neither state nor reason is new.

        The reason is kept printable and bounded: a part of it may be what the service sent.
        """
        reason = printable(reason, MAX_REASON_CHARACTERS)
        if state is self.state and reason == self.reason:
            return False
        before = self.state
        if state is not before:
            self.since = time.time()
        self.state = state
        self.reason = reason
        if self._fleet is not None and state is not before:
            self._fleet.move(self, before)
        return True
