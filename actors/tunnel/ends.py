"""How the connections of a tunnel end: towards the wire, towards their local ends, and in time.

Owns the steps of `EndPhase`: an end of a local application is queued behind its bytes, sent, and
over when the other direction is; an abort skips what waits. What an end means on the wire is the
session's word, and what the session then reports goes back to `Streams`.
docs/architecture.md section 7.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.actors import events
from tunnelfleet.proto import End, Event, Message, ProtocolVersion, TunnelError

from .connections import Connection, ConnectionTable, EndPhase
from .context import NO_API, ApiHandler
from .messages import HalfCloseEnded, RemoteEnded

if TYPE_CHECKING:
    from tunnelfleet.actors.kernel import Timer

    from .common import Common
    from .sender import WireSender


class EndHooks(NamedTuple):
    """What the ends of connections have others do.

    Attributes:
        schedule: sends the actor a message after some seconds.
        count_changed: the number of connections is another one.
        handle: acts on what the session says.
    """

    schedule: Callable[[float, Any], Timer]
    count_changed: Callable[[], None]
    handle: Callable[[Sequence[Event]], None]


class Ends:
    """The ends of a tunnel's connections.

    Args:
        common: what the parts of the tunnel have in common.
        sender: takes what is to leave.
        connections: all that there are.
        hooks: what others do.

    Attributes:
        api: what serves the client API.
    """

    __slots__ = (
        "_common",
        "_connections",
        "_hooks",
        "_sender",
        "_session",
        "_stats",
        "api",
    )

    def __init__(
        self, common: Common, sender: WireSender, connections: ConnectionTable, hooks: EndHooks
    ) -> None:
        self._common = common
        self._session = common.session
        self._stats = common.stats
        self._sender = sender
        self._connections = connections
        self._hooks: EndHooks | None = hooks
        self.api: ApiHandler = NO_API

    def advance(self, connection: Connection) -> None:
        """Something of the local end is over: what follows from it on the wire."""
        phase = connection.end_phase
        if phase is EndPhase.NONE:
            connection.end_phase = EndPhase.QUEUED
            self._sender.end(connection.key, time.monotonic())
        elif phase is EndPhase.SENT and not connection.is_orderly:
            # It had ended in good order, and now nobody is left to take what still comes.
            self.abort(connection, connection.reason)
        elif phase is EndPhase.SENT and connection.gone:
            self._session.leave_connection(*connection.key[:3])
            self._settle_end(connection)
        elif phase is EndPhase.OVER and connection.gone:
            self._connections.remove(connection)

    def encode_end(self, connection: Connection) -> list[Message]:
        """Make the end of a connection, which was queued behind its bytes, that of the wire."""
        key = connection.key
        connection.end_phase = EndPhase.SENT
        messages, session_events = self._session.reset_connection(
            key.service_id, key.connection_id, is_orderly=connection.is_orderly
        )
        self.api.on_end_taken(key, is_sent=bool(messages))
        if connection.gone:
            self._session.leave_connection(*key[:3])
        self._settle_end(connection)
        self._get_hooks().handle(session_events)
        return messages

    def _settle_end(self, connection: Connection) -> None:
        """After an end of this side: is there another direction left?"""
        if not self._session.is_known(*connection.key[:3]):
            # After an orderly end of the peer the local socket takes its time to write what came.
            end = connection.remote_end or End.BOTH
            self.release(connection, end if connection.is_orderly else End.CUT)
        else:
            self.watch_half_closed(connection)

    def watch_half_closed(self, connection: Connection) -> None:
        """Before V3 nobody may tell a half-closed end that the other one has died."""
        is_v3 = self._session.version is ProtocolVersion.V3
        if not is_v3 and connection.half_close_timer is None:
            seconds = self._common.limits.half_close_seconds
            message = HalfCloseEnded(connection.key)
            connection.half_close_timer = self._get_hooks().schedule(seconds, message)

    def half_close_ended(self, message: HalfCloseEnded) -> None:
        """A connection has been closed in one direction alone for long enough."""
        connection = self._connections.get(message.key)
        if connection is not None and connection.end_phase is not EndPhase.OVER:
            seconds = self._common.limits.half_close_seconds
            self.abort(connection, f"closed in one direction alone for {seconds:g} s")

    def abort_stalled(self, now: float) -> None:
        """Reset the connections that hold up the tunnel and take no byte."""
        for connection in self._connections.stalled(now):
            connection.stalled = True
            self._stats.count_stalled()
            connection.reason = "stalled: the local application took no byte"
            self.abort(connection, connection.reason)

    def abort(self, connection: Connection, reason: str) -> None:
        """End a connection now, whatever it has waiting, and not in good order."""
        key = connection.key
        connection.is_orderly = False
        connection.reason = connection.reason or reason
        connection.ended_by = connection.ended_by or "local"
        if connection.end_phase is EndPhase.OVER:
            # The peer may have used its ids again: only the socket here is left to be cut.
            connection.tell(RemoteEnded(key, End.CUT, reason))
            return
        self.discard(connection)
        messages, session_events = self._session.reset_connection(
            key.service_id, key.connection_id, is_orderly=False
        )
        for message in messages:
            self._sender.control(message)
        self.release(connection, End.CUT)
        self._get_hooks().handle(session_events)

    def discard(self, connection: Connection, error: TunnelError | None = None) -> None:
        """Throw away what a connection has waiting: nobody takes it any more.

        Args:
            connection: which.
            error: what the senders of its messages are told; None: that its stream is over.
        """
        connection.give_credit(self._sender.discard(connection.key).size_bytes)
        self.api.on_discarded(connection.key, error)

    def release(self, connection: Connection, end: End) -> None:
        """Let go of a connection that is over on the wire: its id and its place are free.

        Its socket still writes what came before, and says when it has.
        """
        if connection.end_phase is EndPhase.OVER:
            return
        if connection.half_close_timer is not None:
            connection.half_close_timer.cancel()
        oldest = self._connections.release(connection)
        if oldest is not None:
            text = "too many local connections are slow to end"
            oldest.tell(RemoteEnded(oldest.key, End.CUT, text))
        if connection.gone:
            self._connections.remove(connection)
        else:
            reason = connection.reason or "closed by the peer"
            connection.tell(RemoteEnded(connection.key, end, reason))
        ended_by = connection.ended_by or "local"
        connection.counters.count_connection_ended(ended_by)
        self.tell_closed(connection, connection.reason, ended_by)
        self._get_hooks().count_changed()

    def tell_closed(self, connection: Connection, reason: str, ended_by: str) -> None:
        """Say that a connection has ended, and what it carried."""
        live = connection.live
        self._stats.connections.pop(live.serial, None)
        self._common.publish(
            events.ConnectionClosed(
                self._common.config.name,
                *connection.key[:3],
                reason,
                ended_by,
                live.serial,
                live.peer,
                live.user,
                live.opened_at,
                live.sent_bytes,
                live.received_bytes,
                self._stats.channel_id,
            )
        )

    def let_go(self) -> None:
        """Keep nothing that leads back to the actor, which has ended."""
        self.api = NO_API
        self._hooks = None

    def _get_hooks(self) -> EndHooks:
        assert self._hooks is not None
        return self._hooks
