"""Who is at a front door: passwords, and the users behind Unix sockets.

Owns the threads for what takes its time: scrypt on purpose, and the system's data base of users,
which may be a directory on another machine. A password that was right is remembered, as a digest
under a key of this process, until the file of users changes: browsers log in with each connection.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import pwd
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tunnelfleet.actors.net.daemon_threads import DaemonThreads

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.config.door_users import DoorUsers


_T = TypeVar("_T")
_K = TypeVar("_K")

THREADS = 2
MAX_REMEMBERED = 1_000
"""How many right passwords, and how many names of users, are remembered."""
CLOSE_SECONDS = 2.0
_CREDENTIALS = struct.Struct("iii")
"""struct ucred of unix(7): process, user, group."""


class UnixPeer(NamedTuple):
    """The process at the other side of a Unix socket, as it was when it connected."""

    pid: int
    uid: int

    @classmethod
    def of(cls, sock: socket.socket) -> UnixPeer:
        """Ask the kernel who is at the other side.

        Raises:
            OSError: it cannot say.
        """
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _gid = _CREDENTIALS.unpack(found)
        return cls(pid, uid)


class Identity:
    """Says who clients are. For one thread, which it does not hold up.

    Args:
        max_logins: passwords that may wait to be checked.
    """

    def __init__(self, max_logins: int) -> None:
        self._threads = DaemonThreads(THREADS, "tunnelfleet-door-identity")
        self._max_logins = max_logins
        self._lock = threading.Lock()
        self._logins = 0
        self._names: dict[int, str] = {}
        self._key = os.urandom(32)
        self._good: dict[bytes, None] = {}
        self._good_for: DoorUsers | None = None

    def user_of(self, uid: int) -> str | Future[str]:
        """Return the name of a user of this machine, or `uid=N`; perhaps as a future."""
        known = self._names.get(uid)
        if known is not None:
            return known
        return self._submit(lambda: _look_up(uid))

    def remember_user(self, uid: int, name: str) -> None:
        """The answer to `user_of`. What was not found is asked for again."""
        if not name.startswith("uid="):
            _keep(self._names, uid, name)

    def check(self, users: DoorUsers, user: str, password: str) -> bool | Future[bool] | None:
        """Return whether the user has this password, perhaps as a future.

        Returns:
            None if too many wait for an answer already.
        """
        if self._good_for is not users:
            self._good.clear()
            self._good_for = users
        if self._digest(user, password) in self._good:
            return True
        if self._logins >= self._max_logins:
            return None
        with self._lock:
            self._logins += 1
        return self._submit(lambda: self._check(users, user, password))

    def _check(self, users: DoorUsers, user: str, password: str) -> bool:
        """Check a password, on one of the threads."""
        try:
            return users.check(user, password)
        finally:
            with self._lock:
                self._logins -= 1

    def remember_login(self, users: DoorUsers, user: str, password: str) -> None:
        """Remember a login that was right: the next `check` of it answers at once."""
        if users is self._good_for:
            _keep(self._good, self._digest(user, password), None)

    def _digest(self, user: str, password: str) -> bytes:
        # With the length of the name, as either may have any character: nobody may end a password
        # so that it is another user's name and password.
        text = f"{len(user)}:{user}{password}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).digest()

    def _submit(self, call: Callable[[], _T]) -> Future[_T]:
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 - it is whose who asked
                future.set_exception(error)

        if not self._threads.submit(run):
            future.set_exception(RuntimeError("no thread is left"))
        return future

    def close(self) -> None:
        """End the threads; one that hangs is left behind."""
        self._threads.close(CLOSE_SECONDS)


def _look_up(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid={uid}"


def _keep(kept: dict[_K, _T], key: _K, value: _T) -> None:
    kept[key] = value
    if len(kept) > MAX_REMEMBERED:
        del kept[next(iter(kept))]
