"""ApiStream: the far end of a stream when that is the user, not a socket.

It takes the messages that a StreamActor takes, turns them into events for the user's callbacks, and
ends connections when the peer has. Unlike a StreamActor it is no actor: it lives in TunnelActor's
turns, so that the events of all streams of a tunnel, and its own, have one order. It holds no
bytes and touches no socket. It must not know the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from tunnelfleet.proto import Mode, ProtocolVersion

from .api_events import (
    ConnectionReset,
    ConnectionStarted,
    Message,
    MessageReceived,
    StreamStarted,
    StreamStopped,
)
from .messages import (
    ConnectionEnded,
    ConnectionKey,
    DeliverTo,
    OpenLocal,
    RemoteEndedFor,
    StopReadingLocal,
    StopStream,
)

if TYPE_CHECKING:
    from pykka import ActorRef

    from .api_port import ApiPort
    from .handlers import Handlers

__all__ = ["ApiStream", "OpenConnections"]

OpenConnections = dict[tuple[str, int], ConnectionKey]
"""The connections on which a user may send, by service id and connection id."""


class ApiStream:
    """One stream that ends at the user's callbacks.

    Args:
        service_id: its service.
        stream_id: its id.
        serial: tells it from another stream with the same ids.
        version: what it speaks.
        mode: of the tunnel; a source's user started the stream and is not told of it.
        tunnel: the TunnelActor.
        port: takes the events.
        open_connections: of the whole tunnel, kept up to date here.
    """

    def __init__(
        self,
        service_id: str,
        stream_id: int,
        serial: int,
        *,
        version: ProtocolVersion | None,
        mode: Mode,
        tunnel: ActorRef[Any],
        port: ApiPort,
        open_connections: OpenConnections,
    ) -> None:
        self._service_id = service_id
        self._stream_id = stream_id
        self._serial = serial
        self._is_v3 = version is ProtocolVersion.V3
        self._is_source = mode is Mode.SOURCE
        self._tunnel = tunnel
        self._port = port
        self._open = open_connections
        self._mine: set[int] = set()
        self._started = False
        self._stopped = False

    def tell(self, message: Any) -> None:
        """Handle a message at once."""
        self.HANDLERS[type(message)](self, message)

    def _on_open(self, message: OpenLocal) -> None:
        service_id, connection_id = self._service_id, message.connection_id
        self._mine.add(connection_id)
        self._open[service_id, connection_id] = ConnectionKey(
            service_id, self._stream_id, connection_id, self._serial
        )
        kind = ConnectionStarted if self._started else StreamStarted
        if not self._started:
            self._started = True
            self._port.active_services.add(service_id)
        if not self._is_source:
            self._port.emit(kind(self._port.name, service_id, connection_id))

    def _on_deliver(self, message: DeliverTo) -> None:
        if message.connection_id not in self._mine:
            return
        port = self._port
        payload = message.data
        item = Message(payload, self._service_id, message.connection_id)
        port.emit(MessageReceived(port.name, item), len(payload))

    def _on_remote_ended(self, message: RemoteEndedFor) -> None:
        if message.connection_id not in self._mine:
            return
        if self._is_v3:
            name = self._port.name
            self._port.emit(ConnectionReset(name, self._service_id, message.connection_id))
        else:
            self._tell_stopped()
        self._end(message.connection_id, "ended by the peer")

    def _on_stop_reading(self, _message: StopReadingLocal) -> None:
        self._end_all("the tunnel is stopping")

    def _on_stop(self, _message: StopStream) -> None:
        self._end_all("")
        self._tell_stopped()

    def _end_all(self, reason: str) -> None:
        for connection_id in sorted(self._mine):
            self._end(connection_id, reason)

    def _end(self, connection_id: int, reason: str) -> None:
        self._mine.discard(connection_id)
        key = ConnectionKey(self._service_id, self._stream_id, connection_id, self._serial)
        if self._open.get((self._service_id, connection_id)) == key:
            del self._open[self._service_id, connection_id]
        self._tunnel.tell(ConnectionEnded(key, reason, gone=True))

    def end(self, connection_id: int) -> bool:
        """End a connection because the user says so; False if it is not open."""
        if connection_id not in self._mine:
            return False
        self._end(connection_id, "ended by this side")
        return True

    def _tell_stopped(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._port.active_services.discard(self._service_id)
            self._port.emit(StreamStopped(self._port.name, self._service_id))

    HANDLERS: ClassVar[Handlers] = {
        OpenLocal: _on_open,
        DeliverTo: _on_deliver,
        RemoteEndedFor: _on_remote_ended,
        StopReadingLocal: _on_stop_reading,
        StopStream: _on_stop,
    }
