"""What a gateway listens on: Unix sockets with their files, TCP, and how an actor accepts there.

Owns the sockets, which come first so that a wrong address is told before anything runs, the file of
a Unix socket, which is made for its owner alone unless a mode or a group says otherwise, and the
turns in which clients are accepted: a crowd of them does not hold up other actors.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import grp
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from tunnelfleet.actors.addresses import Address, TcpAddress, UnixAddress
from tunnelfleet.actors.kernel import DispatchedActor
from tunnelfleet.actors.net.socket_io import ExhaustionLog, close_socket, is_exhausted
from tunnelfleet.proto import CannotListen, ConfigError

BACKLOG = 128
PRIVATE = 0o700
PROBE_SECONDS = 2.0
"""For the question whether somebody listens; a full backlog is somebody."""


@dataclass(frozen=True, slots=True)
class UnixPlace:
    """Where a Unix socket is, and who may use it.

    Attributes:
        path: of the socket.
        mode: permissions of the socket.
        group: that it belongs to, by name; None for the process's own.
        what: what listens there, for messages.
    """

    path: Path
    mode: int = 0o600
    group: str | None = None
    what: str = "a gateway"


class UnixListener:
    """A listening Unix socket and its file.

    Args:
        place: where it is.

    Raises:
        ConfigError: somebody listens there, something else is there, or it cannot be made.
    """

    def __init__(self, place: UnixPlace) -> None:
        self._path = place.path
        group = None if place.group is None else group_id(place.group)
        try:
            _make_folder(place, group)
            with _locked(place.path.parent):
                _make_way(place)
                self.socket = _bind(place, group)
                status = place.path.lstat()
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {place.path}: {error.strerror or error}; name another path"
            ) from None
        self._inode = (status.st_dev, status.st_ino)

    def remove(self) -> None:
        """Remove the file, unless it is another's by now; the socket is closed by whoever has it.

        Safe to call twice.
        """
        with contextlib.suppress(OSError):
            status = self._path.lstat()
            if (status.st_dev, status.st_ino) == self._inode:
                self._path.unlink()


def group_id(name: str) -> int:
    """Return the number of a group of this machine.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"there is no group {name!r} on this machine; name another") from None


def _make_folder(place: UnixPlace, group: int | None) -> None:
    folder = place.path.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Whoever may use the socket must be able to reach it, and nobody else.
        reach = (0o050 if place.mode & 0o060 else 0) | (0o005 if place.mode & 0o006 else 0)
        folder.mkdir(mode=PRIVATE)
        if reach or group is not None:
            os.chown(folder, -1, -1 if group is None else group)
            folder.chmod(PRIVATE | reach)
    except FileExistsError:
        _check_folder(folder)


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which others could put a socket in the place of ours."""
    is_shared = bool(folder.parent.stat().st_mode & stat.S_IWOTH)
    # In /tmp a link can be somebody else's, who lets it lead to a socket of theirs later.
    status = folder.lstat() if is_shared else folder.stat()
    is_foreign = status.st_uid not in (os.getuid(), 0)
    is_open = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{folder} is no folder; name another path for the socket")
    if is_foreign or is_open:
        whose = "belongs to somebody else" if is_foreign else "can be written by everybody"
        raise ConfigError(
            f"the folder {folder} {whose}, who could listen in the place of the gateway; "
            "name another one"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time: two that start together must not both find a socket that nobody has."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_way(place: UnixPlace) -> None:
    """Remove a socket that nobody listens on."""
    try:
        status = place.path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{place.path} is there and no socket; remove it, or name another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(place.path))
        except ConnectionRefusedError:
            place.path.unlink()
            return
        except FileNotFoundError:
            return
        except (BlockingIOError, TimeoutError):
            pass
    raise ConfigError(
        f"{place.what} listens on {place.path} already; stop it, or give this one another path"
    )


def _bind(place: UnixPlace, group: int | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Linux makes the file with the mode of the socket: it is never open to others, unix(7).
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(place.path))
        if group is not None:
            os.chown(place.path, -1, group)
        place.path.chmod(place.mode)
        sock.listen(BACKLOG)
    except BaseException:
        close_socket(sock)
        raise
    return sock


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
            raise CannotListen(what, address, error) from None
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
