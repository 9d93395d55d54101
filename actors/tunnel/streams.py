"""The layer of TunnelActor between the session and the streams.

What arrives becomes messages to StreamActors, what local applications do becomes commands of the
session. docs/architecture.md section 5.

Longer than other modules: both change the same connections, so they are read together.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, ClassVar

from tunnelfleet.actors import events
from tunnelfleet.actors.config import ANY_SERVICE, ApiService, NoListener
from tunnelfleet.actors.kernel import ChildSpec, Restart, StartChild
from tunnelfleet.actors.net.socket_io import abort_quietly
from tunnelfleet.proto import (
    AbnormalEnd,
    Answer,
    ConnectionReset,
    ConnectionStarted,
    DataReceived,
    End,
    LocalProtocolError,
    MessageDropped,
    NotConnected,
    ProtocolVersion,
    RemoteProtocolError,
    SessionReset,
    StopCause,
    StreamStarted,
    StreamStopped,
    TooManyConnections,
    TunnelClosed,
    TunnelError,
)

from .connections import EndPhase
from .core import StreamRoute
from .messages import (
    Accepted,
    Attach,
    ChildEnded,
    ConnectionKey,
    Deliver,
    EndTold,
    HandOver,
    LocalClosed,
    LocalDataRead,
    LocalReadEnded,
    OpenLocal,
    OutboxFilled,
    Received,
    RemoteEnded,
    StopStream,
)
from .sender import Credit
from .wire import TunnelWire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pykka import ActorRef

    from tunnelfleet.actors.addresses import Address
    from tunnelfleet.actors.kernel.actor import Handlers
    from tunnelfleet.proto import Event, Opened

    from .connections import Connection

__all__ = [
    "TunnelStreams",
]


STREAM_SHUTDOWN_SECONDS = 2.0
_CUT_BY = {
    StopCause.PEER_RESET: "the peer reset the stream",
    StopCause.REPLACED: "a new stream took its place",
    StopCause.SESSION_RESET: "the service reset the session",
    StopCause.DISCONNECTED: "the tunnel lost its connection",
}
"""What a user is told of a stream that ended in no good order."""
_ENDED_BY = {StopCause.PEER_RESET: "peer", StopCause.LOCAL_RESET: "local"}
"""Who ended a connection whose stream was reset; other causes stand for themselves."""


class TunnelStreams(TunnelWire):
    """Routes between the session and the streams."""

    # -- from the wire

    def _on_received(self, message: Received) -> None:
        if message.epoch != self._epoch or self._websocket is None or self._abandoned:
            return
        if self._announced:
            self._mark_trial.heard()
        try:
            for item in message.messages:
                self._handle_events(self._session.receive(item))
        except RemoteProtocolError as error:
            self._drop_connection("protocol_error", str(error))
            return
        self._check_backlog()
        self._pump()

    def _handle_events(self, session_events: Sequence[Event]) -> None:
        for event in session_events:
            self.EVENTS[type(event)](self, event)

    def _on_data(self, event: DataReceived) -> None:
        service_id, stream_id, connection_id, payload = event
        self._stats.service(service_id).count_received(len(payload))
        connection = self._connections.find(service_id, stream_id, connection_id)
        if connection is None or connection.gone:
            self._stats.count_dropped("local_end_gone")
            return
        if not connection.has_own_backlog:
            self._connections.received(connection, len(payload), time.monotonic())
        connection.live.received_bytes += len(payload)
        connection.tell(Deliver(connection.key, payload))

    def _on_stream_started(self, event: StreamStarted) -> None:
        address = self._target(event.service_id)
        if address is None or not self._takes_connections():
            self._tell_refused(event)
            self._refuse(event)
            return
        stream = self._start_stream(event.service_id, event.stream_id, address)
        self._open(event.service_id, event.stream_id, event.connection_id, stream, None)

    def _on_connection_started(self, event: ConnectionStarted) -> None:
        ids = (event.service_id, event.stream_id, event.connection_id)
        stream = self._streams.get((event.service_id, event.stream_id))
        if stream is None or not self._takes_connections():
            self._tell_refused(event)
            self._refuse(event)
            return
        self._open(*ids, stream, None)

    def _tell_refused(self, event: StreamStarted | ConnectionStarted) -> None:
        if self._api is not None and self._api.serves(event.service_id):
            is_stream = isinstance(event, StreamStarted)
            self._api.tell_refused(event.service_id, event.connection_id, is_stream=is_stream)

    def _target(self, service_id: str) -> Address | ApiService | None:
        services = self._config.services or {}
        target = services.get(service_id) or services.get(ANY_SERVICE)
        return None if isinstance(target, NoListener) else target

    def _refuse(self, event: StreamStarted | ConnectionStarted) -> None:
        messages, session_events = self._session.reset_connection(
            event.service_id, event.connection_id, is_orderly=False
        )
        for message in messages:
            self._wire.control(message)
        self._handle_events(session_events)
        self._stats.count_dropped("refused_start")

    def _on_connection_reset(self, event: ConnectionReset) -> None:
        connection = self._find(event.service_id, event.stream_id, event.connection_id)
        if connection is None:
            return
        connection.ended_by = connection.ended_by or "peer"
        if event.end is not End.ORDERLY:
            self._discard(connection)
            if event.end is End.CUT:
                connection.reason = connection.reason or "reset by the peer"
            self._release(connection, event.end)
            return
        connection.remote_end = End.ORDERLY
        self._tell_end(connection, End.ORDERLY, "closed by the peer")
        if self._session.is_known(*connection.key[:3]):
            self._watch_half_closed(connection)
        else:
            self._release(connection, End.ORDERLY)

    @staticmethod
    def _tell_end(connection: Connection, end: End, reason: str) -> None:
        connection.tell(RemoteEnded(connection.key, end, reason))

    def _on_stream_stopped(self, event: StreamStopped) -> None:
        stream = self._streams.pop((event.service_id, event.stream_id), None)
        if stream is None:
            return
        self._stats.service(event.service_id).count_stream_ended(event.cause.value)
        # First, as it is all that a user is told; its connections have ended with it.
        stream.ref.tell(StopStream(self._abnormal_end(event.cause)))
        for connection in self._connections.of_stream(stream.ref):
            connection.reason = connection.reason or event.cause.value
            connection.ended_by = connection.ended_by or _ENDED_BY.get(
                event.cause, event.cause.value
            )
            self._discard(connection)
            self._release(connection, End.CUT)
        self._publish(
            events.StreamClosed(
                self._config.name, event.service_id, event.stream_id, event.cause.value
            )
        )

    def _abnormal_end(self, cause: StopCause) -> AbnormalEnd | None:
        """What a user is told of the end of a stream, if it was not one in good order."""
        is_v3 = self._session.version is ProtocolVersion.V3
        if cause is StopCause.PEER_RESET and not is_v3:
            # The end of its connection has said how it ended.
            return None
        if cause is StopCause.DISCONNECTED and self._quiesce is not None:
            return None
        text = _CUT_BY.get(cause)
        return None if text is None else AbnormalEnd(text)

    def _on_session_reset(self, _event: SessionReset) -> None:
        self._stats.count_session_reset()
        self._stats.last_event = "session reset"
        self._publish(events.SessionWasReset(self._config.name))
        if self._api is not None:
            self._api.tell_session_reset()

    def _on_reply(self, event: Answer) -> None:
        self._wire.control(event.message)
        if event.message.ignorable:
            self._mark_trial.sent(time.monotonic())

    def _on_dropped(self, event: MessageDropped) -> None:
        self._stats.count_dropped(event.reason.value)

    # -- local applications

    def _on_accepted(self, message: Accepted) -> None:
        if not self._announced or not self._takes_connections():
            abort_quietly(message.sock)
            return
        try:
            self._carry(message)
        except LocalProtocolError as error:
            abort_quietly(message.sock)
            self._stats.last_event = str(error)

    def _on_hand_over(self, message: HandOver) -> None:
        reply = self.defer_reply()
        try:
            self._check_takes(message.service_id)
            key = self._carry(message, message.greeting)
        except TunnelError as error:
            reply.fail(error)
        else:
            reply.set(key)

    def _check_takes(self, service_id: str) -> None:
        if self._draining or self._quiesce is not None:
            raise TunnelClosed("the tunnel is stopping: it takes no new connections")
        if not self._announced:
            raise NotConnected
        if not self._takes_connections():
            raise TooManyConnections(service_id, self._limits.max_connections)

    def _carry(self, accepted: Accepted | HandOver, greeting: bytes = b"") -> ConnectionKey:
        """Open a connection for a socket, which is the tunnel's unless this raises."""
        opened = self._session.open_connection(accepted.service_id)
        # Before the stream has the socket, and may write to it. A kernel that has been given
        # nothing yet takes it whole; that the socket is broken shows when it is read.
        if greeting:
            with contextlib.suppress(OSError):
                accepted.sock.send(greeting)
        self._handle_events(opened.events)
        for item in opened.messages[:-1]:
            self._wire.control(item)
        stream = self._streams.get((opened.service_id, opened.stream_id))
        if stream is None:
            stream = self._start_stream(opened.service_id, opened.stream_id, None)
        ids = (opened.service_id, opened.stream_id, opened.connection_id)
        key = self._open(*ids, stream, accepted)
        self._send_start(opened.messages[-1], key)
        self._pump()
        return key

    def _start_stream(
        self, service_id: str, stream_id: int, address: Address | ApiService | None
    ) -> StreamRoute:
        serial = next(self._serials)
        if isinstance(address, ApiService) and self._api is not None:
            # Held back by the backlog of its events.
            stream = StreamRoute(self._api.open_stream(service_id), serial, has_own_backlog=True)
        else:
            assert not isinstance(address, ApiService)
            stream = StreamRoute(self._start_stream_actor(service_id, address, serial), serial)
        self._streams[service_id, stream_id] = stream
        self._stats.service(service_id).count_stream_opened()
        self._publish(events.StreamOpened(self._config.name, service_id, stream_id))
        return stream

    def _start_stream_actor(
        self, service_id: str, address: Address | None, serial: int
    ) -> ActorRef[Any]:
        assert self._transport is not None
        start_stream = self._context.parts.stream
        ref = start_stream(self.actor_ref, address, self._config.local_bind, self._limits)
        self._transport.tell(
            StartChild(
                ChildSpec(
                    id=f"stream {serial} {service_id}",
                    start=lambda: ref,
                    restart=Restart.TEMPORARY,
                    shutdown=STREAM_SHUTDOWN_SECONDS,
                )
            )
        )
        return ref

    def _adopt(self, opened: Opened, key: ConnectionKey) -> None:
        """Carry a stream or connection that the user has started; `key` is the command's."""
        self._handle_events(opened.events)
        for item in opened.messages[:-1]:
            self._wire.control(item)
        ids = (opened.service_id, opened.stream_id)
        self._send_start(opened.messages[-1], key)
        stream = self._streams.get(ids) or self._start_stream(*ids, ApiService())
        self._open(*ids, opened.connection_id, stream, None)

    def _on_outbox_filled(self, _message: OutboxFilled) -> None:
        if self._api is not None:
            self._api.take_commands()
            self._pump()

    def _on_end_told(self, message: EndTold) -> None:
        if self._api is not None:
            self._api.take_commands()
            self._api.end_connection(message.key)
            self._pump()

    def _open(
        self,
        service_id: str,
        stream_id: int,
        connection_id: int,
        stream: StreamRoute,
        accepted: Accepted | HandOver | None,
    ) -> ConnectionKey:
        key = ConnectionKey(service_id, stream_id, connection_id, next(self._serials))
        now = time.monotonic()
        connection = self._connections.add(
            key, stream.ref, now, has_own_backlog=stream.has_own_backlog
        )
        self._stats.service(service_id).count_connection_opened()
        stream.ref.tell(OpenLocal(key, None if accepted is None else accepted.sock))
        self._tell_opened(connection, accepted)
        self._update_accepting()
        return key

    def _tell_opened(self, connection: Connection, accepted: Accepted | HandOver | None) -> None:
        live = connection.live
        if accepted is not None:
            live.peer, live.user = accepted.peer, accepted.user
        else:
            target = self._target(live.service_id)
            live.peer = "" if isinstance(target, ApiService) else str(target or "")
        live.opened_at = time.time()
        self._stats.connections[live.serial] = live
        self._publish(
            events.ConnectionOpened(
                self._config.name,
                *connection.key,
                live.peer,
                live.user,
                live.opened_at,
                self._stats.channel_id,
            )
        )

    def _tell_closed(self, connection: Connection, reason: str, ended_by: str) -> None:
        live = connection.live
        self._stats.connections.pop(live.serial, None)
        self._publish(
            events.ConnectionClosed(
                self._config.name,
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

    def _on_attach(self, message: Attach) -> None:
        connection = self._connections.get(message.key)
        if connection is not None:
            connection.attach(message.socket_actor)

    def _on_local_data(self, message: LocalDataRead) -> None:
        key = message.key
        connection = self._connections.get(key)
        if connection is None:
            return
        if connection.end_phase in (EndPhase.SENT, EndPhase.OVER):
            self._give_credit([Credit(key, len(message.data))])
            return
        if self._websocket is not None and self._wire.passes(len(message.data)):
            # A small message of a tunnel that is at rest: nothing to queue, nothing to wait for.
            self._send_at_once(key, message.data)
            return
        self._wire.data(key, message.data, time.monotonic())
        self._pump()

    def _on_local_end(self, message: LocalReadEnded | LocalClosed) -> None:
        connection = self._connections.get(message.key)
        if connection is None:
            return
        connection.reason = connection.reason or message.reason
        connection.ended_by = connection.ended_by or "local"
        if not message.is_orderly:
            connection.is_orderly = False
        if isinstance(message, LocalClosed):
            connection.leave()
            self._connections.delivered(connection, connection.backlog_bytes, time.monotonic())
            self._check_backlog()
        self._advance_end(connection)

    def _advance_end(self, connection: Connection) -> None:
        """Something of the local end is over: what follows from it on the wire."""
        phase = connection.end_phase
        if phase is EndPhase.NONE:
            connection.end_phase = EndPhase.QUEUED
            self._wire.end(connection.key, time.monotonic())
            self._pump()
        elif phase is EndPhase.SENT and not connection.is_orderly:
            # It had ended in good order, and now nobody is left to take what still comes.
            self._abort(connection, connection.reason)
            self._pump()
        elif phase is EndPhase.SENT and connection.gone:
            self._session.leave_connection(*connection.key[:3])
            self._settle_end(connection)
            self._pump()
        elif phase is EndPhase.OVER and connection.gone:
            self._connections.remove(connection)
            self._check_backlog()
            self._finish_if_done()

    def _release(self, connection: Connection, end: End) -> None:
        """Let go of a connection that is over on the wire: its id and its place are free.

        Its socket still writes what came before, and says when it has.
        """
        if connection.end_phase is EndPhase.OVER:
            return
        key = connection.key
        if connection.half_close_timer is not None:
            connection.half_close_timer.cancel()
        oldest = self._connections.release(connection)
        if oldest is not None:
            self._tell_end(oldest, End.CUT, "too many local connections are slow to end")
        if connection.gone:
            self._connections.remove(connection)
        else:
            self._tell_end(connection, end, connection.reason or "closed by the peer")
        ended_by = connection.ended_by or "local"
        self._stats.service(key.service_id).count_connection_ended(ended_by)
        self._tell_closed(connection, connection.reason, ended_by)
        self._update_accepting()
        self._check_backlog()

    def _on_stream_actor_ended(self, message: ChildEnded) -> None:
        ids = next((k for k, route in self._streams.items() if route.ref == message.ref), None)
        if ids is not None:
            # It crashed: the stream is over on the wire, and no other.
            messages, session_events = self._session.reset_stream(ids[0])
            for item in messages:
                self._wire.control(item)
            for connection in self._connections.of_stream(message.ref):
                connection.reason = connection.reason or f"stream actor ended: {message.reason}"
            self._handle_events(session_events)
        for connection in self._connections.all_of_stream(message.ref):
            connection.leave()
            self._advance_end(connection)
        self._pump()

    EVENTS: ClassVar[Handlers] = {
        DataReceived: _on_data,
        StreamStarted: _on_stream_started,
        ConnectionStarted: _on_connection_started,
        ConnectionReset: _on_connection_reset,
        StreamStopped: _on_stream_stopped,
        SessionReset: _on_session_reset,
        Answer: _on_reply,
        MessageDropped: _on_dropped,
    }
    """What the session says to what is done; the layer above adds the announcement."""

    HANDLERS: ClassVar[Handlers] = {
        **TunnelWire.HANDLERS,
        Received: _on_received,
        OutboxFilled: _on_outbox_filled,
        EndTold: _on_end_told,
        LocalDataRead: _on_local_data,
        LocalReadEnded: _on_local_end,
        LocalClosed: _on_local_end,
        Attach: _on_attach,
        Accepted: _on_accepted,
        HandOver: _on_hand_over,
    }
