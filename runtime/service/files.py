"""The files that the service makes: whole or not at all, private, and never through a link.

Owns how a file is written and read in a folder that others may have been in, and the folder in the
system's temporary directory that goes with its process. Must not know what the files hold.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tunnelfleet.actors.kernel.log import get_logger

PRIVATE_MODE: Final = 0o600
PRIVATE_FOLDER_MODE: Final = 0o700
MAX_FILE_BYTES: Final = 1_048_576
"""A larger file is none of ours."""

FOLDER_PREFIX: Final = "tunnelfleet-service-"
QUICKSTART_PREFIX: Final = "tunnelfleet-quickstart-"
MAX_LEFTOVERS: Final = 1_000
"""So many folders of dead processes are removed at a start; the next one goes on."""

_LOCK: Final = "lock"
_UNFINISHED: Final = re.compile(r"\..+\.[0-9a-f]{16}\.new\Z")
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OTHERS: Final = 0o077

_log = get_logger(__name__)


def write_file(path: Path, content: bytes, mode: int = PRIVATE_MODE) -> None:
    """Write a file so that it is there whole or, whatever happens, as it was before.

    It is written aside under a name that nobody had, and renamed: what stood at `path` is replaced,
    were it a link, and not followed.

    Raises:
        OSError: the folder cannot be written, or a folder stands at `path`.
    """
    aside = f".{path.name}.{secrets.token_hex(8)}.new"
    folder = os.open(path.parent, _OPEN_FOLDER)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(aside, flags, PRIVATE_MODE, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(aside, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside, dir_fd=folder)
            raise
        os.fsync(folder)
    finally:
        os.close(folder)


def read_file(path: Path, *, private: bool = False) -> bytes | None:
    """Return what a file of ours holds; None if there is none: a link, a pipe, a folder are none.

    Args:
        path: where it is.
        private: take from others what they may do with it, and say so in the log.

    Raises:
        OSError: it is there and cannot be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}:
            return None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            return None
        if private and status.st_mode & _OTHERS:
            _log.warning("%s could be read by others; from now on by its owner alone", path)
            os.fchmod(descriptor, PRIVATE_MODE)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE_BYTES)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make a folder if need be, and keep other processes from writing it meanwhile.

    What a process left unfinished that was killed while it wrote is removed: it may be a key.

    Raises:
        OSError: the folder cannot be made or opened.
    """
    folder.mkdir(PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
    descriptor = os.open(folder, _OPEN_FOLDER)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for name in os.listdir(descriptor):  # noqa: PTH208 (no path: what the lock is on)
            if _UNFINISHED.match(name):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=descriptor)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


class TemporaryFolder:
    """A folder for the life of this process, and of nobody longer.

    A lock in it tells the living from the dead: the kernel lets go of a lock when its process ends,
    however that ends, so a folder whose lock can be had is nobody's (`remove_leftovers`). The
    number of a process would not do: it is used again, and containers that share a folder have
    numbers of their own.

    Args:
        prefix: of its name, `FOLDER_PREFIX` or `QUICKSTART_PREFIX`: others are never removed.

    Attributes:
        path: where it is.

    Raises:
        OSError: the temporary directory cannot be written.
    """

    def __init__(self, prefix: str = FOLDER_PREFIX) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        lock = _lock_anew(self.path)
        self._finalizer = weakref.finalize(self, _end_folder, self.path, lock, os.getpid())

    def remove(self) -> None:
        """Remove it with all that is in it. Does nothing when it is removed already."""
        self._finalizer()


def _lock_anew(folder: Path) -> int:
    """Put a lock into a new folder and return it, held. Seen by others only once it is held."""
    unseen = folder / f"{_LOCK}.new"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(unseen, flags, PRIVATE_MODE)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unseen.rename(folder / _LOCK)
    return descriptor


def _end_folder(path: Path, lock: int, process_id: int) -> None:
    # A child of a fork has the same object, and ends; the folder is still its parent's.
    if os.getpid() == process_id:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def remove_leftovers() -> int:
    """Remove the temporary folders of processes that were killed; return how many.

    Only what is a folder of ours, belongs to this user, and has a lock that nobody holds.
    """
    removed = 0
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if removed >= MAX_LEFTOVERS:
                break
            is_ours = entry.name.startswith((FOLDER_PREFIX, QUICKSTART_PREFIX))
            if is_ours and entry.is_dir(follow_symlinks=False):
                removed += _remove_if_dead(entry.path)
    return removed


def _remove_if_dead(path: str) -> bool:
    try:
        folder = os.open(path, _OPEN_FOLDER | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if os.fstat(folder).st_uid != os.geteuid():
            return False
        lock = os.open(
            _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _empty(folder)
        finally:
            os.close(lock)
        Path(path).rmdir()
    except OSError:  # it lives (BlockingIOError), or is no folder of ours, or somebody was faster
        return False
    finally:
        os.close(folder)
    return True


def _empty(folder: int) -> None:
    """Remove what is in a folder, its lock last: who is killed in between leaves a dead folder."""
    for name in sorted(os.listdir(folder), key=lambda name: name == _LOCK):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
