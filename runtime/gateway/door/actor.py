"""DoorActor: accepts the clients of all front doors of a gateway.

It owns no socket: those it listens on are `Door`'s, so that a crash of this actor closes no door.
Each client is a VisitorActor's. When no descriptor is left the oldest client without a word goes,
and accepting rests a moment.
"""

from __future__ import annotations

import functools
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.kernel import DispatchedActor
from tunnelfleet.actors.net.socket_io import ExhaustionLog, is_exhausted

from .counters import CountedSocket
from .hall import GiveWay
from .visitor import VisitorActor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hall import Hall

__all__ = ["DoorActor"]

TURN_ACCEPTS = 64
"""Clients accepted in one turn before other actors have theirs."""
EXHAUSTED_PAUSE_SECONDS = 1.0
"""How long accepting rests when the process has no file descriptor left."""


class _MayAccept(NamedTuple):
    """Try to accept again."""


class DoorActor(DispatchedActor):
    """Accepts clients.

    Args:
        listeners: what it listens on, non-blocking.
        hall: what all clients share.
        exhaustion: writes the log line about descriptors that are missing.
    """

    def __init__(
        self, listeners: Sequence[socket.socket], hall: Hall, exhaustion: ExhaustionLog
    ) -> None:
        super().__init__()
        self._listeners = listeners
        self._hall = hall
        self._exhaustion = exhaustion

    def on_start(self) -> None:
        """Begin to accept."""
        self._accept()

    def on_receive(self, message: Any) -> Any:
        """Begin anew after a rest."""
        if isinstance(message, _MayAccept):
            self._accept()
            return None
        return super().on_receive(message)

    def _accept(self) -> None:
        for listener in self._listeners:
            self.add_reader(listener, functools.partial(self._on_acceptable, listener))

    def _on_acceptable(self, listener: socket.socket) -> None:
        for _ in range(TURN_ACCEPTS):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if is_exhausted(error):
                    self._rest(error)
                    return
                continue
            self._take(sock, address)

    def _take(self, sock: socket.socket, address: Any) -> None:
        sock.setblocking(False)
        is_unix = sock.family == socket.AF_UNIX
        peer = "" if is_unix else str(TcpAddress(address[0], address[1]))
        counted = CountedSocket(sock, self._hall.counters)
        self._hall.counters.accepted += 1
        visitor = VisitorActor.start(counted, peer, self.actor_ref, self._hall)
        self._hall.make_room(visitor)

    def _rest(self, error: OSError) -> None:
        self._exhaustion.note("accept at a front door", error)
        for listener in self._listeners:
            self.remove_reader(listener)
        oldest = self._hall.crowd.oldest()
        if oldest is not None:
            oldest.tell(GiveWay())
        self.schedule(EXHAUSTED_PAUSE_SECONDS, _MayAccept())
