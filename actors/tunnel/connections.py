"""The connections that a TunnelActor has, and the way of their bytes.

Bytes that arrive go to the connection's local end, what a local end has read becomes a message of
the wire, and credit goes back for what has left. Owns what each connection has received and not yet
delivered, and so says when the link must be held and when it may be read again
(docs/architecture.md section 6), and which connections are to blame. How connections begin and end
is a matter of `streams` and `ends`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING

from tunnelfleet.actors.events import LiveConnection
from tunnelfleet.actors.kernel.few import Few, including, without
from tunnelfleet.proto import DataBurst, DataReceived, End, LocalProtocolError, Message, Session

from .context import NO_API, ApiHandler, StreamEnd
from .messages import (
    TAKEN_UNTOLD_BYTES,
    BytesSent,
    ConnectionKey,
    Deliver,
    RemoteEnded,
    StopReadingLocal,
)

if TYPE_CHECKING:
    from tunnelfleet.actors.config import Limits
    from tunnelfleet.actors.counters import ServiceCounters, TunnelStats
    from tunnelfleet.actors.kernel import Timer

    from .sender import Credit


class EndPhase(Enum):
    """How far the end of a connection from this side has come."""

    NONE = auto()
    QUEUED = auto()
    """The local end is there; its reset waits behind its bytes."""
    SENT = auto()
    OVER = auto()
    """Both directions are over on the wire: its id is free, its socket may have bytes to write."""


class Connection:
    """One connection, as TunnelActor sees it."""

    __slots__ = (
        "_credit_bytes",
        "_early",
        "_owed_bytes",
        "_receiver",
        "backlog_bytes",
        "counters",
        "end_phase",
        "ended_by",
        "gone",
        "half_close_timer",
        "has_own_backlog",
        "is_orderly",
        "key",
        "live",
        "progress_at",
        "reason",
        "remote_end",
        "stalled",
        "stream",
    )

    def __init__(
        self,
        key: ConnectionKey,
        stream: StreamEnd,
        counters: ServiceCounters,
        now: float,
        *,
        has_own_backlog: bool,
    ) -> None:
        self.key = key
        self.stream = stream
        self.counters = counters
        """Those of its service."""
        self.live = LiveConnection(*key)
        """What other threads see of it."""
        self.has_own_backlog = has_own_backlog
        """What arrives is not counted here: its stream holds the tunnel back by itself."""
        self._receiver: StreamEnd | None = stream if has_own_backlog else None
        self._credit_bytes = 1
        self._owed_bytes = 0
        """Credit that waits to become `_credit_bytes`."""
        self._early: list[Deliver | RemoteEnded | StopReadingLocal] = []
        """What came before there was anybody to take it."""
        self.backlog_bytes = 0
        self.progress_at = now
        self.end_phase = EndPhase.NONE
        self.is_orderly = True
        """Whether the local end, once there is one, is one in good order."""
        self.remote_end: End | None = None
        """The peer's end, if it came first and was one in good order."""
        self.half_close_timer: Timer | None = None
        self.ended_by = ""
        """What ended it first: local, peer, or why its stream was stopped."""
        self.gone = False
        """Its SocketActor has ended: see `leave`."""
        self.stalled = False
        """It was reset for taking no byte."""
        self.reason = ""

    def attach(self, receiver: StreamEnd, credit_bytes: int = 1) -> None:
        """Its SocketActor is there: it takes what has come so far, and from now on.

        Args:
            receiver: the actor.
            credit_bytes: less credit than that may wait.
        """
        self._receiver = receiver
        self._credit_bytes = credit_bytes
        early, self._early = self._early, []
        for message in early:
            receiver.tell(message)

    def leave(self) -> None:
        """Its SocketActor has ended: nobody takes anything any more."""
        self.gone = True
        self._receiver = None
        self._early.clear()

    def tell(self, message: Deliver | RemoteEnded | StopReadingLocal) -> None:
        """Tell its local end, as soon as there is one."""
        if self._receiver is not None:
            self._receiver.tell(message)
        elif not self.gone:
            self._early.append(message)

    def give_credit(self, size_bytes: int) -> None:
        """So many of its bytes have left, or were thrown away; a user's have a credit of their own.

        Bytes come from a SocketActor that is there, so there is never credit for one that is not.
        """
        if self._receiver is None or not size_bytes or self.has_own_backlog:
            return
        # A message for each keystroke would only say what the next one says as well.
        self._owed_bytes += size_bytes
        if self._owed_bytes >= self._credit_bytes:
            owed_bytes, self._owed_bytes = self._owed_bytes, 0
            self._receiver.tell(BytesSent(owed_bytes))


class ConnectionTable:
    """The connections of a tunnel.

    Args:
        limits: of the tunnel.
        session: makes what is sent messages of the wire.
        stats: counts bytes, and what cannot be sent or taken.

    Attributes:
        by_key: all of which anything is left.
        backlog_bytes: what has come for them and was not taken.
        api: what serves the client API.
    """

    def __init__(self, limits: Limits, session: Session, stats: TunnelStats) -> None:
        self._limits = limits
        self._session = session
        self._stats = stats
        self.api: ApiHandler = NO_API
        self.by_key: dict[ConnectionKey, Connection] = {}
        self._active: dict[tuple[str, int, int], Connection] = {}
        self._lingering: dict[ConnectionKey, Connection] = {}
        self._by_stream: dict[StreamEnd, dict[ConnectionKey, Connection]] = {}
        self._over: Few[ConnectionKey] = ()
        """Those of which more waits than their limit."""
        self.backlog_bytes = 0

    def __len__(self) -> int:
        """The number of connections that are not over on the wire."""
        return len(self._active)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._active.values()))

    @property
    def undelivered_bytes(self) -> int:
        """What connections that are over on the wire have still to write to their sockets."""
        return sum(each.backlog_bytes for each in self._lingering.values())

    def get(self, key: ConnectionKey) -> Connection | None:
        """The connection, or None when nothing of it is left."""
        return self.by_key.get(key)

    def find(self, service_id: str, stream_id: int, connection_id: int) -> Connection | None:
        """The connection that has these ids on the wire."""
        return self._active.get((service_id, stream_id, connection_id))

    def add(
        self,
        key: ConnectionKey,
        stream: StreamEnd,
        counters: ServiceCounters,
        now: float,
        *,
        has_own_backlog: bool = False,
    ) -> Connection:
        """Start to keep a connection."""
        connection = Connection(key, stream, counters, now, has_own_backlog=has_own_backlog)
        self.by_key[key] = connection
        self._active[key[:3]] = connection
        self._by_stream.setdefault(stream, {})[key] = connection
        return connection

    def release(self, connection: Connection) -> Connection | None:
        """Keep a connection that is over on the wire only until its socket has written all.

        Returns:
            The one that has been kept so for longest, when they are more than the limit.
        """
        if self._active.get(connection.key[:3]) is connection:
            del self._active[connection.key[:3]]
        connection.end_phase = EndPhase.OVER
        self._lingering[connection.key] = connection
        if len(self._lingering) <= self._limits.max_lingering_connections:
            return None
        return self._lingering.pop(next(iter(self._lingering)))

    def remove(self, connection: Connection) -> None:
        """Forget a connection and its backlog."""
        self.by_key.pop(connection.key, None)
        self._lingering.pop(connection.key, None)
        if self._active.get(connection.key[:3]) is connection:
            del self._active[connection.key[:3]]
        siblings = self._by_stream.get(connection.stream, {})
        siblings.pop(connection.key, None)
        if not siblings:
            self._by_stream.pop(connection.stream, None)
        self._over = without(self._over, connection.key)
        self.backlog_bytes -= connection.backlog_bytes
        connection.backlog_bytes = 0

    def of_stream(self, stream: StreamEnd) -> list[Connection]:
        """The connections of one stream that are not over on the wire."""
        mine = self._by_stream.get(stream, {}).values()
        return [each for each in mine if each.end_phase is not EndPhase.OVER]

    def all_of_stream(self, stream: StreamEnd) -> list[Connection]:
        """The connections of one stream, those too whose sockets are still written to."""
        return list(self._by_stream.get(stream, {}).values())

    # -- bytes

    def deliver(self, event: DataReceived, more: Sequence[bytes] = ()) -> None:
        """Hand bytes that arrived to the local end of their connection.

        Args:
            event: says whose they are.
            more: payloads of the DATA behind it on the same connection.
        """
        connection, payload = self._active.get(event[:3]), event.payload
        size_bytes, number = len(payload), 1
        if more:
            size_bytes, number = size_bytes + sum(map(len, more)), 1 + len(more)
        if connection is None or connection.gone:
            self._stats.service(event.service_id).count_received(size_bytes, number)
            self._stats.count_dropped("local_end_gone")
            return
        connection.counters.count_received(size_bytes, number)
        connection.live.received_bytes += size_bytes
        if connection.has_own_backlog:
            connection.tell(Deliver(connection.key, payload, more))
            return
        self.received(connection, size_bytes, time.monotonic())
        # A byte stream has no borders.
        data = b"".join((payload, *more)) if more else payload
        connection.tell(Deliver(connection.key, data))

    def encode(
        self, connection: Connection, payload: bytes, more: Sequence[bytes] = ()
    ) -> Message | DataBurst | None:
        """Make bytes that a connection's local end has read the message of the wire.

        Args:
            connection: whose bytes they are.
            payload: the bytes.
            more: payloads of messages that leave behind it, in a burst.

        Returns:
            None if they cannot be sent any more: whoever gave them has the credit back.
        """
        key, size_bytes, number = connection.key, len(payload), 1
        if more:
            size_bytes, number = size_bytes + sum(map(len, more)), 1 + len(more)
        try:
            message = self._session.data(key.service_id, key.connection_id, payload)
        except LocalProtocolError as error:
            self._stats.count_failed_send()
            connection.give_credit(size_bytes)
            self.api.on_unsendable(key, error, number)
            return None
        if connection.has_own_backlog:
            self.api.on_taken(key, number)
        connection.live.sent_bytes += size_bytes
        connection.counters.count_sent(size_bytes, number)
        return DataBurst(message, [*more]) if more else message

    def give_credit(self, items: list[Credit]) -> None:
        """Tell local ends what has left for the kernel, or was thrown away."""
        for key, size_bytes in items:
            connection = self.by_key.get(key)
            if connection is not None:
                connection.give_credit(size_bytes)

    # -- what waits for local ends

    def received(self, connection: Connection, size_bytes: int, now: float) -> None:
        """Bytes arrived for it."""
        if connection.backlog_bytes < TAKEN_UNTOLD_BYTES:
            # What is there may have been taken long ago: its application's time begins now.
            connection.progress_at = now
        connection.backlog_bytes += size_bytes
        self.backlog_bytes += size_bytes
        if connection.backlog_bytes > self._limits.receive_backlog_bytes:
            self._over = including(self._over, connection.key)

    def delivered(self, connection: Connection, size_bytes: int, now: float) -> None:
        """Its local socket took bytes."""
        connection.backlog_bytes -= size_bytes
        self.backlog_bytes -= size_bytes
        connection.progress_at = now
        if self._over and connection.backlog_bytes <= self._limits.receive_backlog_bytes // 2:
            self._over = without(self._over, connection.key)

    def excuse(self, seconds: float, now: float) -> None:
        """So long this process stood still, and offered nobody any bytes."""
        for connection in self.by_key.values():
            connection.progress_at = min(now, connection.progress_at + seconds)

    @property
    def must_pause(self) -> bool:
        """Whether the WebSocket must not be read for now."""
        if self._over:
            return True
        excess_bytes = self.backlog_bytes - self._limits.tunnel_backlog_bytes
        # So much may have been taken already: nobody would say so if nothing more came.
        return excess_bytes > 0 and excess_bytes > TAKEN_UNTOLD_BYTES * len(self.by_key)

    def stalled(self, now: float) -> list[Connection]:
        """The connections that hold up the tunnel and have taken no byte for the stall timeout."""
        since = now - self._limits.stall_timeout_seconds
        # What the others have may have been taken, and not be told yet.
        suspects = self._over or {
            key for key, c in self.by_key.items() if c.backlog_bytes >= TAKEN_UNTOLD_BYTES
        }
        found = [self.by_key[key] for key in suspects if key in self.by_key]
        return [each for each in found if each.progress_at <= since and not each.stalled]
