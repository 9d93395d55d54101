"""Unix sockets that a gateway listens on: who may use them, and what happens to one that is there.

Owns the folder and the file of such a socket: made for its owner alone unless a mode or a group
says otherwise, taken over if nobody listens there any more, removed at the end if it is still ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunnelfleet.actors.net.socket_io import close_socket
from tunnelfleet.proto import ConfigError

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
        group = None if place.group is None else _group_id(place.group)
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


def _group_id(name: str) -> int:
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
