"""The sockets that front doors listen on.

Owns how they are made: a Unix socket with its permissions before anybody can connect to it, and in
the place of one that nobody listens on any more; a TCP port at each address of its host.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelfleet.actors.addresses import TcpAddress, UnixAddress
from tunnelfleet.proto import ConfigError

if TYPE_CHECKING:
    from tunnelfleet.actors.addresses import Address

__all__ = ["close_listeners", "listen_at_tcp", "listen_at_unix"]


def listen_at_unix(
    path: Path, *, mode: int, group: str | None = None, backlog: int = 128
) -> socket.socket:
    """Listen on a Unix socket.

    Args:
        path: where; its folder must be there.
        mode: who may connect, as the permissions of a file.
        group: that the socket belongs to, by name; None leaves the process's own.
        backlog: how many may wait in the kernel.

    Raises:
        ConfigError: it is not possible: somebody listens there, or the group is none.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(os.fspath(path))
        try:
            # Before it listens: until then nobody can connect.
            path.chmod(mode)
            if group is not None:
                os.chown(path, -1, grp.getgrnam(group).gr_gid)
            sock.listen(backlog)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except (OSError, KeyError) as error:
        sock.close()
        raise ConfigError(f"cannot listen on {path}: {_reason(error, group)}") from None
    sock.setblocking(False)
    return sock


def _reason(error: OSError | KeyError, group: str | None) -> str:
    if isinstance(error, KeyError):
        return f"there is no group {group!r} on this machine"
    if error.errno == errno.EADDRINUSE:
        return "another process listens there; stop it, or name another address"
    return error.strerror or str(error)


def _remove_stale(path: Path) -> None:
    """Remove a socket that a former process left behind; one that still answers is in use."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED:
            path.unlink()


def listen_at_tcp(address: TcpAddress, *, backlog: int = 128) -> list[socket.socket]:
    """Listen on a TCP port, at each address of the host that this machine has.

    Port 0 takes a free one, which is the same at all of them.

    Raises:
        ConfigError: it is not possible.
    """
    sockets: list[socket.socket] = []
    port = address.port
    try:
        found = socket.getaddrinfo(
            address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        missing = OSError(errno.EADDRNOTAVAIL, "this machine has no such address")
        # IPv4 first, as people read one address where there is room for one.
        for family, *_kind, target in sorted(set(found), key=lambda each: each[0]):
            try:
                sockets.append(_listen(family, (target[0], port, *target[2:]), backlog))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
            else:
                port = sockets[-1].getsockname()[1]
        if not sockets:
            raise missing
    except OSError as error:
        close_listeners(sockets)
        raise ConfigError(f"cannot listen on {address}: {_reason(error, None)}") from None
    return sockets


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


def address_of(sock: socket.socket) -> Address:
    """Where a listener listens."""
    name = sock.getsockname()
    return UnixAddress(name) if sock.family == socket.AF_UNIX else TcpAddress(name[0], name[1])


def close_listeners(sockets: list[socket.socket]) -> None:
    """Close listeners, and remove the files of those that have one."""
    for sock in sockets:
        address = address_of(sock)
        sock.close()
        if isinstance(address, UnixAddress):
            Path(address.path).unlink(missing_ok=True)
