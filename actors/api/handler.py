"""TunnelApi: what serves the client API in the turns of a TunnelActor, and the streams of a user.

Owns the commands that a user's threads have handed over, and what became of each message. An
ApiStream stands where other streams have a StreamActor and sockets: what it is told becomes events.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, ClassVar

from tunnelfleet.actors.config import ANY_SERVICE, ApiService, TunnelConfig
from tunnelfleet.actors.tunnel.messages import (
    ConnectionKey,
    Deliver,
    EndTold,
    LocalClosed,
    OpenLocal,
    RemoteEnded,
    StopReadingLocal,
    StopStream,
)
from tunnelfleet.proto import (
    MAX_PAYLOAD_BYTES,
    AbnormalEnd,
    ConfigError,
    ConnectionIdUnknown,
    End,
    HandshakeError,
    LocalProtocolError,
    MessageType,
    Mode,
    NotConnected,
    ProtocolVersion,
    ServiceIdUnknown,
    ServiceWithoutStream,
    TooManyConnections,
    TunnelClosed,
    TunnelError,
    VersionMismatch,
)

from .messages import (
    Admission,
    ConnectionFailure,
    ConnectionId,
    ConnectionReset,
    ConnectionShutdown,
    ConnectionStarted,
    ConnectionSuccess,
    InputEnded,
    Message,
    MessageReceived,
    SessionReset,
    StreamStarted,
    StreamStopped,
)

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.kernel.actor import Handlers
    from tunnelfleet.actors.tunnel.context import ApiShell

    from .messages import Outgoing
    from .outbox import Outbox


OpenConnections = dict[tuple[str, int], ConnectionKey]
"""The connections on which a user may send, by service id and connection id."""


class ApiStream:
    """One stream that ends at the user's callbacks.

    Args:
        service_id: its service.
        version: what it speaks.
        mode: of the tunnel; a source's user started the stream and is not told of it.
        tunnel: the TunnelActor.
        outbox: takes the events.
        open_connections: of the whole tunnel, kept up to date here.
    """

    def __init__(
        self,
        service_id: str,
        *,
        version: ProtocolVersion | None,
        mode: Mode,
        tunnel: ActorRef[Any],
        outbox: Outbox,
        open_connections: OpenConnections,
    ) -> None:
        self._service_id = service_id
        self._is_v3 = version is ProtocolVersion.V3
        self._is_source = mode is Mode.SOURCE
        self._owner = (outbox.name, mode)
        self._tunnel = tunnel
        self._outbox = outbox
        self._open = open_connections
        self._mine: dict[int, ConnectionId] = {}
        self._told: set[ConnectionKey] = set()
        """Connections whose end the user was told while it may still send on them."""
        self._started = False
        self._stopped = False
        self._cut_by_stop = False
        """Whether the user stopped the tunnel while a connection was open."""

    def tell(self, message: Any) -> None:
        """Handle a message at once."""
        self.HANDLERS[type(message)](self, message)

    def _on_open(self, message: OpenLocal) -> None:
        key = message.key
        service_id, connection_id = self._service_id, ConnectionId(key, self._owner)
        self._mine[connection_id] = connection_id
        kind = ConnectionStarted if self._started else StreamStarted
        if not self._started:
            self._started = True
            self._outbox.active_services.add(service_id)
        if self._is_source:
            self.admit(key)
        else:
            self._outbox.admit_in_turn(key)
            self._outbox.emit(kind(self._outbox.name, service_id, connection_id))

    def admit(self, key: ConnectionKey) -> None:
        """Let the user's commands reach a connection, if it is still open."""
        mine = self._find(key)
        if mine is not None:
            self._open[self._service_id, key.connection_id] = mine.connection

    def id_of(self, connection_id: int) -> int:
        """Return the id of a connection as its user is told it."""
        return self._mine.get(connection_id, connection_id)

    def _find(self, key: ConnectionKey) -> ConnectionId | None:
        mine = self._mine.get(key.connection_id)
        return mine if mine is not None and mine.connection == key else None

    def _on_deliver(self, message: Deliver) -> None:
        key, payload, more = message
        connection_id = self._mine.get(key.connection_id)
        if connection_id is None:
            return
        outbox, service_id = self._outbox, self._service_id
        name = outbox.name
        for each in (payload, *more):
            item = Message(each, service_id, connection_id)
            outbox.emit(MessageReceived(name, item), len(each))

    def _on_remote_ended(self, message: RemoteEnded) -> None:
        key = message.key
        connection_id = self._find(key)
        if connection_id is None:
            return
        outbox = self._outbox
        if message.end is End.ORDERLY and outbox.half_close:
            outbox.emit(InputEnded(outbox.name, self._service_id, connection_id))
            return
        if key not in self._told:
            error = AbnormalEnd(message.reason) if message.end is End.CUT else None
            self._tell_ended(connection_id, error)
        if message.end is End.ORDERLY:
            self._told.add(key)
            # Behind what the callbacks hand over until they have returned.
            outbox.after_callbacks(EndTold(key))
        else:
            self._end(key, message.reason)

    def _on_stop_reading(self, _message: StopReadingLocal) -> None:
        mine = {each.connection for each in self._mine.values()}
        self._cut_by_stop |= bool(mine - self._told)
        self._end_all("the tunnel is stopping", is_orderly=False)

    def _on_stop(self, message: StopStream) -> None:
        self._end_all("", is_orderly=False)
        error = message.error
        if error is None and self._cut_by_stop:
            # The peer may have had more to send: without an error it would look like all.
            error = TunnelClosed("the tunnel was stopped here while a connection was open")
        self._tell_stopped(error)

    def _end_all(self, reason: str, *, is_orderly: bool) -> None:
        for connection_id in sorted(self._mine.values()):
            self._end(connection_id.connection, reason, is_orderly=is_orderly)

    def _end(self, key: ConnectionKey, reason: str, *, is_orderly: bool = True) -> None:
        del self._mine[key.connection_id]
        self._told.discard(key)
        if self._open.get((self._service_id, key.connection_id)) == key:
            del self._open[self._service_id, key.connection_id]
        self._tunnel.tell(LocalClosed(key, reason, is_orderly))

    def end(self, key: ConnectionKey) -> None:
        """End a connection because the user says so, or has been told that the peer has."""
        if self._find(key) is not None:
            self._end(key, "ended by this side")

    def _tell_ended(self, connection_id: int, error: TunnelError | None) -> None:
        if self._is_v3:
            outbox = self._outbox
            outbox.emit(ConnectionReset(outbox.name, self._service_id, connection_id, error))
        else:
            self._tell_stopped(error)

    def _tell_stopped(self, error: TunnelError | None) -> None:
        if not self._stopped:
            self._stopped = True
            self._outbox.active_services.discard(self._service_id)
            self._outbox.emit(StreamStopped(self._outbox.name, self._service_id, error))

    HANDLERS: ClassVar[Handlers] = {
        OpenLocal: _on_open,
        Deliver: _on_deliver,
        RemoteEnded: _on_remote_ended,
        StopReadingLocal: _on_stop_reading,
        StopStream: _on_stop,
    }


class TunnelApi:
    """The API's side of one run of a TunnelActor.

    Args:
        outbox: of the tunnel.
        config: of the tunnel.
        shell: of the TunnelActor.
    """

    def __init__(self, outbox: Outbox, config: TunnelConfig, shell: ApiShell) -> None:
        self._outbox = outbox
        self._name = config.name
        self._mode = config.mode
        self._services = config.services or {}
        self._shell = shell
        self._session = shell.session
        self._wire = shell.wire
        self._open: OpenConnections = {}
        self._streams: dict[str, ApiStream] = {}
        self._commands = itertools.count(1)
        self._stalled = False

    # -- which services

    def serves(self, service_id: str) -> bool:
        """Return whether the streams of a service end at the user."""
        target = self._services.get(service_id) or self._services.get(ANY_SERVICE)
        return isinstance(target, ApiService)

    def open_stream(self, service_id: str) -> ApiStream:
        """Make the end of a stream that leads to the user."""
        stream = self._streams[service_id] = ApiStream(
            service_id,
            version=self._session.version,
            mode=self._mode,
            tunnel=self._shell.tunnel,
            outbox=self._outbox,
            open_connections=self._open,
        )
        return stream

    # -- commands

    def take_commands(self) -> None:
        """Carry out what the user's threads have handed over, in order."""
        now = time.monotonic()
        is_open, pending, wire = self._open, self._outbox.pending, self._wire
        for entry in self._outbox.take():
            connection_id = entry.connection_id
            key = is_open.get((entry.service_id, connection_id or 0))
            if (
                key is not None
                and entry.kind is MessageType.DATA
                and len(entry.payload) <= MAX_PAYLOAD_BYTES
                # As in `_is_of_former`, without a call for each message.
                and (type(connection_id) is not ConnectionId or connection_id.connection is key)
            ):
                pending.queued(key, entry)
                wire.messages(key, [entry.payload], now)
                continue
            try:
                self._carry_out(entry, now)
            except (LocalProtocolError, ConfigError, TunnelClosed) as error:
                self._outbox.complete([entry], error)

    def _carry_out(self, entry: Outgoing, now: float) -> None:
        if entry.kind is MessageType.DATA:
            self._send(entry, now)
        elif entry.kind is MessageType.CONNECTION_RESET:
            self._reset_connection(entry)
        elif entry.kind is MessageType.STREAM_RESET:
            self._reset_stream(entry)
        elif isinstance(entry, Admission):
            stream = self._streams.get(entry.service_id)
            if stream is not None:
                stream.admit(entry.key)
        else:
            self._start(entry)

    def _send(self, entry: Outgoing, now: float) -> None:
        key = self._find(entry)
        self._session.data(key.service_id, key.connection_id, entry.payload)
        self._outbox.pending.queued(key, entry)
        self._wire.messages(key, [entry.payload], now)

    def _find(self, entry: Outgoing) -> ConnectionKey:
        """Return the connection that a command means; raises what is wrong with it."""
        service_id = self._resolve(entry.service_id)
        connection_id = entry.connection_id
        if connection_id is None:
            connection_id = self._only_connection(service_id)
        elif connection_id != 1 and self._session.version in (
            ProtocolVersion.V1,
            ProtocolVersion.V2,
        ):
            raise VersionMismatch(
                self._session.version, "a stream has one connection; leave connection_id out"
            )
        key = self._open.get((service_id, connection_id))
        if key is None:
            # The error says what is missing: the connection, the stream or the service.
            self._session.data(service_id, connection_id, b"")
        if key is None or self._is_of_former(connection_id, key):
            raise ConnectionIdUnknown(service_id, connection_id)
        entry.service_id, entry.connection_id = service_id, connection_id
        return key

    def _is_of_former(self, connection_id: int, key: ConnectionKey) -> bool:
        """Whether the user was told of this id when another connection had it."""
        return (
            type(connection_id) is ConnectionId
            # Not by equality: a TunnelActor that was started again numbers its connections anew.
            and connection_id.connection is not key
            and connection_id.owner == (self._name, self._mode)
        )

    def _resolve(self, service_id: str) -> str:
        announced = self._session.service_ids
        if announced is None:
            raise NotConnected
        if not service_id and len(announced) == 1:
            service_id = announced[0]
        if announced and service_id not in announced:
            raise ServiceIdUnknown(service_id, announced)
        if not self.serves(service_id):
            raise ConfigError(
                f"service {service_id!r} goes to a socket: its streams are not the API's to use"
            )
        return service_id

    def _only_connection(self, service_id: str) -> int:
        found = [each for service, each in self._open if service == service_id]
        if len(found) > 1:
            raise VersionMismatch(
                ProtocolVersion.V3,
                f"the stream has {len(found)} connections; say which connection_id",
            )
        return found[0] if found else 1

    def _start(self, entry: Outgoing) -> None:
        is_stream = entry.kind is MessageType.STREAM_START
        if self._session.mode is Mode.SOURCE:
            service_id = self._resolve(entry.service_id)
            if not self._shell.takes_connections():
                raise TooManyConnections(service_id, self._shell.max_connections())
        else:
            service_id = entry.service_id
        wanted_id = entry.connection_id
        opened = (
            self._session.start_stream(service_id)
            if is_stream
            else self._session.start_connection(
                service_id, None if wanted_id is None else int(wanted_id)
            )
        )
        entry.service_id, entry.connection_id = opened.service_id, opened.connection_id
        key = self._command_key()
        self._outbox.pending.queued(key, entry)
        self._shell.adopt(opened, key)
        entry.connection_id = self._streams[opened.service_id].id_of(opened.connection_id)

    def _command_key(self) -> ConnectionKey:
        """Return a key for a command that belongs to no connection. No stream has this id."""
        return ConnectionKey("", 0, 0, -next(self._commands))

    def _reset_connection(self, entry: Outgoing) -> None:
        key = self._find(entry)
        self._outbox.pending.queued(key, entry)
        self.end_connection(key)

    def end_connection(self, key: ConnectionKey) -> None:
        """End one connection in good order, behind what was sent on it."""
        stream = self._streams.get(key.service_id)
        if stream is not None:
            stream.end(key)

    def _reset_stream(self, entry: Outgoing) -> None:
        service_id = entry.service_id = self._resolve(entry.service_id)
        if entry.connection_id is not None:
            # Raises if the stream that was meant is not the active one any more.
            self._find(entry)
        messages, session_events = self._session.reset_stream(service_id)
        if messages:
            key = self._command_key()
            self._outbox.pending.queued(key, entry)
            for message in messages:
                self._wire.control(message, key)
        elif session_events:
            # In V1 and V2 the end of the connection has already told the end of the stream.
            self._outbox.complete([entry], None)
        else:
            self._session.data(service_id, 1, b"")
            raise ServiceWithoutStream(service_id)
        self._shell.handle_events(session_events)

    # -- what became of them

    def on_taken(self, key: ConnectionKey, messages: int) -> None:
        """Note that messages of a connection have left the queue."""
        self._outbox.pending.taken(key, messages)

    def on_end_taken(self, key: ConnectionKey, *, is_sent: bool) -> None:
        """The end of a connection was taken out of the queue; `is_sent` False: it was ended."""
        if is_sent:
            self._outbox.pending.taken(key)
        else:
            self._outbox.complete(self._outbox.pending.discarded(key), None)

    def on_written(self) -> None:
        """Note that messages of a connection have left for the operating system."""
        pending = self._outbox.pending
        for key, messages in self._wire.messages_left.items():
            if key.serial < 0:
                pending.taken(key)
            self._outbox.complete(pending.written(key, messages), None)

    def on_unsendable(self, key: ConnectionKey, error: LocalProtocolError, messages: int) -> None:
        """Note that messages of a connection cannot be sent any more."""
        for _ in range(messages):
            self._outbox.complete(self._outbox.pending.refused(key), error)

    def on_discarded(self, key: ConnectionKey, error: TunnelError | None = None) -> None:
        """Note that messages of a connection were dropped; None: because its stream is over."""
        entries = self._outbox.pending.discarded(key)
        self._outbox.complete(entries, error or ServiceWithoutStream(key.service_id))

    def on_lost(self, error: TunnelError) -> None:
        """Note that the link is lost, with all messages that had not left."""
        self._outbox.complete(self._outbox.pending.lost(), error)

    # -- events of the tunnel

    def tell_success(self, service_ids: tuple[str, ...], channel_id: str) -> None:
        """Tell the user that SERVICE_IDS has arrived."""
        self._outbox.is_connected = True
        self._outbox.emit(ConnectionSuccess(self._name, service_ids, channel_id))

    def tell_failure(self, error: TunnelError) -> None:
        """An attempt to connect failed."""
        cause = error.__cause__
        answer = cause if isinstance(cause, HandshakeError) else error
        self._outbox.emit(ConnectionFailure(self._name, answer))

    def tell_shutdown(self, error: TunnelError | None) -> None:
        """Tell the user that the connection has ended."""
        self._outbox.is_connected = False
        self._outbox.emit(ConnectionShutdown(self._name, error))

    def tell_session_reset(self) -> None:
        """Tell the user that SESSION_RESET has arrived."""
        self._outbox.emit(SessionReset(self._name))

    def tell_refused(self, service_id: str, connection_id: int, *, is_stream: bool) -> None:
        """A start of the source could not be taken."""
        error = TooManyConnections(service_id, self._shell.max_connections())
        kind = StreamStarted if is_stream else ConnectionStarted
        self._outbox.emit(kind(self._name, service_id, connection_id, error))

    # -- holding back

    def must_hold_back(self) -> bool:
        """Return whether the WebSocket must not be read for now: callbacks do not keep up."""
        full = self._outbox.hold_back()
        if full and not self._stalled:
            self._outbox.callback_queue.stats.add("stalls")
        self._stalled = full
        return full
