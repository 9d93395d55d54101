"""StreamActor: one active stream of a service, and the SocketActors of its connections.

It starts a SocketActor for each connection, gives it its key, watches it, and says when it is gone.
A SocketActor that fails ends its own connection only. Bytes do not pass here: SocketActor and
TunnelActor speak with each other. It does not know the wire: TunnelActor does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pykka import ActorRef

from tunnelfleet.actors.addresses import Address
from tunnelfleet.actors.kernel import NORMAL, DispatchedActor, Terminated
from tunnelfleet.actors.kernel.actor import Handlers
from tunnelfleet.actors.net.dial import Lookups
from tunnelfleet.actors.tunnel.messages import (
    ConnectionKey,
    LocalClosed,
    OpenLocal,
    StopStream,
)

from .socket_actor import SocketActor

if TYPE_CHECKING:
    from tunnelfleet.actors.config import Limits


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
        self._keys: dict[ActorRef[Any], ConnectionKey] = {}
        """Of all its sockets, those of connections too that are over on the wire."""
        self._stopping = False

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
        self._keys[ref] = key
        self.watch(ref)

    def _on_terminated(self, message: Terminated) -> None:
        key = self._keys.pop(message.ref, None)
        if key is None:
            return
        reason = f"its actor failed: {message.reason}" if message.reason.is_failure else ""
        self._tunnel.tell(LocalClosed(key, reason, message.reason == NORMAL))
        self._exit_when_empty()

    def _stop_stream(self, _message: StopStream) -> None:
        self._stopping = True
        self._exit_when_empty()

    def _exit_when_empty(self) -> None:
        if self._stopping and not self._keys:
            self.exit()

    HANDLERS: ClassVar[Handlers] = {
        OpenLocal: _open_local,
        StopStream: _stop_stream,
        Terminated: _on_terminated,
    }
