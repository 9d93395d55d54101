"""StreamActor: one active stream of a service, and the SocketActors of its connections.

It starts a SocketActor for each connection, stamps what they read with its ids, and hands what
arrives to the right one. A SocketActor that fails ends its own connection only. It does not know
the wire: TunnelActor does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from .kernel import DispatchedActor, Terminated
from .messages import (
    ConnectionEnded,
    ConnectionKey,
    Deliver,
    DeliverTo,
    LocalDataRead,
    LocalReadEnded,
    OpenLocal,
    RemoteEnded,
    RemoteEndedFor,
    SendData,
    StopReadingLocal,
    StopStream,
)
from .socket_actor import SocketActor

if TYPE_CHECKING:
    from pykka import ActorRef

    from .config import Address, Limits
    from .connector import Connector
    from .handlers import Handlers

__all__ = ["LocalEnd", "StreamActor"]


class LocalEnd(NamedTuple):
    """What a stream's SocketActors need: `address` is None in source mode."""

    address: Address | None
    local_bind: str | None
    limits: Limits
    connector: Connector


class StreamActor(DispatchedActor):
    """One stream.

    Args:
        service_id: its service.
        stream_id: its id.
        tunnel: the TunnelActor.
        local_end: what its sockets connect to.
        serial: tells it from another stream with the same ids.
    """

    def __init__(
        self,
        service_id: str,
        stream_id: int,
        tunnel: ActorRef[Any],
        local_end: LocalEnd,
        serial: int = 0,
    ) -> None:
        super().__init__()
        self._service_id = service_id
        self._stream_id = stream_id
        self._serial = serial
        self._tunnel = tunnel
        self._local_end = local_end
        self._sockets: dict[int, ActorRef[Any]] = {}
        self._by_urn: dict[str, int] = {}
        self._reasons: dict[int, str] = {}
        self._stopping = False

    def on_receive(self, message: Any) -> Any:
        """Dispatch by the message's type."""
        handler = self.HANDLERS.get(type(message))
        if handler is None:
            return super().on_receive(message)
        return handler(self, message)

    def _key(self, connection_id: int) -> ConnectionKey:
        return ConnectionKey(self._service_id, self._stream_id, connection_id, self._serial)

    def _open_local(self, message: OpenLocal) -> None:
        local = self._local_end
        ref = SocketActor.start(
            self._key(message.connection_id),
            self.actor_ref,
            self._tunnel,
            local.limits,
            local.connector,
            sock=message.accepted,
            address=local.address,
            local_bind=local.local_bind,
        )
        self._sockets[message.connection_id] = ref
        self._by_urn[ref.actor_urn] = message.connection_id
        self.watch(ref)

    def _on_data_read(self, message: LocalDataRead) -> None:
        self._tunnel.tell(SendData(self._key(message.connection_id), message.data))

    def _on_read_ended(self, message: LocalReadEnded) -> None:
        self._reasons[message.connection_id] = message.reason
        key = self._key(message.connection_id)
        self._tunnel.tell(ConnectionEnded(key, message.reason, gone=False))

    def _deliver(self, message: DeliverTo) -> None:
        ref = self._sockets.get(message.connection_id)
        if ref is not None:
            ref.tell(Deliver(message.data))

    def _on_remote_ended(self, message: RemoteEndedFor) -> None:
        ref = self._sockets.get(message.connection_id)
        if ref is not None:
            ref.tell(RemoteEnded(message.abort))

    def _stop_reading(self, message: StopReadingLocal) -> None:
        for ref in self._sockets.values():
            ref.tell(message)

    def _on_terminated(self, message: Terminated) -> None:
        connection_id = self._by_urn.pop(message.ref.actor_urn, None)
        if connection_id is None:
            return
        del self._sockets[connection_id]
        reason = self._reasons.pop(connection_id, "")
        if message.reason.is_failure:
            reason = f"its actor failed: {message.reason}"
        self._tunnel.tell(ConnectionEnded(self._key(connection_id), reason, gone=True))
        self._exit_when_empty()

    def _stop_stream(self, message: StopStream) -> None:
        self._stopping = True
        for ref in self._sockets.values():
            ref.tell(RemoteEnded(message.abort))
        self._exit_when_empty()

    def _exit_when_empty(self) -> None:
        if self._stopping and not self._sockets:
            self.exit()

    HANDLERS: ClassVar[Handlers] = {
        OpenLocal: _open_local,
        LocalDataRead: _on_data_read,
        LocalReadEnded: _on_read_ended,
        DeliverTo: _deliver,
        RemoteEndedFor: _on_remote_ended,
        StopReadingLocal: _stop_reading,
        StopStream: _stop_stream,
        Terminated: _on_terminated,
    }
