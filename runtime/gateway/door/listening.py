"""What a gateway's doors listen on, and how an actor accepts there.

Owns the sockets, which come first so that a wrong address is told before anything runs, and the
turns in which clients are accepted: a crowd of them, or a process without a descriptor left, does
not hold up other actors.
"""

from __future__ import annotations

import errno
import functools
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from tunnelfleet.actors.addresses import Address, TcpAddress, UnixAddress
from tunnelfleet.actors.kernel import DispatchedActor
from tunnelfleet.actors.net.socket_io import ExhaustionLog, close_socket, is_exhausted
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.unix_socket import UnixListener, UnixPlace

__all__ = ["Acceptor", "DoorListener", "MayAccept"]


TURN_ACCEPTS = 64
"""Clients accepted in one turn before other actors have theirs."""
EXHAUSTED_PAUSE_SECONDS = 1.0
"""How long accepting rests when the process has no file descriptor left."""
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors of an address that this machine does not have: the name's others are listened on."""


class DoorListener:
    """What one door listens on.

    Args:
        address: where; a free port in place of port 0.
        sockets: non-blocking.
        file: of a Unix socket.
    """

    def __init__(
        self, address: Address, sockets: list[socket.socket], file: UnixListener | None = None
    ) -> None:
        self.address = address
        self.sockets = sockets
        self._file = file

    @classmethod
    def at_unix(
        cls, path: str | Path, *, mode: int, group: str | None = None, backlog: int = 128
    ) -> Self:
        """Listen on a Unix socket that those may use whom its mode and its group let in.

        Raises:
            ConfigError: it is not possible.
        """
        path = Path(path)
        file = UnixListener(UnixPlace(path, mode, group, "a front door"))
        file.socket.setblocking(False)
        file.socket.listen(backlog)
        return cls(UnixAddress(str(path)), [file.socket], file)

    @classmethod
    def at_tcp(cls, address: TcpAddress, *, backlog: int = 128, what: str = "a front door") -> Self:
        """Listen on a TCP port, the same at each address of the host that this machine has.

        Raises:
            ConfigError: it is not possible.
        """
        sockets: list[socket.socket] = []
        port = address.port
        missing = OSError(errno.EADDRNOTAVAIL, "this machine has no such address")
        try:
            found = socket.getaddrinfo(
                address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, *_kind, target in sorted(set(found), key=lambda each: each[0]):
                try:
                    sockets.append(_listen(family, (target[0], port, *target[2:]), backlog))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error
                else:
                    port = sockets[-1].getsockname()[1]
            if not sockets:
                raise missing
        except OSError as error:
            for sock in sockets:
                close_socket(sock)
            raise ConfigError(
                f"{what} cannot listen on {address}: {error.strerror or error}; "
                "choose another address"
            ) from None
        return cls(TcpAddress(address.host, port), sockets)

    def close(self) -> None:
        """Close it, and remove the file of a Unix socket."""
        if self._file is not None:
            # First, so that no client finds a socket that nobody listens on any more.
            self._file.remove()
        for sock in self.sockets:
            close_socket(sock)


def _listen(family: int, target: object, backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Else `::` would take the port of `0.0.0.0`, too.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)  # type: ignore[arg-type]
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


class MayAccept(NamedTuple):
    """Try to accept again: to be passed on to `Acceptor.start`."""


class Acceptor:
    """Accepts clients, as a part of an actor.

    Args:
        actor: in whose turns.
        listeners: what it listens on, non-blocking.
        exhaustion: writes the log line about descriptors that are missing.
        what: is done, for that line.
        take: called with each client's socket, non-blocking, and its address.
        relieve: called when the process has no descriptor left, to let somebody go.
    """

    def __init__(
        self,
        actor: DispatchedActor,
        listeners: Sequence[socket.socket],
        exhaustion: ExhaustionLog,
        what: str,
        take: Callable[[socket.socket, Any], object],
        relieve: Callable[[], object],
    ) -> None:
        self._actor = actor
        self._listeners = listeners
        self._exhaustion = exhaustion
        self._what = what
        self._take = take
        self._relieve = relieve

    def start(self) -> None:
        """Accept, or accept again."""
        for listener in self._listeners:
            self._actor.add_reader(listener, functools.partial(self._on_acceptable, listener))

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
            sock.setblocking(False)
            self._take(sock, address)

    def _rest(self, error: OSError) -> None:
        self._exhaustion.note(self._what, error)
        for listener in self._listeners:
            self._actor.remove_reader(listener)
        self._relieve()
        self._actor.schedule(EXHAUSTED_PAUSE_SECONDS, MayAccept())
