"""The counters of one tunnel: plain integers, written by that tunnel's actors and read by anyone.

Owns no behaviour. Every field has one writer, an actor on the tunnel's dispatcher; a reader on
another thread sees each integer whole (they are single objects) and at most a moment old. The
object outlives restarts of the actors, so that no counter goes back while the tunnel exists.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from enum import StrEnum

__all__ = ["Histogram", "ServiceStats", "TunnelState", "TunnelStats"]


class TunnelState(StrEnum):
    """The states of a tunnel, for people, API and metrics (DESIGN.md section 2)."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    BACKOFF = "backoff"
    REFUSED = "refused"
    QUARANTINED = "quarantined"
    DRAINING = "draining"
    STOPPED = "stopped"


class Histogram:
    """A histogram of seconds with fixed upper bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value` in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


CONNECT_SECONDS_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PING_SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
QUEUE_WAIT_SECONDS_BOUNDS = (
    *(0.000_01, 0.000_1, 0.001, 0.002_5, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class ServiceStats:
    """The counters of one service of a tunnel."""

    __slots__ = (
        "connections_active",
        "connections_ended",
        "connections_opened",
        "received_bytes",
        "received_messages",
        "sent_bytes",
        "sent_messages",
        "streams_active",
        "streams_ended",
        "streams_opened",
    )

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self.sent_messages = 0
        self.received_messages = 0
        self.streams_opened = 0
        self.streams_active = 0
        self.streams_ended: dict[str, int] = {}
        self.connections_opened = 0
        self.connections_active = 0
        self.connections_ended: dict[str, int] = {}


class TunnelStats:
    """The counters and the present state of one tunnel.

    `sent` is local socket to WebSocket, `received` the other way; bytes are DATA payload bytes.
    """

    __slots__ = (
        "channel_id",
        "connect_attempts",
        "connect_failures",
        "connect_seconds",
        "dropped_messages",
        "failed_sends",
        "last_event",
        "listening",
        "ping_seconds",
        "queue_bytes",
        "queue_wait",
        "reason",
        "reconnects",
        "service_ids",
        "services",
        "session_resets",
        "since",
        "stalled_connections",
        "state",
        "throttled_seconds",
    )

    def __init__(self) -> None:
        self.state = TunnelState.CONNECTING
        self.reason = ""
        self.since = time.time()
        self.last_event = "opened"
        self.channel_id = ""
        self.service_ids: tuple[str, ...] = ()
        self.listening: dict[str, tuple[str, ...]] = {}
        self.services: dict[str, ServiceStats] = {}
        self.connect_attempts = 0
        self.connect_failures: dict[str, int] = {}
        self.connect_seconds = Histogram(CONNECT_SECONDS_BOUNDS)
        self.reconnects: dict[str, int] = {}
        self.session_resets = 0
        self.dropped_messages: dict[str, int] = {}
        self.failed_sends = 0
        self.ping_seconds = Histogram(PING_SECONDS_BOUNDS)
        self.queue_bytes = 0
        self.queue_wait = Histogram(QUEUE_WAIT_SECONDS_BOUNDS)
        self.throttled_seconds = 0.0
        self.stalled_connections = 0

    @property
    def queue_wait_seconds(self) -> float:
        """How long all pieces together waited in the fair queue."""
        return self.queue_wait.total

    def service(self, service_id: str) -> ServiceStats:
        """The counters of `service_id`, made at its first use."""
        stats = self.services.get(service_id)
        if stats is None:
            stats = self.services[service_id] = ServiceStats()
        return stats

    def enter(self, state: TunnelState, reason: str = "") -> bool:
        """Change the state; False if neither state nor reason is new."""
        if state is self.state and reason == self.reason:
            return False
        if state is not self.state:
            self.since = time.time()
        self.state = state
        self.reason = reason
        return True

    def sum(self, field: str) -> int:
        """The sum of an integer field over the services."""
        return sum(getattr(service, field) for service in tuple(self.services.values()))


def count(counts: dict[str, int], key: str) -> None:
    """Add one to `counts[key]`."""
    counts[key] = counts.get(key, 0) + 1
