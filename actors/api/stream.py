"""ApiStream: the end of a stream that leads to the user instead of a socket.

It takes the messages that a StreamActor and its SocketActors take, turns them into events for the
user's callbacks, and ends connections when the peer has. Unlike a StreamActor it is no actor: it
lives in TunnelActor's turns, so that the events of all streams of a tunnel, and its own, have one
order. It holds no bytes and touches no socket. It must not know the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

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
from tunnelfleet.proto import AbnormalEnd, End, Mode, ProtocolVersion, TunnelError

from .events import (
    ConnectionReset,
    ConnectionStarted,
    InputEnded,
    Message,
    MessageReceived,
    StreamStarted,
    StreamStopped,
)

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.kernel.actor import Handlers

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
        self._tunnel = tunnel
        self._outbox = outbox
        self._open = open_connections
        self._mine: dict[int, ConnectionKey] = {}
        self._told: set[ConnectionKey] = set()
        """Connections whose end the user was told while it may still send on them."""
        self._started = False
        self._stopped = False

    def tell(self, message: Any) -> None:
        """Handle a message at once."""
        self.HANDLERS[type(message)](self, message)

    def _on_open(self, message: OpenLocal) -> None:
        key = message.key
        service_id, connection_id = self._service_id, key.connection_id
        self._mine[connection_id] = key
        self._open[service_id, connection_id] = key
        kind = ConnectionStarted if self._started else StreamStarted
        if not self._started:
            self._started = True
            self._outbox.active_services.add(service_id)
        if not self._is_source:
            self._outbox.emit(kind(self._outbox.name, service_id, connection_id))

    def _on_deliver(self, message: Deliver) -> None:
        connection_id = message.key.connection_id
        if connection_id not in self._mine:
            return
        outbox = self._outbox
        payload = message.data
        item = Message(payload, self._service_id, connection_id)
        outbox.emit(MessageReceived(outbox.name, item), len(payload))

    def _on_remote_ended(self, message: RemoteEnded) -> None:
        key = message.key
        if self._mine.get(key.connection_id) != key:
            return
        outbox = self._outbox
        if message.end is End.ORDERLY and outbox.half_close:
            outbox.emit(InputEnded(outbox.name, self._service_id, key.connection_id))
            return
        if key not in self._told:
            error = AbnormalEnd(message.reason) if message.end is End.CUT else None
            self._tell_ended(key.connection_id, error)
        if message.end is End.ORDERLY:
            self._told.add(key)
            # Behind what the callbacks hand over until they have returned.
            outbox.after_callbacks(EndTold(key))
        else:
            self._end(key, message.reason)

    def _on_stop_reading(self, _message: StopReadingLocal) -> None:
        self._end_all("the tunnel is stopping", is_orderly=False)

    def _on_stop(self, message: StopStream) -> None:
        self._end_all("", is_orderly=False)
        self._tell_stopped(message.error)

    def _end_all(self, reason: str, *, is_orderly: bool) -> None:
        for _, key in sorted(self._mine.items()):
            self._end(key, reason, is_orderly=is_orderly)

    def _end(self, key: ConnectionKey, reason: str, *, is_orderly: bool = True) -> None:
        del self._mine[key.connection_id]
        self._told.discard(key)
        if self._open.get((self._service_id, key.connection_id)) == key:
            del self._open[self._service_id, key.connection_id]
        self._tunnel.tell(LocalClosed(key, reason, is_orderly))

    def end(self, key: ConnectionKey) -> None:
        """End a connection because the user says so, or has been told that the peer has."""
        if self._mine.get(key.connection_id) == key:
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
