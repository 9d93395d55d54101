"""FleetListenerActor: accepts other gateways, and sends envoys to them.

Owns the crowd of those that are in their handshake: with too many the oldest has to go, so that
strangers keep no gateway out. A guest or an envoy that fails is its own affair alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.kernel import DispatchedActor, Terminated, ask_future
from tunnelfleet.actors.net.socket_io import abort_quietly
from tunnelfleet.runtime.gateway.door.crowd import Crowd, DoorLimits
from tunnelfleet.runtime.gateway.door.listening import Acceptor, MayAccept
from tunnelfleet.runtime.gateway.log import RateLimit

from .envoy import AskAway, EnvoyActor, Errand
from .guest import GuestActor, GuestShaken, GuestTurnedAway

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pykka import ActorRef

    from tunnelfleet.actors.kernel.actor import Handlers
    from tunnelfleet.actors.net.socket_io import ExhaustionLog
    from tunnelfleet.runtime.gateway.placement import Member

    from .frames import Question
    from .guest import GuestParts

__all__ = ["FleetListenerActor", "Inquire"]

MAX_HANDSHAKES = 64
"""Gateways, or whoever calls, that have not asked yet."""
MAX_GUESTS = 4_096
"""Connections of other gateways; a further one is closed at once."""
TOLD_STRANGERS = 10
TOLD_SECONDS = 60.0
"""So many lines of the log about those that were turned away in so many seconds."""

logger = logging.getLogger(__name__)


class Inquire(NamedTuple):
    """Ask a gateway. Answers what `AskAway` does."""

    member: Member
    question: Question


class FleetListenerActor(DispatchedActor):
    """Accepts other gateways.

    Args:
        listeners: what it listens on, non-blocking.
        parts: what guests share.
        exhaustion: writes the log line about descriptors that are missing.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        parts: GuestParts,
        exhaustion: ExhaustionLog,
    ) -> None:
        super().__init__()
        self._parts = parts
        self._crowd: Crowd[ActorRef[Any]] = Crowd(DoorLimits(max_handshakes=MAX_HANDSHAKES))
        self._told = RateLimit(TOLD_STRANGERS, TOLD_SECONDS)
        what = "accept another gateway"
        self._acceptor = Acceptor(self, listeners, exhaustion, what, self._take, self._relieve)

    def on_start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    def _take(self, sock: socket.socket, address: Any) -> None:
        if self._parts.counters.open >= MAX_GUESTS:
            self._parts.counters.failures["busy"] += 1
            abort_quietly(sock)
            return
        peer = str(TcpAddress(address[0], address[1]))
        guest = GuestActor.start(sock, peer, self.actor_ref, self._parts)
        self.watch(guest)
        oldest = self._crowd.enter(guest)
        if oldest is not None:
            oldest.stop(block=False)

    def _relieve(self) -> None:
        oldest = self._crowd.oldest()
        if oldest is not None:
            oldest.stop(block=False)

    def _on_shaken(self, message: GuestShaken) -> None:
        self._crowd.named(message.guest)

    def _on_turned_away(self, message: GuestTurnedAway) -> None:
        peer, reason = message
        left_out = self._told.admit(peer.rpartition(":")[0])
        if left_out is None:
            return
        more = f" (and {left_out} more like it before)" if left_out else ""
        extra = {
            "event": "fleet_stranger",
            "by_stranger": True,
            "fields": {"peer": peer, "reason": reason},
        }
        text = "%s is no gateway of this fleet: %s%s"
        logger.warning(text, peer, reason, more, extra=extra)

    def _on_inquire(self, message: Inquire) -> None:
        reply = self.defer_reply()
        errand = Errand(message.member, message.question, self._parts.call_tls(), self.actor_ref)
        envoy = EnvoyActor.start(errand, self._parts.lookups, self._parts.counters)
        future = ask_future(envoy, AskAway())
        future.add_done_callback(lambda done: _pass_on(done, reply))

    def _on_terminated(self, message: Terminated) -> None:
        self._crowd.leave(message.ref)

    HANDLERS: ClassVar[Handlers] = {
        MayAccept: lambda actor, _message: actor._acceptor.start(),  # noqa: SLF001 - its own
        GuestShaken: _on_shaken,
        GuestTurnedAway: _on_turned_away,
        Inquire: _on_inquire,
        Terminated: _on_terminated,
    }


def _pass_on(done: Any, reply: Any) -> None:
    try:
        reply.set(done.get())
    except Exception as error:  # noqa: BLE001 - it is the answer
        reply.fail(error)
