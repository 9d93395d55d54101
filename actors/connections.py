"""The connections that a TunnelActor has, and what each has received and not yet delivered.

Pure bookkeeping: it says when the WebSocket must be held and when it may be read again (DESIGN.md
section 4), and which connections are to blame. It sends nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pykka import ActorRef

    from .api_stream import ApiStream
    from .config import Limits
    from .messages import ConnectionKey

__all__ = ["Connection", "ConnectionTable"]


class Connection:
    """One connection, as TunnelActor sees it."""

    __slots__ = (
        "backlog_bytes",
        "end_queued",
        "end_sent",
        "ended_by",
        "gone",
        "key",
        "progress_at",
        "reason",
        "remote_ended",
        "socket_actor",
        "stalled",
        "stream",
    )

    def __init__(self, key: ConnectionKey, stream: ActorRef[Any] | ApiStream, now: float) -> None:
        self.key = key
        self.stream = stream
        self.socket_actor: ActorRef[Any] | None = None
        self.backlog_bytes = 0
        self.progress_at = now
        self.end_queued = False
        """The local side has ended; its reset waits behind its bytes."""
        self.end_sent = False
        self.ended_by = ""
        """What ended it first: local, peer, or why its stream was stopped."""
        self.remote_ended = False
        self.gone = False
        """Its SocketActor has ended."""
        self.stalled = False
        """It was reset for taking no byte."""
        self.reason = ""


class ConnectionTable:
    """The connections of a tunnel by key."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connections: dict[ConnectionKey, Connection] = {}
        self._over: set[ConnectionKey] = set()
        self.backlog_bytes = 0

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections.values()))

    def get(self, key: ConnectionKey) -> Connection | None:
        """The connection, or None when it is over."""
        return self._connections.get(key)

    def add(self, key: ConnectionKey, stream: ActorRef[Any] | ApiStream, now: float) -> Connection:
        """Start to keep a connection."""
        connection = self._connections[key] = Connection(key, stream, now)
        return connection

    def remove(self, connection: Connection) -> None:
        """Forget a connection and its backlog."""
        self._connections.pop(connection.key, None)
        self._over.discard(connection.key)
        self.backlog_bytes -= connection.backlog_bytes
        connection.backlog_bytes = 0

    def of_stream(self, stream: ActorRef[Any] | ApiStream) -> list[Connection]:
        """The connections of one stream."""
        return [c for c in self._connections.values() if c.stream == stream]

    def received(self, connection: Connection, size_bytes: int, now: float) -> None:
        """Bytes arrived for it."""
        if connection.backlog_bytes == 0:
            connection.progress_at = now
        connection.backlog_bytes += size_bytes
        self.backlog_bytes += size_bytes
        if connection.backlog_bytes > self._limits.receive_backlog_bytes:
            self._over.add(connection.key)

    def delivered(self, connection: Connection, size_bytes: int, now: float) -> None:
        """Its local socket took bytes."""
        connection.backlog_bytes -= size_bytes
        self.backlog_bytes -= size_bytes
        connection.progress_at = now
        if connection.backlog_bytes <= self._limits.receive_backlog_bytes // 2:
            self._over.discard(connection.key)

    @property
    def must_pause(self) -> bool:
        """Whether the WebSocket must not be read for now."""
        return bool(self._over) or self.backlog_bytes > self._limits.tunnel_backlog_bytes

    def stalled(self, now: float) -> list[Connection]:
        """The connections that hold up the tunnel and have taken no byte for the stall timeout."""
        since = now - self._limits.stall_timeout_seconds
        suspects = self._over or {key for key, c in self._connections.items() if c.backlog_bytes}
        found = [self._connections[key] for key in suspects if key in self._connections]
        return [each for each in found if each.progress_at <= since and not each.stalled]
