"""The sockets that front doors listen on.

Owns the way from an address to what listens there, at a TCP port of each address of a host, or at a
Unix socket, and its end.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tunnelfleet.actors.addresses import TcpAddress, UnixAddress
from tunnelfleet.actors.net.socket_io import close_socket
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.unix_socket import UnixListener, UnixPlace

if TYPE_CHECKING:
    from tunnelfleet.actors.addresses import Address

__all__ = ["DoorListener"]

_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""An address of a name that this machine does not have: the others are listened on."""


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
    def at_tcp(cls, address: TcpAddress, *, backlog: int = 128) -> Self:
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
                f"a front door cannot listen on {address}: {error.strerror or error}; "
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
