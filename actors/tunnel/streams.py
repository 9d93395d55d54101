"""The streams of a tunnel and their connections, between the session and their local ends.

Owns which streams there are and where each ends. Starts and ends that arrive become messages to
local ends, what those do becomes commands of the session and pieces of the sender's queue. Bytes do
not pass here but through `connections`. It decides no time and writes to no link: its caller holds
the link, sends, and ends the tunnel after each call. docs/architecture.md sections 5 and 7.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pykka import ActorRef

from tunnelfleet.actors import events
from tunnelfleet.actors.addresses import Address
from tunnelfleet.actors.config import ANY_SERVICE, ApiService, NoListener
from tunnelfleet.actors.kernel import ChildSpec, Restart, StartChild, Timer
from tunnelfleet.actors.kernel.actor import Handlers
from tunnelfleet.proto import (
    AbnormalEnd,
    Answer,
    ConnectionReset,
    ConnectionStarted,
    DataBurst,
    End,
    Event,
    Message,
    MessageDropped,
    Opened,
    ProtocolVersion,
    ServicesAnnounced,
    SessionReset,
    StopCause,
    StreamStarted,
    StreamStopped,
    TunnelClosed,
    TunnelError,
)

from .connections import Connection, ConnectionTable, EndPhase
from .context import NO_API, ApiHandler, StreamEnd
from .ends import EndHooks, Ends
from .messages import (
    Accepted,
    Attach,
    ChildEnded,
    ConnectionKey,
    HandOver,
    LocalClosed,
    LocalReadEnded,
    OpenLocal,
    RemoteEnded,
    StopReadingLocal,
    StopStream,
)

if TYPE_CHECKING:
    from .context import Common
    from .ends import Marking
    from .pacing import Piece
    from .sender import WireSender


class _Route(NamedTuple):
    """Where a stream ends.

    Attributes:
        ref: its far end, a StreamActor or the client API's.
        has_own_backlog: the far end holds the tunnel back by itself when it does not keep up, so
            what it is sent is not counted here.
    """

    ref: StreamEnd
    has_own_backlog: bool = False


class StreamHooks(NamedTuple):
    """What the streams have their actor do.

    Attributes:
        schedule: sends it a message after some seconds.
        announced: takes SERVICE_IDS, which is not about a stream.
        count_changed: the number of connections is another one.
        takes_connections: whether there is room for one more, and the tunnel does not end.
        is_stopping: whether the tunnel was told to stop, so that nobody is told of a loss.
    """

    schedule: Callable[[float, Any], Timer]
    announced: Callable[[ServicesAnnounced], None]
    count_changed: Callable[[], None]
    takes_connections: Callable[[], bool]
    is_stopping: Callable[[], bool]


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


class Streams:
    """The streams of a tunnel.

    Args:
        common: what the parts of the tunnel have in common.
        sender: takes what is to leave.
        marking: is told what was marked.
        hooks: of the actor.

    Attributes:
        connections: all that there are.
        ends: how they end.
    """

    __slots__ = (
        "_api",
        "_common",
        "_hooks",
        "_lost",
        "_marking",
        "_routes",
        "_sender",
        "_session",
        "_stats",
        "connections",
        "ends",
    )

    def __init__(
        self, common: Common, sender: WireSender, marking: Marking, hooks: StreamHooks
    ) -> None:
        self._common = common
        self._session = common.session
        self._stats = common.stats
        self._sender = sender
        self._marking = marking
        self._hooks: StreamHooks | None = hooks
        self._api: ApiHandler = NO_API
        self.connections = ConnectionTable(common.limits, common.session, common.stats)
        ends_hooks = EndHooks(hooks.schedule, hooks.count_changed, self.handle)
        self.ends = Ends(common, sender, self.connections, ends_hooks)
        self._routes: dict[tuple[str, int], _Route] = {}
        """The newest stream of each pair of ids; a restarted peer uses them again."""
        self._lost: TunnelError | None = None
        """What senders are told whose messages are thrown away; None: that their stream is over."""

    def serve(self, api: ApiHandler) -> None:
        """Have a client API take part, which is made of these streams in turn."""
        self._api = self.ends.api = self.connections.api = api

    # -- from the session

    def handle(self, session_events: Sequence[Event]) -> None:
        """Act on what the session says, in order. Bytes are not given here."""
        for event in session_events:
            self.EVENTS[type(event)](self, event)

    def _on_announced(self, event: ServicesAnnounced) -> None:
        self._get_hooks().announced(event)

    def _on_stream_started(self, event: StreamStarted) -> None:
        target = self._target(event.service_id)
        if target is None or not self._get_hooks().takes_connections():
            self._refuse(event)
            return
        route = self._start_stream(event.service_id, event.stream_id, target)
        self._open(event.service_id, event.stream_id, event.connection_id, route, None)

    def _on_connection_started(self, event: ConnectionStarted) -> None:
        route = self._routes.get((event.service_id, event.stream_id))
        if route is None or not self._get_hooks().takes_connections():
            self._refuse(event)
            return
        self._open(event.service_id, event.stream_id, event.connection_id, route, None)

    def _target(self, service_id: str) -> Address | ApiService | None:
        services = self._common.config.services or {}
        target = services.get(service_id) or services.get(ANY_SERVICE)
        return None if isinstance(target, NoListener) else target

    def _refuse(self, event: StreamStarted | ConnectionStarted) -> None:
        if self._api.serves(event.service_id):
            is_stream = isinstance(event, StreamStarted)
            self._api.tell_refused(event.service_id, event.connection_id, is_stream=is_stream)
        self._reset(event.service_id, event.connection_id)
        self._stats.count_dropped("refused_start")

    def _reset(self, service_id: str, connection_id: int) -> None:
        """End a connection on the wire, not in good order."""
        messages, session_events = self._session.reset_connection(
            service_id, connection_id, is_orderly=False
        )
        for message in messages:
            self._sender.control(message)
        self.handle(session_events)

    def _on_connection_reset(self, event: ConnectionReset) -> None:
        connection = self.connections.find(event.service_id, event.stream_id, event.connection_id)
        if connection is None:
            return
        connection.ended_by = connection.ended_by or "peer"
        if event.end is not End.ORDERLY:
            self.ends.discard(connection)
            if event.end is End.CUT:
                connection.reason = connection.reason or "reset by the peer"
            self.ends.release(connection, event.end)
            return
        connection.remote_end = End.ORDERLY
        connection.tell(RemoteEnded(connection.key, End.ORDERLY, "closed by the peer"))
        if self._session.is_known(*connection.key[:3]):
            self.ends.watch_half_closed(connection)
        else:
            self.ends.release(connection, End.ORDERLY)

    def _on_stream_stopped(self, event: StreamStopped) -> None:
        route = self._routes.pop((event.service_id, event.stream_id), None)
        if route is None:
            return
        cause = event.cause
        self._stats.service(event.service_id).count_stream_ended(cause.value)
        # First, as it is all that a user is told; its connections have ended with it.
        route.ref.tell(StopStream(self._abnormal_end(cause)))
        for connection in self.connections.of_stream(route.ref):
            connection.reason = connection.reason or cause.value
            connection.ended_by = connection.ended_by or _ENDED_BY.get(cause, cause.value)
            self.ends.discard(connection, self._lost)
            self.ends.release(connection, event.end)
        name = self._common.config.name
        self._common.publish(
            events.StreamClosed(name, event.service_id, event.stream_id, cause.value)
        )

    def _abnormal_end(self, cause: StopCause) -> AbnormalEnd | None:
        """What a user is told of the end of a stream, if it was not one in good order."""
        is_v3 = self._session.version is ProtocolVersion.V3
        if cause is StopCause.PEER_RESET and not is_v3:
            # The end of its connection has said how it ended.
            return None
        if cause is StopCause.DISCONNECTED and self._get_hooks().is_stopping():
            return None
        text = _CUT_BY.get(cause)
        return None if text is None else AbnormalEnd(text)

    def _on_session_reset(self, _event: SessionReset) -> None:
        self._stats.count_session_reset()
        self._stats.last_event = "session reset"
        self._common.publish(events.SessionWasReset(self._common.config.name))
        self._api.tell_session_reset()

    def _on_answer(self, event: Answer) -> None:
        self._sender.control(event.message)
        self._marking.sent(event.message, time.monotonic())

    def _on_dropped(self, event: MessageDropped) -> None:
        self._stats.count_dropped(event.reason.value)

    # -- starts

    def carry(self, accepted: Accepted | HandOver, greeting: bytes = b"") -> ConnectionKey:
        """Open a connection for a socket, which is the tunnel's unless this raises.

        Raises:
            LocalProtocolError: the session cannot open one.
        """
        opened = self._session.open_connection(accepted.service_id)
        # Before the stream has the socket, and may write to it. A kernel that has been given
        # nothing yet takes it whole; that the socket is broken shows when it is read.
        if greeting:
            with contextlib.suppress(OSError):
                accepted.sock.send(greeting)
        self._queue_resets(opened)
        ids = (opened.service_id, opened.stream_id)
        route = self._routes.get(ids) or self._start_stream(*ids, None)
        key = self._open(*ids, opened.connection_id, route, accepted)
        self._marking.start_queued(opened.messages[-1], key, time.monotonic())
        self._sender.control(opened.messages[-1], key)
        return key

    def adopt(self, opened: Opened, key: ConnectionKey) -> None:
        """Carry a stream or connection that the user has started; `key` is the command's."""
        self._queue_resets(opened)
        self._marking.start_queued(opened.messages[-1], key, time.monotonic())
        self._sender.control(opened.messages[-1], key)
        ids = (opened.service_id, opened.stream_id)
        route = self._routes.get(ids) or self._start_stream(*ids, ApiService())
        self._open(*ids, opened.connection_id, route, None)

    def _queue_resets(self, opened: Opened) -> None:
        """What a new stream takes the place of is over."""
        self.handle(opened.events)
        for message in opened.messages[:-1]:
            self._sender.control(message)

    def _start_stream(
        self, service_id: str, stream_id: int, target: Address | ApiService | None
    ) -> _Route:
        if isinstance(target, ApiService):
            # Held back by the backlog of its events.
            route = _Route(self._api.open_stream(service_id), has_own_backlog=True)
        else:
            route = _Route(self._start_stream_actor(service_id, target))
        self._routes[service_id, stream_id] = route
        self._stats.service(service_id).count_stream_opened()
        name = self._common.config.name
        self._common.publish(events.StreamOpened(name, service_id, stream_id))
        return route

    def _start_stream_actor(self, service_id: str, address: Address | None) -> ActorRef[Any]:
        common = self._common
        start = common.context.parts.stream
        ref = start(common.tunnel, address, common.config.local_bind, common.limits)
        common.tell_transport(
            StartChild(
                ChildSpec(
                    id=f"stream {next(common.serials)} {service_id}",
                    start=lambda: ref,
                    restart=Restart.TEMPORARY,
                    shutdown=STREAM_SHUTDOWN_SECONDS,
                )
            )
        )
        return ref

    def _open(
        self,
        service_id: str,
        stream_id: int,
        connection_id: int,
        route: _Route,
        accepted: Accepted | HandOver | None,
    ) -> ConnectionKey:
        key = ConnectionKey(service_id, stream_id, connection_id, next(self._common.serials))
        counters = self._stats.service(service_id)
        connection = self.connections.add(
            key, route.ref, counters, time.monotonic(), has_own_backlog=route.has_own_backlog
        )
        counters.count_connection_opened()
        route.ref.tell(OpenLocal(key, None if accepted is None else accepted.sock))
        self._tell_opened(connection, accepted)
        self._get_hooks().count_changed()
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
        self._common.publish(
            events.ConnectionOpened(
                self._common.config.name,
                *connection.key,
                live.peer,
                live.user,
                live.opened_at,
                self._stats.channel_id,
            )
        )

    # -- from local ends

    def attach(self, message: Attach) -> None:
        """A SocketActor is there."""
        connection = self.connections.get(message.key)
        if connection is not None:
            connection.attach(message.socket_actor, message.credit_bytes)

    def local_ended(self, message: LocalReadEnded | LocalClosed) -> None:
        """A local end has no more bytes, or is closed."""
        connection = self.connections.get(message.key)
        if connection is None:
            return
        connection.reason = connection.reason or message.reason
        connection.ended_by = connection.ended_by or "local"
        if not message.is_orderly:
            connection.is_orderly = False
        if isinstance(message, LocalClosed):
            connection.leave()
            self.connections.delivered(connection, connection.backlog_bytes, time.monotonic())
        self.ends.advance(connection)

    def stream_actor_ended(self, message: ChildEnded) -> None:
        """A StreamActor has ended; if its stream is still active, it crashed."""
        ids = next((ids for ids, route in self._routes.items() if route.ref == message.ref), None)
        if ids is not None:
            # The stream is over on the wire, and no other.
            for connection in self.connections.of_stream(message.ref):
                connection.reason = connection.reason or f"stream actor ended: {message.reason}"
            self._reset_stream(ids[0])
        for connection in self.connections.all_of_stream(message.ref):
            connection.leave()
            self.ends.advance(connection)

    # -- what leaves

    def encode_piece(self, piece: Piece[ConnectionKey]) -> Sequence[Message | DataBurst]:
        """Make a piece of the queue what it is on the wire: bytes, or the end behind them."""
        connection = self.connections.get(piece.flow.key)
        if connection is None:
            return []
        if piece.payload is None:
            return self.ends.encode_end(connection)
        message = self.connections.encode(connection, piece.payload, piece.more)
        return [] if message is None else [message]

    # -- ends of all

    def stop_reading(self) -> None:
        """Have local ends read no more, as if each had ended: the tunnel stops."""
        for connection in self.connections:
            connection.tell(StopReadingLocal())
            if connection.end_phase is EndPhase.SENT:
                # What the peer has still to send will have nobody to take it.
                self.ends.abort(connection, "tunnel stopped")

    def reset_all(self) -> None:
        """End every stream on the wire at once: the tunnel has no more time."""
        self._lost = TunnelClosed("the tunnel was stopped before it could be sent")
        for service_id, _ in list(self._routes):
            self._reset_stream(service_id)

    def _reset_stream(self, service_id: str) -> None:
        messages, session_events = self._session.reset_stream(service_id)
        for message in messages:
            self._sender.control(message)
        self.handle(session_events)

    def link_ended(self) -> None:
        """End every stream here: there is no link to end them on."""
        self.connections.give_credit(self._sender.connection_lost())
        self.handle(self._session.disconnected())

    def actor_ended(self, reason: str) -> None:
        """Tell what ends with the actor, and keep nothing that leads back to it."""
        for connection in self.connections:
            self.ends.tell_closed(connection, reason, "actor_ended")
        self._stats.connections.clear()
        self._api = self.connections.api = NO_API
        self._hooks = None
        self.ends.let_go()

    def _get_hooks(self) -> StreamHooks:
        assert self._hooks is not None
        return self._hooks

    EVENTS: ClassVar[Handlers] = {
        ServicesAnnounced: _on_announced,
        StreamStarted: _on_stream_started,
        ConnectionStarted: _on_connection_started,
        ConnectionReset: _on_connection_reset,
        StreamStopped: _on_stream_stopped,
        SessionReset: _on_session_reset,
        Answer: _on_answer,
        MessageDropped: _on_dropped,
    }
    """What the session says to what is done."""
