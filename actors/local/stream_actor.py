"""StreamActor: one active stream of a service, and the SocketActors of its connections.

It starts a SocketActor for each connection, hands what they read on, and what arrives to the right
one. A SocketActor that fails ends its own connection only. It does not know
the wire: TunnelActor does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tunnelfleet.actors.kernel import NORMAL, DispatchedActor, Terminated
from tunnelfleet.actors.tunnel.messages import (
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
    from collections.abc import Callable

    from pykka import ActorRef

    from tunnelfleet.actors.addresses import Address
    from tunnelfleet.actors.config import Limits
    from tunnelfleet.actors.kernel.actor import Handlers
    from tunnelfleet.actors.net.dial import Lookups

__all__ = [
    "LocalEnd",
    "StreamActor",
]


class LocalEnd(NamedTuple):
    """What a stream's SocketActors need: `address` is None in source mode."""

    address: Address | None
    local_bind: str | None
    limits: Limits
    lookups: Lookups


class StreamActor(DispatchedActor):
    """One stream.

    Args:
        tunnel: the TunnelActor.
        local_end: what its sockets connect to.
        start_socket: starts a SocketActor, with the arguments of one.
    """

    def __init__(
        self,
        tunnel: ActorRef[Any],
        local_end: LocalEnd,
        start_socket: Callable[..., ActorRef[Any]] = SocketActor.start,
    ) -> None:
        super().__init__()
        self._tunnel = tunnel
        self._local_end = local_end
        self._start_socket = start_socket
        self._sockets: dict[int, ActorRef[Any]] = {}
        """The newest socket of each connection id."""
        self._by_key: dict[ConnectionKey, ActorRef[Any]] = {}
        """All sockets, those of ended connections too."""
        self._keys: dict[str, ConnectionKey] = {}
        """Their keys by the URN of their actor."""
        self._reasons: dict[ConnectionKey, str] = {}
        self._stopping = False

    def on_receive(self, message: Any) -> Any:
        """Dispatch by the message's type."""
        handler = self.HANDLERS.get(type(message))
        if handler is None:
            return super().on_receive(message)
        return handler(self, message)

    def _open_local(self, message: OpenLocal) -> None:
        local = self._local_end
        key = message.key
        ref = self._start_socket(
            key,
            self.actor_ref,
            self._tunnel,
            local.limits,
            local.lookups,
            sock=message.accepted,
            address=local.address,
            local_bind=local.local_bind,
        )
        self._sockets[key.connection_id] = ref
        self._by_key[key] = ref
        self._keys[ref.actor_urn] = key
        self.watch(ref)

    def _on_data_read(self, message: LocalDataRead) -> None:
        self._tunnel.tell(SendData(message.key, message.data))

    def _on_read_ended(self, message: LocalReadEnded) -> None:
        key, reason, is_orderly = message
        self._reasons[key] = reason
        self._tunnel.tell(ConnectionEnded(key, reason, is_orderly, gone=False))

    def _deliver(self, message: DeliverTo) -> None:
        ref = self._sockets.get(message.connection_id)
        if ref is not None:
            ref.tell(Deliver(message.data))

    def _on_remote_ended(self, message: RemoteEndedFor) -> None:
        ref = self._by_key.get(message.key)
        if ref is not None:
            ref.tell(RemoteEnded(message.end, message.reason))

    def _stop_reading(self, message: StopReadingLocal) -> None:
        for ref in self._sockets.values():
            ref.tell(message)

    def _on_terminated(self, message: Terminated) -> None:
        key = self._keys.pop(message.ref.actor_urn, None)
        if key is None:
            return
        del self._by_key[key]
        if self._sockets.get(key.connection_id) == message.ref:
            del self._sockets[key.connection_id]
        reason = self._reasons.pop(key, "")
        is_orderly = message.reason == NORMAL
        if message.reason.is_failure:
            reason = f"its actor failed: {message.reason}"
        self._tunnel.tell(ConnectionEnded(key, reason, is_orderly, gone=True))
        self._exit_when_empty()

    def _stop_stream(self, _message: StopStream) -> None:
        self._stopping = True
        self._exit_when_empty()

    def _exit_when_empty(self) -> None:
        if self._stopping and not self._keys:
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
