"""How tunnels count: the counters of one tunnel, their sums over a fleet, and how a tunnel is.

Owns every number that a hot path touches. Each has one writer, an actor on the tunnel's dispatcher,
so a byte costs no lock; a scrape reads sums. The object of a tunnel outlives restarts of its
actors, so that no counter goes back while the tunnel exists.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, Self

from tunnelfleet.proto import MAX_REASON_CHARACTERS, printable

from .state import TunnelState

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from .live_connections import LiveConnection

__all__ = [
    "CONNECT_SECONDS_BOUNDS",
    "MAX_KEYS",
    "MAX_SERVICES",
    "OTHER",
    "PING_SECONDS_BOUNDS",
    "QUEUE_WAIT_SECONDS_BOUNDS",
    "Counters",
    "FleetCounters",
    "Histogram",
    "ServiceCounters",
    "Summary",
    "TunnelStats",
    "count",
]


OTHER: Final = "other"
"""Stands for every name beyond a limit."""
MAX_KEYS: Final = 64
"""Distinct reasons or kinds of one count."""
MAX_SERVICES: Final = 256
"""Distinct services of one tunnel, over all its connections."""

CONNECT_SECONDS_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PING_SECONDS_BOUNDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
QUEUE_WAIT_SECONDS_BOUNDS: Final = (
    *(0.000_01, 0.000_1, 0.001, 0.002_5, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Summary:
    """How many values there were, and their sum."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value`."""
        self.count += 1
        self.total += value


class Histogram(Summary):
    """The same, by size.

    Args:
        bounds: the upper bounds of the buckets, ascending.
    """

    __slots__ = ("bounds", "counts")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__()
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """Count `value` in the first bucket whose bound is not below it."""
        super().observe(value)
        self.counts[bisect_left(self.bounds, value)] += 1


class ServiceCounters:
    """The counters of a service.

    `sent` is local socket to WebSocket, `received` the other way; bytes are DATA payload bytes.

    Args:
        whole: what counts the same for the whole fleet.
    """

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
        "whole",
    )

    def __init__(self, whole: Self | None = None) -> None:
        self.whole = whole
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

    def count_sent(self, payload_bytes: int) -> None:
        """A DATA message was handed to the WebSocket."""
        self.sent_bytes += payload_bytes
        self.sent_messages += 1
        if self.whole is not None:
            self.whole.count_sent(payload_bytes)

    def count_received(self, payload_bytes: int) -> None:
        """A DATA message came."""
        self.received_bytes += payload_bytes
        self.received_messages += 1
        if self.whole is not None:
            self.whole.count_received(payload_bytes)

    def count_stream_opened(self) -> None:
        """A stream is active."""
        self.streams_opened += 1
        self.streams_active += 1
        if self.whole is not None:
            self.whole.count_stream_opened()

    def count_stream_ended(self, reason: str) -> None:
        """A stream is active no more."""
        self.streams_active -= 1
        count(self.streams_ended, reason)
        if self.whole is not None:
            self.whole.count_stream_ended(reason)

    def count_connection_opened(self) -> None:
        """A connection is open."""
        self.connections_opened += 1
        self.connections_active += 1
        if self.whole is not None:
            self.whole.count_connection_opened()

    def count_connection_ended(self, reason: str) -> None:
        """A connection is open no more."""
        self.connections_active -= 1
        count(self.connections_ended, reason)
        if self.whole is not None:
            self.whole.count_connection_ended(reason)

    def forget_active(self) -> None:
        """Nothing of it is active: whoever would have counted the ends has gone."""
        if self.whole is not None and (self.streams_active or self.connections_active):
            self.whole.streams_active -= self.streams_active
            self.whole.connections_active -= self.connections_active
        self.streams_active = self.connections_active = 0


class Counters:
    """The counters of a tunnel or of many.

    Args:
        whole: what counts the same for the whole fleet.
    """

    __slots__ = (
        "connect_attempts",
        "connect_failures",
        "connect_seconds",
        "dropped_messages",
        "exhausted_operations",
        "failed_sends",
        "ping_seconds",
        "queue_bytes",
        "queue_wait",
        "reconnects",
        "services",
        "session_resets",
        "stalled_connections",
        "throttled_seconds",
        "whole",
    )

    def __init__(self, whole: Counters | None = None) -> None:
        self.whole = whole
        self.services: dict[str, ServiceCounters] = {}
        self.connect_attempts = 0
        self.connect_failures: dict[str, int] = {}
        self.connect_seconds = Summary()
        self.reconnects: dict[str, int] = {}
        self.session_resets = 0
        self.dropped_messages: dict[str, int] = {}
        self.exhausted_operations: dict[str, int] = {}
        self.failed_sends = 0
        self.ping_seconds = Summary()
        self.queue_bytes = 0
        self.queue_wait = Summary()
        self.throttled_seconds = 0.0
        self.stalled_connections = 0

    def service(self, service_id: str) -> ServiceCounters:
        """The counters of `service_id`, made at its first use; those of `OTHER` if it has many."""
        found = self.services.get(service_id)
        return found if found is not None else self._add_service(service_id)

    def _add_service(self, service_id: str) -> ServiceCounters:
        key = service_id if len(self.services) < MAX_SERVICES else OTHER
        found = self.services.get(key)
        if found is None:
            whole = None if self.whole is None else self.whole.service(service_id)
            found = self.services[key] = ServiceCounters(whole)
        return found

    def sum(self, field: str) -> int:
        """The sum of an integer field over the services."""
        return sum(getattr(service, field) for service in tuple(self.services.values()))

    # -- connecting

    def count_connect_attempt(self) -> None:
        """An attempt to connect begins."""
        self.connect_attempts += 1
        if self.whole is not None:
            self.whole.count_connect_attempt()

    def count_connect_failure(self, reason: str) -> None:
        """An attempt has failed."""
        count(self.connect_failures, reason)
        if self.whole is not None:
            self.whole.count_connect_failure(reason)

    def observe_connect(self, seconds: float) -> None:
        """An attempt has succeeded and took so long."""
        self.connect_seconds.observe(seconds)
        if self.whole is not None:
            self.whole.observe_connect(seconds)

    def count_reconnect(self, reason: str) -> None:
        """A connection is back that was lost for that reason."""
        count(self.reconnects, reason)
        if self.whole is not None:
            self.whole.count_reconnect(reason)

    def count_session_reset(self) -> None:
        """SESSION_RESET came."""
        self.session_resets += 1
        if self.whole is not None:
            self.whole.count_session_reset()

    def observe_ping(self, seconds: float) -> None:
        """A ping was answered after so long."""
        self.ping_seconds.observe(seconds)
        if self.whole is not None:
            self.whole.observe_ping(seconds)

    # -- flow

    def set_queue_bytes(self, queue_bytes: int) -> None:
        """So many payload bytes wait in front of the WebSocket."""
        change = queue_bytes - self.queue_bytes
        if change:
            self.queue_bytes = queue_bytes
            if self.whole is not None:
                self.whole.queue_bytes += change

    def observe_queue_wait(self, seconds: float) -> None:
        """A piece has left the queue and was in it so long."""
        self.queue_wait.observe(seconds)
        if self.whole is not None:
            self.whole.observe_queue_wait(seconds)

    def count_throttled(self, seconds: float) -> None:
        """The bandwidth allows nothing for so long."""
        self.throttled_seconds += seconds
        if self.whole is not None:
            self.whole.count_throttled(seconds)

    def count_dropped(self, kind: str) -> None:
        """A message that came was not acted on."""
        count(self.dropped_messages, kind)
        if self.whole is not None:
            self.whole.count_dropped(kind)

    def count_failed_send(self) -> None:
        """A message could not be sent."""
        self.failed_sends += 1
        if self.whole is not None:
            self.whole.count_failed_send()

    def count_stalled(self) -> None:
        """A connection is reset because its application takes no byte."""
        self.stalled_connections += 1
        if self.whole is not None:
            self.whole.count_stalled()

    def count_exhausted(self, operation: str) -> None:
        """An operation failed because no file descriptor or memory was left."""
        count(self.exhausted_operations, operation)
        if self.whole is not None:
            self.whole.count_exhausted(operation)

    def forget_active(self) -> None:
        """Nothing is active and nothing waits: the actors that knew of it are gone."""
        self.set_queue_bytes(0)
        for service in tuple(self.services.values()):
            service.forget_active()


def count(counts: dict[str, int], key: str) -> None:
    """Add one to `counts[key]`, or to `OTHER` if there are too many keys."""
    if key not in counts and len(counts) >= MAX_KEYS:
        key = OTHER
    counts[key] = counts.get(key, 0) + 1


class FleetCounters(Counters):
    """What the tunnels of one mode on one dispatcher come to.

    Args:
        mode: source or destination.
        service_label: service id -> the name under which it is counted; few names in all.
        lock: held while a tunnel changes its state.
    """

    __slots__ = ("_label", "_lock", "_members", "mode")

    connect_seconds: Histogram
    ping_seconds: Histogram
    queue_wait: Histogram

    def __init__(
        self, mode: str, service_label: Callable[[str], str], lock: threading.Lock
    ) -> None:
        super().__init__()
        self.mode = mode
        self.connect_seconds = Histogram(CONNECT_SECONDS_BOUNDS)
        self.ping_seconds = Histogram(PING_SECONDS_BOUNDS)
        self.queue_wait = Histogram(QUEUE_WAIT_SECONDS_BOUNDS)
        self._label = service_label
        self._lock = lock
        # In the order in which they entered: the first of a state has been in it longest.
        self._members: dict[TunnelState, dict[TunnelStats, None]] = {s: {} for s in TunnelState}

    def service(self, service_id: str) -> ServiceCounters:
        """The counters of all services with the label of `service_id`."""
        return super().service(self._label(service_id))

    # -- states

    def join(self, stats: TunnelStats) -> None:
        """A tunnel is open. Its caller holds the lock."""
        self._members[stats.state][stats] = None

    def leave(self, stats: TunnelStats) -> None:
        """A tunnel is closed: of what is, not was, nothing remains. Its caller holds the lock."""
        for members in self._members.values():
            members.pop(stats, None)

    def move(self, stats: TunnelStats, before: TunnelState) -> None:
        """A tunnel was in the state `before` and is in another now."""
        with self._lock:
            if stats in self._members[before]:
                del self._members[before][stats]
                self._members[stats.state][stats] = None

    def states(self) -> dict[TunnelState, tuple[int, float]]:
        """By state that a tunnel is in: how many are, and the first one's `since`.

        Its caller holds the lock.
        """
        return {
            state: (len(members), next(iter(members)).since)
            for state, members in self._members.items()
            if members
        }


class TunnelStats(Counters):
    """The counters of one tunnel, and how it is.

    Args:
        fleet: counts the same for all tunnels of its kind, and knows who is in which state.
    """

    __slots__ = (
        "_fleet",
        "channel_id",
        "connections",
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
        self.connections: dict[int, LiveConnection] = {}
        """Those that are open, by serial; at most `Limits.max_connections`."""
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
