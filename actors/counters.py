"""How tunnels count: the counters of one tunnel, their sums over a fleet, and how a tunnel is.

Owns every number of a tunnel that a hot path touches. Each has one writer, an actor on the tunnel's
dispatcher, so a byte costs no lock; a scrape reads sums. The object of a tunnel outlives restarts
of its actors, so that no counter goes back while the tunnel exists.

A counter is one field of `Counters` or `ServiceCounters`; `kernel/counting.py` says what follows
from it.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from tunnelfleet.proto import MAX_REASON_CHARACTERS, DropReason, StopCause, printable

from .events import LiveConnection, TunnelState
from .kernel.counting import (
    OTHER,
    count,
    counter,
    counter_by,
    declared,
    gauge,
    histogram,
)
from .kernel.moments import UnixTime


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

    def observe_zero(self) -> None:
        """Count 0, which most values are of what seldom waits."""
        self.count += 1


class Histogram(Summary):
    """A summary that also counts the values by size.

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
        self.count += 1
        self.total += value
        self.counts[bisect_left(self.bounds, value)] += 1

    def observe_zero(self) -> None:
        """Count 0 in the first bucket."""
        self.count += 1
        self.counts[0] += 1


TRAFFIC: Final = "Traffic"


@dataclass(slots=True, eq=False, repr=False)
class ServiceCounters:
    """The counters of a service.

    `sent` is local socket to WebSocket, `received` the other way; bytes are DATA payload bytes.

    Args:
        whole: what counts the same for the whole fleet.
    """

    whole: Self | None = None
    sent_bytes: int = counter(
        "DATA payload bytes sent: from local sockets to the WebSocket.",
        TRAFFIC,
        row="DATA payload bytes sent.",
    )
    received_bytes: int = counter(
        "DATA payload bytes received: from the WebSocket, for local sockets.",
        TRAFFIC,
        row="DATA payload bytes received.",
    )
    sent_messages: int = counter("DATA messages sent.", TRAFFIC)
    received_messages: int = counter("DATA messages received.", TRAFFIC)
    streams_active: int = gauge("Streams that are active.", TRAFFIC, row="Streams that are active.")
    streams_opened: int = counter("Streams opened.", TRAFFIC)
    streams_ended: dict[str, int] = counter_by(
        "reason",
        "Streams ended, by reason: peer_reset, local_reset, replaced, session_reset, disconnected.",
        TRAFFIC,
        known=tuple(cause.value for cause in StopCause),
    )
    connections_active: int = gauge(
        "Connections that are open.", TRAFFIC, row="Connections that are open."
    )
    connections_opened: int = counter("Connections opened.", TRAFFIC, row="Connections opened.")
    connections_ended: dict[str, int] = counter_by(
        "reason",
        "Connections ended, by what ended them first: local, peer, disconnected, session_reset, "
        "replaced.",
        TRAFFIC,
        known=("disconnected", "local", "peer", "session_reset"),
    )

    def count_sent(self, payload_bytes: int, messages: int = 1) -> None:
        """DATA messages with so many bytes were handed to the WebSocket."""
        each: ServiceCounters | None = self
        while each is not None:
            each.sent_bytes += payload_bytes
            each.sent_messages += messages
            each = each.whole

    def count_received(self, payload_bytes: int, messages: int = 1) -> None:
        """DATA messages with so many bytes came."""
        each: ServiceCounters | None = self
        while each is not None:
            each.received_bytes += payload_bytes
            each.received_messages += messages
            each = each.whole

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
        """Set what is active to zero: the actor that would have counted the ends is gone."""
        if self.whole is not None and (self.streams_active or self.connections_active):
            self.whole.streams_active -= self.streams_active
            self.whole.connections_active -= self.connections_active
        self.streams_active = self.connections_active = 0


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
TUNNELS: Final = "Tunnels"
FLOW: Final = "Flow control"


@dataclass(slots=True, eq=False, repr=False)
class Counters:
    """The counters of a tunnel or of many.

    Args:
        whole: what counts the same for the whole fleet.
    """

    whole: Counters | None = None
    services: dict[str, ServiceCounters] = field(default_factory=dict, init=False)

    # -- connecting

    connect_attempts: int = counter("Attempts to connect to the service.", TUNNELS)
    connect_failures: dict[str, int] = counter_by(
        "reason",
        "Attempts that failed, by reason: http_403 and other well-known statuses, http_3xx and "
        "other classes, http_other, connect_failed, connect_timeout, suspended, crashed.",
        TUNNELS,
        known=("connect_failed", "connect_timeout", "crashed", "http_403", "suspended"),
    )
    connect_seconds: Summary = histogram(
        Summary,
        "Time from the permit to connect to the WebSocket upgrade, of the attempts that succeeded.",
        TUNNELS,
        metric="connect_duration_seconds",
        bounds=CONNECT_SECONDS_BOUNDS,
    )
    reconnects: dict[str, int] = counter_by(
        "reason",
        "Connections that came back after they were lost, by the reason of the loss: closed, lost, "
        "ping_timeout, protocol_error, announce_timeout, token_replaced, crashed.",
        TUNNELS,
        known=(
            "announce_timeout",
            "closed",
            "crashed",
            "lost",
            "ping_timeout",
            "protocol_error",
            "token_replaced",
        ),
        row="Connections that came back.",
    )
    session_resets: int = counter(
        "SESSION_RESET messages received.", TUNNELS, row="SESSION_RESET messages received."
    )
    ping_seconds: Summary = histogram(
        Summary,
        "Time until the service answered a ping.",
        TUNNELS,
        metric="ping_round_trip_seconds",
        bounds=PING_SECONDS_BOUNDS,
        row="Time until a ping's answer.",
    )

    # -- flow

    queue_bytes: int = gauge(
        "Payload bytes that wait in front of the WebSockets.",
        FLOW,
        row="Payload bytes waiting for the WebSocket.",
    )
    queue_wait: Summary = histogram(
        Summary,
        "How long each piece waited in the fair queue until it was its connection's turn.",
        FLOW,
        metric="queue_wait_seconds",
        bounds=QUEUE_WAIT_SECONDS_BOUNDS,
        row="Wait of each piece in the queue.",
    )
    throttled_seconds: float = counter(
        "Time spent waiting because of `bandwidth`.", FLOW, row="Time waited for `bandwidth`."
    )
    paced_seconds: float = counter(
        "Time spent waiting because as much was in flight as the link carries without a queue.",
        FLOW,
    )
    standing: Summary = histogram(
        Summary,
        "How long bytes stood in a queue of the service, as the answers to pings tell.",
        FLOW,
        metric="standing_seconds",
        bounds=QUEUE_WAIT_SECONDS_BOUNDS,
    )
    link_rate: int = gauge(
        "Bytes a second of the links that hold back their tunnels, as the answers to pings tell.",
        FLOW,
        metric="link_rate_bytes_per_second",
        row="Bytes a second of a link that holds back its tunnel.",
    )
    dropped_messages: dict[str, int] = counter_by(
        "kind",
        "Messages received and not acted on, by kind: stale_stream, unknown_connection, "
        "unknown_service, duplicate_reset, duplicate_connection, too_many_streams, "
        "too_many_connections, refused_start, local_end_gone.",
        FLOW,
        known=(*(reason.value for reason in DropReason), "local_end_gone", "refused_start"),
    )
    exhausted_operations: dict[str, int] = counter_by(
        "operation",
        "Operations on local sockets that failed because the process or the system had no file "
        "descriptor or memory left, by operation: local_connect, accept, listen.",
        FLOW,
        known=("accept", "listen", "local_connect"),
    )
    failed_listens: int = counter(
        "Tries to listen for a service that failed, and listeners that broke. Each is tried again, "
        "later each time; until then nobody reaches the service.",
        FLOW,
    )
    failed_sends: int = counter("Messages that could not be sent: their stream was over.", FLOW)
    stalled_connections: int = counter(
        "Connections reset because the local application took no byte while others waited.", FLOW
    )

    def keep_buckets(self) -> None:
        """Count distributions by size too, from now on: before anything was counted."""
        for each in declared(Counters):
            if each.bounds:
                setattr(self, each.name, Histogram(each.bounds))

    def add(self, name: str, number: float = 1) -> None:
        """Add to the counter of that name, of this tunnel and of its fleet."""
        setattr(self, name, getattr(self, name) + number)
        if self.whole is not None:
            self.whole.add(name, number)

    def add_by(self, name: str, reason: str) -> None:
        """Add one to the counter of that name, for a reason, of this tunnel and of its fleet."""
        count(getattr(self, name), reason)
        if self.whole is not None:
            self.whole.add_by(name, reason)

    def observe(self, name: str, value: float) -> None:
        """Add a value to the distribution of that name, of this tunnel and of its fleet."""
        getattr(self, name).observe(value)
        if self.whole is not None:
            self.whole.observe(name, value)

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
        """Return the sum of an integer field over the services."""
        return sum(getattr(service, field) for service in tuple(self.services.values()))

    # What the actors of a tunnel call. What happens for every piece names its attribute by itself.

    def count_connect_attempt(self) -> None:
        """An attempt to connect begins."""
        self.add("connect_attempts")

    def count_connect_failure(self, reason: str) -> None:
        """An attempt has failed."""
        self.add_by("connect_failures", reason)

    def observe_connect(self, seconds: float) -> None:
        """An attempt has succeeded and took so long."""
        self.observe("connect_seconds", seconds)

    def count_reconnect(self, reason: str) -> None:
        """A connection is back that was lost for that reason."""
        self.add_by("reconnects", reason)

    def count_session_reset(self) -> None:
        """SESSION_RESET came."""
        self.add("session_resets")

    def observe_ping(self, seconds: float) -> None:
        """A ping was answered after so long."""
        self.observe("ping_seconds", seconds)

    def count_throttled(self, seconds: float) -> None:
        """The bandwidth allows nothing for so long."""
        self.add("throttled_seconds", seconds)

    def count_paced(self, seconds: float) -> None:
        """So long nothing was sent, because as much was in flight as the link carries."""
        self.add("paced_seconds", seconds)

    def observe_standing(self, seconds: float) -> None:
        """Bytes stood so long in a queue of the service."""
        self.observe("standing", seconds)

    def set_link_rate(self, bytes_per_second: int) -> None:
        """The link carries so much, or 0: it does not hold back its tunnel."""
        change = bytes_per_second - self.link_rate
        if change:
            self.link_rate = bytes_per_second
            if self.whole is not None:
                self.whole.link_rate += change

    def count_dropped(self, kind: str) -> None:
        """A message that came was not acted on."""
        self.add_by("dropped_messages", kind)

    def count_failed_listen(self) -> None:
        """A service cannot be listened for."""
        self.add("failed_listens")

    def count_failed_send(self) -> None:
        """A message could not be sent."""
        self.add("failed_sends")

    def count_stalled(self) -> None:
        """A connection is reset because its application takes no byte."""
        self.add("stalled_connections")

    def count_exhausted(self, operation: str) -> None:
        """An operation failed because no file descriptor or memory was left."""
        self.add_by("exhausted_operations", operation)

    def set_queue_bytes(self, queue_bytes: int) -> None:
        """Note how many payload bytes wait in front of the WebSocket."""
        change = queue_bytes - self.queue_bytes
        if change:
            self.queue_bytes = queue_bytes
            if self.whole is not None:
                self.whole.queue_bytes += change

    def observe_queue_wait(self, seconds: float) -> None:
        """A piece has left the queue and was in it so long."""
        each: Counters | None = self
        while each is not None:
            each.queue_wait.observe(seconds)
            each = each.whole

    def count_unqueued(self) -> None:
        """A piece has left that was in no queue."""
        each: Counters | None = self
        while each is not None:
            each.queue_wait.observe_zero()
            each = each.whole

    def forget_active(self) -> None:
        """Set what is active or waits to zero: the actors that knew of it are gone."""
        self.set_queue_bytes(0)
        self.set_link_rate(0)
        for service in tuple(self.services.values()):
            service.forget_active()


class FleetCounters(Counters):
    """What the tunnels of one mode on one dispatcher come to.

    Args:
        mode: source or destination.
        service_label: service id -> the name under which it is counted; few names in all.
        lock: held while a tunnel changes its state.
    """

    __slots__ = ("_label", "_lock", "_members", "mode")

    def __init__(
        self, mode: str, service_label: Callable[[str], str], lock: threading.Lock
    ) -> None:
        super().__init__()
        self.mode = mode
        self.keep_buckets()
        self._label = service_label
        self._lock = lock
        # In the order in which they entered: the first of a state has been in it longest.
        self._members: dict[TunnelState, dict[TunnelStats, None]] = {s: {} for s in TunnelState}

    def service(self, service_id: str) -> ServiceCounters:
        """Return the counters of all services with the label of `service_id`."""
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
        "_since",
        "channel_id",
        "connections",
        "last_event",
        "listening",
        "reason",
        "service_ids",
        "state",
    )
    since = UnixTime()
    """When it entered its state, in seconds of the Unix epoch."""

    def __init__(self, fleet: FleetCounters | None = None) -> None:
        super().__init__(fleet)
        self._fleet = fleet
        self.state = TunnelState.CONNECTING
        self.reason = ""
        self.since = time.time()
        self.last_event = "opened"
        self.channel_id = ""
        self.connections: dict[int, LiveConnection] = {}
        """The open connections by serial; at most `Limits.max_connections`."""
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
        # The state last: whoever waits for it, on another thread, finds the reason there.
        self.reason = reason
        self.state = state
        if self._fleet is not None and state is not before:
            self._fleet.move(self, before)
        return True
