"""TunnelActor: the shell of one tunnel's protocol session.

It owns the Session, the routes from streams to StreamActors, the fair queue to the wire and the
tunnel's state for people. What arrives goes through the session and becomes messages to streams;
what streams read goes through the queue and becomes messages to the WebSocket. It knows no socket
and never waits. What ends what is in DESIGN.md section 2, the ends themselves in section 5.

Longer than other modules because it is the one place where the session's events and commands meet
the actors.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tunnelfleet.proto import (
    ConnectionReset,
    ConnectionStarted,
    DataReceived,
    LocalProtocolError,
    MessageDropped,
    Mode,
    ProtocolVersion,
    RemoteProtocolError,
    Reply,
    ServicesAnnounced,
    Session,
    SessionReset,
    StopCause,
    StreamStarted,
    StreamStopped,
    TunnelClosed,
)

from . import events
from .config import ANY_SERVICE, TcpAddress
from .connections import Connection, ConnectionTable
from .kernel import ChildSpec, DispatchedActor, Restart, RestartChild, StartChild, StopChild
from .listener_actor import ListenerActor
from .messages import (
    Abandon,
    Accepted,
    Attach,
    AttachTransport,
    BytesDelivered,
    BytesSent,
    ChildEnded,
    ChildQuarantined,
    ChildStarted,
    ChildWaiting,
    CloseGracefully,
    ConnectionEnded,
    ConnectionEstablished,
    ConnectionKey,
    ConnectionRefused,
    DeliverTo,
    Drain,
    ListenerBound,
    OpenLocal,
    PauseReading,
    PingAnswered,
    Quiesce,
    Quiesced,
    Received,
    RemoteEndedFor,
    ReplaceToken,
    ResumeReading,
    SendData,
    SetAccepting,
    SetLowWater,
    StopReadingLocal,
    StopStream,
    Transmit,
    Written,
)
from .socket_io import abort_quietly
from .stats import TunnelState, count
from .stream_actor import LocalEnd, StreamActor
from .websocket_actor import ConnectionLost, lost_reason
from .wire_sender import Credit, WireSender

if TYPE_CHECKING:
    import socket

    from pykka import ActorRef

    from tunnelfleet.proto import Event, Message

    from .config import Address, TunnelConfig
    from .connector import Connector
    from .credentials import Credentials
    from .events import TunnelEvent
    from .handlers import Handlers
    from .services import Services
    from .stats import TunnelStats

__all__ = ["TunnelActor", "TunnelContext"]

WEBSOCKET_CHILD = "websocket"
LISTENER_SHUTDOWN_SECONDS = 1.0
STREAM_SHUTDOWN_SECONDS = 2.0
SLOWER_AT_LEAST = 2
"""TCP_NOTSENT_LOWAT is set when the rate has changed by this factor, not at every measurement."""


class TunnelContext(NamedTuple):
    """What the actors of a tunnel share, over their restarts.

    `bound` keeps listeners' ports.
    """

    config: TunnelConfig
    credentials: Credentials
    stats: TunnelStats
    connector: Connector
    services: Services
    bound: dict[str, Address]


class StreamRoute(NamedTuple):
    """Where the messages of a stream go."""

    ref: ActorRef[Any]
    serial: int


class _AnnounceTimedOut(NamedTuple):
    epoch: int


class _PumpAgain(NamedTuple):
    """The bandwidth allows more by now."""


class _CheckStalled(NamedTuple):
    """Look for connections that hold up the tunnel."""


class _QuiesceTimedOut(NamedTuple):
    """The time for a graceful end is over."""


class TunnelActor(DispatchedActor):
    """One tunnel.

    Args:
        context: what the tunnel's actors share.
    """

    def __init__(self, context: TunnelContext) -> None:
        super().__init__()
        config = context.config
        self._context = context
        self._config = config
        self._limits = config.limits
        self._stats = context.stats
        is_source = config.mode is Mode.SOURCE
        self._session = Session(config.mode, config.version if is_source else None)
        self._transport: ActorRef[Any] | None = None
        self._websocket_child: ActorRef[Any] | None = None
        """The present attempt or connection."""
        self._websocket: ActorRef[Any] | None = None
        """The present connection, once it is established."""
        self._restart_at_once = False
        self._epoch = 0
        self._announced = False
        self._lost_label: str | None = None
        self._lost_text = ""
        self._streams: dict[tuple[str, int], StreamRoute] = {}
        """The newest stream of each pair of ids; a restarted peer uses them again."""
        self._serials = itertools.count(1)
        self._connections = ConnectionTable(config.limits)
        self._listeners: dict[str, ActorRef[Any]] = {}
        self._listener_children: list[str] = []
        self._accepting = False
        self._wire = WireSender(
            config.limits,
            config.bandwidth_bytes_per_second,
            context.stats,
            self._to_messages,
            time.monotonic(),
        )
        self._low_water_bytes = config.limits.notsent_low_water_bytes
        self._pump_timer_on = False
        self._pumping = False
        """What is being taken out of the queue is not on its way yet."""
        self._abandoned = False
        self._paused = False
        self._stall_check_on = False
        self._draining = False
        self._quiesce: Quiesce | None = None
        self._closing = False

    def on_start(self) -> None:
        """Begin as connecting; the supervisors bring the rest."""
        self._stats.queue_bytes = 0
        for service in self._stats.services.values():
            service.streams_active = service.connections_active = 0
        self._enter(TunnelState.CONNECTING)

    def on_receive(self, message: Any) -> Any:
        """Dispatch by the message's type."""
        handler = self._HANDLERS.get(type(message))
        if handler is None:
            return super().on_receive(message)
        return handler(self, message)

    # -- state for people

    def _publish(self, event: TunnelEvent) -> None:
        self._context.services.publish(event)

    def _enter(self, state: TunnelState, reason: str = "") -> None:
        if self._stats.enter(state, reason):
            self._stats.last_event = f"{state}: {reason}" if reason else str(state)
            self._publish(events.TunnelStateChanged(self._config.name, state, reason))

    # -- the transport's children

    def _attach_transport(self, message: AttachTransport) -> None:
        self._transport = message.supervisor
        services = self._config.services
        if self._config.mode is Mode.SOURCE and services is not None:
            for service_id, address in services.items():
                self._start_listener(service_id, address)

    def _start_listener(self, service_id: str, address: Address) -> None:
        assert self._transport is not None
        context, tunnel = self._context, self.actor_ref
        child_id = f"listener {service_id}"
        self._listener_children.append(child_id)

        def start() -> ActorRef[Any]:
            return ListenerActor.start(
                service_id, address, tunnel, context.config.limits, context.bound
            )

        self._transport.tell(
            StartChild(
                ChildSpec(
                    id=child_id,
                    start=start,
                    restart=Restart.PERMANENT,
                    shutdown=LISTENER_SHUTDOWN_SECONDS,
                    backoff=self._limits.backoff,
                )
            )
        )

    def _on_listener_bound(self, message: ListenerBound) -> None:
        self._listeners[message.service_id] = message.listener
        self._stats.listening[message.service_id] = (str(message.address),)
        self._stats.last_event = f"listening on {message.address}"
        self._publish(events.ListenerOpened(self._config.name, message.service_id, message.address))
        message.listener.tell(SetAccepting(self._accepting))

    def _on_child_started(self, message: ChildStarted) -> None:
        if message.child_id == WEBSOCKET_CHILD:
            self._websocket_child = message.ref
            if not self._draining and self._quiesce is None:
                self._enter(TunnelState.CONNECTING, self._lost_text)

    def _on_child_ended(self, message: ChildEnded) -> None:
        if message.child_id == WEBSOCKET_CHILD:
            self._on_websocket_ended(message)
        elif message.child_id.startswith("listener "):
            self._on_listener_ended(message)
        else:
            self._on_stream_actor_ended(message)

    def _on_listener_ended(self, message: ChildEnded) -> None:
        service_id = message.child_id.removeprefix("listener ")
        self._listeners.pop(service_id, None)
        self._stats.listening.pop(service_id, None)
        reason = str(message.reason.exception or "") if message.reason.is_failure else ""
        if reason:
            self._stats.last_event = reason
        self._publish(events.ListenerClosed(self._config.name, service_id, reason))

    def _on_child_waiting(self, message: ChildWaiting) -> None:
        if message.child_id != WEBSOCKET_CHILD:
            return
        if self._restart_at_once:
            self._restart_at_once = False
            assert self._transport is not None
            self._transport.tell(RestartChild(WEBSOCKET_CHILD))
        elif not self._draining and self._quiesce is None:
            delay = f"retry in {message.delay_seconds:.1f} s"
            text = f"{self._lost_text}; {delay}" if self._lost_text else delay
            self._enter(TunnelState.BACKOFF, text)

    def _on_child_quarantined(self, message: ChildQuarantined) -> None:
        if message.child_id == WEBSOCKET_CHILD:
            self._enter(TunnelState.QUARANTINED, f"its connection keeps failing: {message.reason}")

    # -- the WebSocket's life

    def _on_established(self, message: ConnectionEstablished) -> None:
        self._epoch = message.epoch
        self._websocket = message.websocket
        self._stats.channel_id = message.channel_id
        self._session.connected()
        self._announced = False
        self._abandoned = False
        self._paused = False
        self._low_water_bytes = self._limits.notsent_low_water_bytes
        self.schedule(self._limits.announce_timeout_seconds, _AnnounceTimedOut(message.epoch))

    def _on_announce_timeout(self, message: _AnnounceTimedOut) -> None:
        if message.epoch == self._epoch and not self._announced:
            seconds = self._limits.announce_timeout_seconds
            self._drop_connection(
                "announce_timeout", f"the service sent no SERVICE_IDS within {seconds:g} s"
            )

    def _drop_connection(self, label: str, text: str) -> None:
        if self._websocket is not None:
            self._abandoned = True
            self._websocket.tell(Abandon(label, RemoteProtocolError(text)))

    def _on_refused(self, message: ConnectionRefused) -> None:
        count(self._stats.connect_failures, f"http_{message.error.status}")
        self._lost_text = ""
        self._enter(TunnelState.REFUSED, str(message.error))
        if self._quiesce is not None:
            self._finish_quiesce()

    def _on_websocket_ended(self, message: ChildEnded) -> None:
        error = lost_reason(message.reason)
        if message.reason.is_failure:
            label = error.label if isinstance(error, ConnectionLost) else "crashed"
            self._lost_text = str(error)
            if self._websocket is None:
                count(self._stats.connect_failures, label)
            else:
                self._lost_label = label
        elif self._restart_at_once:
            # The old token was refused while the new one was on its way.
            self._restart_at_once = False
            assert self._transport is not None
            self._transport.tell(RestartChild(WEBSOCKET_CHILD))
        if self._websocket is not None:
            self._websocket = None
            self._end_all_streams()
        self._set_accepting(False)
        if self._quiesce is not None or self._draining:
            self._finish_quiesce()

    def _end_all_streams(self) -> None:
        self._give_credit(self._wire.connection_lost())
        self._handle_events(self._session.disconnected())
        self._announced = False

    def _on_announced(self, event: ServicesAnnounced) -> None:
        self._announced = True
        self._stats.service_ids = event.service_ids
        if self._lost_label is not None:
            count(self._stats.reconnects, self._lost_label)
            self._lost_label = None
        self._lost_text = ""
        name = self._config.name
        self._publish(events.ServiceIdsReceived(name, event.service_ids, self._stats.channel_id))
        if not self._draining and self._quiesce is None:
            self._enter(TunnelState.CONNECTED)
            self._start_free_listeners(event.service_ids)
            self._update_accepting()

    def _start_free_listeners(self, service_ids: tuple[str, ...]) -> None:
        if self._config.mode is not Mode.SOURCE or self._config.services is not None:
            return
        for service_id in service_ids or (ANY_SERVICE,):
            if f"listener {service_id}" not in self._listener_children:
                self._start_listener(service_id, TcpAddress(self._config.bind_host, 0))

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

    def _handle_events(self, session_events: list[Event] | tuple[Event, ...]) -> None:
        for event in session_events:
            self._EVENTS[type(event)](self, event)

    def _on_data(self, event: DataReceived) -> None:
        service_id, stream_id, connection_id, payload = event
        stats = self._stats.service(service_id)
        stats.received_bytes += len(payload)
        stats.received_messages += 1
        connection = self._find(service_id, stream_id, connection_id)
        if connection is None or connection.gone:
            count(self._stats.dropped_messages, "local_end_gone")
            return
        self._connections.received(connection, len(payload), time.monotonic())
        connection.stream.tell(DeliverTo(connection_id, payload))

    def _find(self, service_id: str, stream_id: int, connection_id: int) -> Connection | None:
        stream = self._streams.get((service_id, stream_id))
        if stream is None:
            return None
        key = ConnectionKey(service_id, stream_id, connection_id, stream.serial)
        return self._connections.get(key)

    def _on_stream_started(self, event: StreamStarted) -> None:
        address = self._target(event.service_id)
        if address is None or not self._takes_connections():
            self._refuse(event)
            return
        stream = self._start_stream(event.service_id, event.stream_id, address)
        self._open(event.service_id, event.stream_id, event.connection_id, stream, None)

    def _on_connection_started(self, event: ConnectionStarted) -> None:
        ids = (event.service_id, event.stream_id, event.connection_id)
        stream = self._streams.get((event.service_id, event.stream_id))
        # An id whose former connection is still being written out here is not free yet.
        if stream is None or self._find(*ids) is not None or not self._takes_connections():
            self._refuse(event)
            return
        self._open(*ids, stream, None)

    def _target(self, service_id: str) -> Address | None:
        services = self._config.services or {}
        return services.get(service_id) or services.get(ANY_SERVICE)

    def _takes_connections(self) -> bool:
        ending = self._draining or self._quiesce is not None
        return not ending and len(self._connections) < self._limits.max_connections

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
        count(self._stats.dropped_messages, "refused_start")

    def _on_connection_reset(self, event: ConnectionReset) -> None:
        connection = self._find(event.service_id, event.stream_id, event.connection_id)
        if connection is not None:
            again = connection.remote_ended
            connection.remote_ended = True
            connection.stream.tell(RemoteEndedFor(event.connection_id, abort=again))

    def _on_stream_stopped(self, event: StreamStopped) -> None:
        stream = self._streams.pop((event.service_id, event.stream_id), None)
        if stream is None:
            return
        stats = self._stats.service(event.service_id)
        stats.streams_active -= 1
        count(stats.streams_ended, event.cause.value)
        for connection in self._connections.of_stream(stream.ref):
            connection.remote_ended = True
            connection.end_sent = True
            connection.reason = connection.reason or event.cause.value
            self._give_credit([self._wire.discard(connection.key)])
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
        self._stats.session_resets += 1
        self._stats.last_event = "session reset"
        self._publish(events.SessionWasReset(self._config.name))

    def _on_reply(self, event: Reply) -> None:
        self._wire.control(event.message)

    def _on_dropped(self, event: MessageDropped) -> None:
        count(self._stats.dropped_messages, event.reason.value)

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
        self, service_id: str, stream_id: int, address: Address | None
    ) -> StreamRoute:
        assert self._transport is not None
        local_end = LocalEnd(
            address, self._config.local_bind, self._limits, self._context.connector
        )
        serial = next(self._serials)
        ref = StreamActor.start(service_id, stream_id, self.actor_ref, local_end, serial)
        stream = self._streams[service_id, stream_id] = StreamRoute(ref, serial)
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
        stats = self._stats.service(service_id)
        stats.streams_opened += 1
        stats.streams_active += 1
        self._publish(events.StreamOpened(self._config.name, service_id, stream_id))
        return stream

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
        stats = self._stats.service(service_id)
        stats.connections_opened += 1
        stats.connections_active += 1
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
        stats = self._stats.service(key.service_id)
        stats.connections_active -= 1
        reason = connection.reason
        count(stats.connections_ended, "peer" if connection.remote_ended else "local")
        if hasattr(self._session, "forget_connection"):
            self._handle_events(
                self._session.forget_connection(key.service_id, key.stream_id, key.connection_id)
            )
        self._publish(events.ConnectionClosed(self._config.name, *key[:3], reason))
        self._update_accepting()
        self._check_backlog()
        self._finish_if_done()

    # -- to the wire

    def _to_messages(self, key: ConnectionKey, payload: bytes | None) -> list[Message]:
        """What a piece of the fair queue is on the wire."""
        connection = self._connections.get(key)
        if connection is None:
            return []
        if payload is None:
            return self._end_on_wire(connection)
        try:
            message = self._session.data(key.service_id, key.connection_id, payload)
        except LocalProtocolError:
            self._stats.failed_sends += 1
            self._give_credit([Credit(key, len(payload))])
            return []
        stats = self._stats.service(key.service_id)
        stats.sent_bytes += len(payload)
        stats.sent_messages += 1
        return [message]

    def _end_on_wire(self, connection: Connection) -> list[Message]:
        key = connection.key
        connection.end_sent = True
        messages, session_events = self._session.reset_connection(key.service_id, key.connection_id)
        self._handle_events(session_events)
        if connection.gone:
            self._forget(connection)
        return messages

    def _pump(self) -> None:
        if self._websocket is None:
            return
        self._pumping = True
        messages, wait_seconds = self._wire.pump(time.monotonic())
        self._pumping = False
        if messages:
            self._websocket.tell(Transmit(messages))
        if wait_seconds and not self._pump_timer_on:
            self._pump_timer_on = True
            self.schedule(wait_seconds, _PumpAgain())
        self._finish_if_done()

    def _on_pump_again(self, _message: _PumpAgain) -> None:
        self._pump_timer_on = False
        self._pump()

    def _on_written(self, message: Written) -> None:
        if message.epoch != self._epoch or self._websocket is None:
            return
        now = time.monotonic()
        self._give_credit(self._wire.written(message.messages, now, blocked=message.blocked))
        self._adapt_low_water()
        self._pump()

    def _adapt_low_water(self) -> None:
        wanted, present = self._wire.low_water_bytes, self._low_water_bytes
        is_far = wanted * SLOWER_AT_LEAST <= present or wanted >= present * SLOWER_AT_LEAST
        if is_far and self._websocket is not None:
            self._low_water_bytes = wanted
            self._websocket.tell(SetLowWater(wanted))

    def _give_credit(self, items: list[Credit]) -> None:
        for credit in items:
            connection = self._connections.get(credit.key)
            if connection is not None and connection.socket_actor is not None and credit.size_bytes:
                connection.socket_actor.tell(BytesSent(credit.size_bytes))

    # -- holding the WebSocket

    def _on_bytes_delivered(self, message: BytesDelivered) -> None:
        connection = self._connections.get(message.key)
        if connection is not None:
            self._connections.delivered(connection, message.size_bytes, time.monotonic())
            if self._paused:
                self._check_backlog()

    def _check_backlog(self) -> None:
        must_pause = self._connections.must_pause
        if must_pause == self._paused or self._websocket is None:
            return
        self._paused = must_pause
        self._websocket.tell(PauseReading() if must_pause else ResumeReading())
        if must_pause and not self._stall_check_on:
            self._stall_check_on = True
            self.schedule(self._limits.stall_timeout_seconds, _CheckStalled())

    def _on_check_stalled(self, message: _CheckStalled) -> None:
        self._stall_check_on = False
        if not self._paused:
            return
        for connection in self._connections.stalled(time.monotonic()):
            self._stats.stalled_connections += 1
            connection.reason = "stalled: the local application took no byte"
            connection.stream.tell(RemoteEndedFor(connection.key.connection_id, abort=True))
        self._stall_check_on = True
        self.schedule(max(self._limits.stall_timeout_seconds / 4, 0.05), message)

    # -- accepting

    def _update_accepting(self) -> None:
        self._set_accepting(self._announced and self._takes_connections())

    def _set_accepting(self, accepting: bool) -> None:
        if accepting == self._accepting:
            return
        self._accepting = accepting
        for listener in self._listeners.values():
            listener.tell(SetAccepting(accepting))

    # -- ends of actors and of the tunnel

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

    def _on_replace_token(self, message: ReplaceToken) -> None:
        self._context.credentials.replace(message.access_token, message.client_token)
        assert self._transport is not None
        attempt = self._websocket_child
        if attempt is not None and attempt.is_alive():
            self._restart_at_once = True
            attempt.tell(Abandon("token_replaced", TunnelClosed("its token was replaced")))
        else:
            self._transport.tell(RestartChild(WEBSOCKET_CHILD))

    def _on_drain(self, _message: Drain) -> None:
        if self._draining:
            return
        self._draining = True
        self._enter(TunnelState.DRAINING, f"{len(self._connections)} connections are left")
        self._close_listeners()
        if self._websocket is None:
            self._finish_quiesce()
        else:
            self._finish_if_done()

    def _close_listeners(self) -> None:
        self._set_accepting(False)
        assert self._transport is not None
        for child_id in self._listener_children:
            self._transport.tell(StopChild(child_id))

    def _on_quiesce(self, message: Quiesce) -> None:
        if self._quiesce is not None:
            return
        self._quiesce = message
        if self._stats.state is not TunnelState.REFUSED:
            self._enter(TunnelState.DRAINING, "stopping")
        if self._transport is not None:
            self._close_listeners()
        if self._websocket is None:
            self._finish_quiesce()
            return
        self.schedule(message.timeout_seconds, _QuiesceTimedOut())
        for stream in self._streams.values():
            stream.ref.tell(StopReadingLocal())
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        """Close the WebSocket when a graceful end has nothing left to wait for."""
        ending = self._draining or self._quiesce is not None
        if not ending or self._closing or self._pumping or self._websocket is None:
            return
        waits_for = [c for c in self._connections if not (c.end_sent and self._quiesce is not None)]
        if not waits_for and self._wire.is_idle:
            self._closing = True
            self._websocket.tell(CloseGracefully())

    def _on_quiesce_timed_out(self, _message: _QuiesceTimedOut) -> None:
        self._finish_quiesce()

    def _finish_quiesce(self) -> None:
        if self._quiesce is not None:
            self._quiesce.reply_to.tell(Quiesced())
            return
        assert self._transport is not None
        self._transport.tell(StopChild(WEBSOCKET_CHILD))
        self._enter(TunnelState.STOPPED, "drained")

    _EVENTS: ClassVar[Handlers] = {
        ServicesAnnounced: _on_announced,
        DataReceived: _on_data,
        StreamStarted: _on_stream_started,
        ConnectionStarted: _on_connection_started,
        ConnectionReset: _on_connection_reset,
        StreamStopped: _on_stream_stopped,
        SessionReset: _on_session_reset,
        Reply: _on_reply,
        MessageDropped: _on_dropped,
    }

    _HANDLERS: ClassVar[Handlers] = {
        Received: _on_received,
        SendData: _on_send_data,
        Written: _on_written,
        BytesDelivered: _on_bytes_delivered,
        ConnectionEnded: _on_connection_ended,
        Attach: _on_attach,
        Accepted: _on_accepted,
        AttachTransport: _attach_transport,
        ListenerBound: _on_listener_bound,
        ChildStarted: _on_child_started,
        ChildEnded: _on_child_ended,
        ChildWaiting: _on_child_waiting,
        ChildQuarantined: _on_child_quarantined,
        ConnectionEstablished: _on_established,
        ConnectionRefused: _on_refused,
        _AnnounceTimedOut: _on_announce_timeout,
        _PumpAgain: _on_pump_again,
        _CheckStalled: _on_check_stalled,
        _QuiesceTimedOut: _on_quiesce_timed_out,
        PingAnswered: lambda _self, _message: None,
        ReplaceToken: _on_replace_token,
        Drain: _on_drain,
        Quiesce: _on_quiesce,
    }
