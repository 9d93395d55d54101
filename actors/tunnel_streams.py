"""The layer of TunnelActor between the session and the streams.

What arrives becomes messages to StreamActors, what local applications do becomes commands of the
session. DESIGN.md section 3.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from tunnelfleet.proto import (
    ConnectionReset,
    ConnectionStarted,
    DataReceived,
    LocalProtocolError,
    MessageDropped,
    ProtocolVersion,
    RemoteProtocolError,
    Reply,
    SessionReset,
    StopCause,
    StreamStarted,
    StreamStopped,
)

from . import events
from .api_port import OutboxFilled
from .api_stream import ApiStream
from .config import ANY_SERVICE, ApiService
from .kernel import ChildSpec, Restart, StartChild
from .messages import (
    Accepted,
    Attach,
    ChildEnded,
    ConnectionEnded,
    ConnectionKey,
    DeliverTo,
    OpenLocal,
    Received,
    RemoteEndedFor,
    SendData,
    StopStream,
)
from .socket_io import abort_quietly
from .stream_actor import LocalEnd, StreamActor
from .tunnel_core import StreamRoute
from .tunnel_wire import TunnelWire
from .wire_sender import Credit

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pykka import ActorRef

    from tunnelfleet.proto import Event, Opened

    from .config import Address
    from .connections import Connection
    from .handlers import Handlers

__all__ = ["TunnelStreams"]

STREAM_SHUTDOWN_SECONDS = 2.0
_ENDED_BY = {StopCause.PEER_RESET: "peer", StopCause.LOCAL_RESET: "local"}
"""Who ended a connection whose stream was reset; other causes stand for themselves."""


class TunnelStreams(TunnelWire):
    """Routes between the session and the streams."""

    # -- from the wire

    def _on_received(self, message: Received) -> None:
        if message.epoch != self._epoch or self._websocket is None or self._abandoned:
            return
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
        connection = self._find(service_id, stream_id, connection_id)
        if connection is None or connection.gone:
            self._stats.count_dropped("local_end_gone")
            return
        if isinstance(connection.stream, ApiStream):
            # Held back by the backlog of its events.
            connection.stream.tell(DeliverTo(connection_id, payload))
            return
        self._connections.received(connection, len(payload), time.monotonic())
        connection.stream.tell(DeliverTo(connection_id, payload))

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
        # An id whose former connection is still being written out here is not free yet.
        if stream is None or self._find(*ids) is not None or not self._takes_connections():
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
        return services.get(service_id) or services.get(ANY_SERVICE)

    def _refuse(self, event: StreamStarted | ConnectionStarted) -> None:
        messages, session_events = self._session.reset_connection(
            event.service_id, event.connection_id
        )
        for message in messages:
            self._wire.control(message)
        self._handle_events(session_events)
        # Without an end here nobody waits for the peer's: its id is free again at once.
        forgotten = self._session.forget_connection(
            event.service_id, event.stream_id, event.connection_id
        )
        self._handle_events([item for item in forgotten if not isinstance(item, Reply)])
        self._stats.count_dropped("refused_start")

    def _on_connection_reset(self, event: ConnectionReset) -> None:
        connection = self._find(event.service_id, event.stream_id, event.connection_id)
        if connection is not None:
            again = connection.remote_ended
            connection.ended_by = connection.ended_by or "peer"
            connection.remote_ended = True
            connection.stream.tell(RemoteEndedFor(event.connection_id, abort=again))

    def _on_stream_stopped(self, event: StreamStopped) -> None:
        stream = self._streams.pop((event.service_id, event.stream_id), None)
        if stream is None:
            return
        self._stats.service(event.service_id).count_stream_ended(event.cause.value)
        for connection in self._connections.of_stream(stream.ref):
            connection.remote_ended = True
            connection.end_sent = True
            connection.reason = connection.reason or event.cause.value
            connection.ended_by = connection.ended_by or _ENDED_BY.get(
                event.cause, event.cause.value
            )
            self._give_credit([self._wire.discard(connection.key)])
            if self._api is not None:
                self._api.on_discarded(connection.key)
            if connection.gone:
                self._forget(connection)
        stream.ref.tell(StopStream(abort=self._is_abnormal(event.cause)))
        self._publish(
            events.StreamClosed(
                self._config.name, event.service_id, event.stream_id, event.cause.value
            )
        )

    def _is_abnormal(self, cause: StopCause) -> bool:
        """An ordinary end of a connection is CONNECTION_RESET in V3 and STREAM_RESET before."""
        ordinary = cause in (StopCause.PEER_RESET, StopCause.LOCAL_RESET)
        return not ordinary or self._session.version is ProtocolVersion.V3

    def _on_session_reset(self, _event: SessionReset) -> None:
        self._stats.count_session_reset()
        self._stats.last_event = "session reset"
        self._publish(events.SessionWasReset(self._config.name))
        if self._api is not None:
            self._api.tell_session_reset()

    def _on_reply(self, event: Reply) -> None:
        self._wire.control(event.message)

    def _on_dropped(self, event: MessageDropped) -> None:
        self._stats.count_dropped(event.reason.value)

    # -- local applications

    def _on_accepted(self, message: Accepted) -> None:
        if not self._announced or not self._takes_connections():
            abort_quietly(message.sock)
            return
        try:
            opened = self._session.open_connection(message.service_id)
        except LocalProtocolError as error:
            abort_quietly(message.sock)
            self._stats.last_event = str(error)
            return
        self._handle_events(opened.events)
        for item in opened.messages:
            self._wire.control(item)
        stream = self._streams.get((opened.service_id, opened.stream_id))
        if stream is None:
            stream = self._start_stream(opened.service_id, opened.stream_id, None)
        ids = (opened.service_id, opened.stream_id, opened.connection_id)
        self._open(*ids, stream, message.sock)
        self._pump()

    def _start_stream(
        self, service_id: str, stream_id: int, address: Address | ApiService | None
    ) -> StreamRoute:
        serial = next(self._serials)
        end: ActorRef[Any] | ApiStream
        if isinstance(address, ApiService) and self._api is not None:
            end = self._api.open_stream(service_id, stream_id, serial)
        else:
            assert not isinstance(address, ApiService)
            end = self._start_stream_actor(service_id, stream_id, address, serial)
        stream = self._streams[service_id, stream_id] = StreamRoute(end, serial)
        self._stats.service(service_id).count_stream_opened()
        self._publish(events.StreamOpened(self._config.name, service_id, stream_id))
        return stream

    def _start_stream_actor(
        self, service_id: str, stream_id: int, address: Address | None, serial: int
    ) -> ActorRef[Any]:
        assert self._transport is not None
        local_end = LocalEnd(
            address, self._config.local_bind, self._limits, self._context.connector
        )
        ref = StreamActor.start(service_id, stream_id, self.actor_ref, local_end, serial)
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
        self._wire.control(opened.messages[-1], key)
        ids = (opened.service_id, opened.stream_id)
        stream = self._streams.get(ids) or self._start_stream(*ids, ApiService())
        self._open(*ids, opened.connection_id, stream, None)

    def _on_outbox_filled(self, _message: OutboxFilled) -> None:
        if self._api is not None:
            self._api.take_commands()
            self._pump()

    def _open(
        self,
        service_id: str,
        stream_id: int,
        connection_id: int,
        stream: StreamRoute,
        sock: socket.socket | None,
    ) -> None:
        key = ConnectionKey(service_id, stream_id, connection_id, stream.serial)
        self._connections.add(key, stream.ref, time.monotonic())
        self._stats.service(service_id).count_connection_opened()
        stream.ref.tell(OpenLocal(connection_id, sock))
        self._publish(
            events.ConnectionOpened(self._config.name, service_id, stream_id, connection_id)
        )
        self._update_accepting()

    def _on_attach(self, message: Attach) -> None:
        connection = self._connections.get(message.key)
        if connection is not None:
            connection.socket_actor = message.socket_actor

    def _on_send_data(self, message: SendData) -> None:
        key = message.key
        connection = self._connections.get(key)
        if connection is None or connection.end_sent:
            if connection is not None:
                self._give_credit([Credit(key, len(message.data))])
            return
        self._wire.data(key, message.data, time.monotonic())
        self._pump()

    def _on_connection_ended(self, message: ConnectionEnded) -> None:
        connection = self._connections.get(message.key)
        if connection is None:
            return
        connection.reason = connection.reason or message.reason
        connection.ended_by = connection.ended_by or "local"
        if message.gone:
            connection.gone = True
            connection.socket_actor = None
            self._connections.delivered(connection, connection.backlog_bytes, time.monotonic())
            self._check_backlog()
        if not connection.end_queued and not connection.end_sent:
            connection.end_queued = True
            self._wire.end(message.key, time.monotonic())
            self._pump()
        if connection.gone and connection.end_sent:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        key = connection.key
        if self._connections.get(key) is None:
            return
        self._connections.remove(connection)
        self._stats.service(key.service_id).count_connection_ended(connection.ended_by or "local")
        reason = connection.reason
        route = self._streams.get((key.service_id, key.stream_id))
        if route is not None and route.serial == key.serial:
            # Not the namesake that a restarted peer may have by now.
            self._handle_events(
                self._session.forget_connection(key.service_id, key.stream_id, key.connection_id)
            )
        self._publish(events.ConnectionClosed(self._config.name, *key[:3], reason))
        self._update_accepting()
        self._check_backlog()
        if not self._pumping:
            self._pump()

    def _on_stream_actor_ended(self, message: ChildEnded) -> None:
        ids = next((k for k, route in self._streams.items() if route.ref == message.ref), None)
        if ids is not None:
            # It crashed: the stream is over on the wire, and no other.
            messages, session_events = self._session.reset_stream(ids[0])
            for item in messages:
                self._wire.control(item)
            self._handle_events(session_events)
        for connection in self._connections.of_stream(message.ref):
            connection.gone = True
            connection.socket_actor = None
            connection.reason = connection.reason or f"stream actor ended: {message.reason}"
            self._forget(connection)
        self._pump()

    EVENTS: ClassVar[Handlers] = {
        DataReceived: _on_data,
        StreamStarted: _on_stream_started,
        ConnectionStarted: _on_connection_started,
        ConnectionReset: _on_connection_reset,
        StreamStopped: _on_stream_stopped,
        SessionReset: _on_session_reset,
        Reply: _on_reply,
        MessageDropped: _on_dropped,
    }
    """What the session says to what is done; the layer above adds the announcement."""

    HANDLERS: ClassVar[Handlers] = {
        **TunnelWire.HANDLERS,
        Received: _on_received,
        OutboxFilled: _on_outbox_filled,
        SendData: _on_send_data,
        ConnectionEnded: _on_connection_ended,
        Attach: _on_attach,
        Accepted: _on_accepted,
    }
