"""The listening socket: accepting connections, and not when there is nothing to accept with.

Owns the socket and its place on the loop. Must not know what becomes of a connection.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.net.socket_io import close_socket

ACCEPTS_A_TURN: Final = 64
BACKLOG: Final = 2048
ACCEPT_PAUSE_SECONDS: Final = 0.1
LOG_SECONDS: Final = 60.0
"""That nothing can be accepted is told once in so long."""

_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_log = get_logger(__name__)


class ServiceListener:
    """A listening socket, bound when made.

    Args:
        host: address or name to listen on; of a name's addresses the first.
        port: port, or 0 for a free one.
        receive: takes each accepted socket and owns it.
        buffer_bytes: the kernel's receive buffer of each connection; None leaves it to the kernel.
        has_room: asked before each is accepted; while it says no, they wait in the kernel.

    Attributes:
        port: the port it listens on.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        receive: Callable[[socket.socket], None],
        *,
        buffer_bytes: int | None,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._receive = receive
        self._has_room = has_room
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._silent_until = 0.0
        self._socket = socket.socket(family, kind, proto)
        try:
            self._prepare(buffer_bytes)
            self._socket.bind(address)
            self._socket.listen(BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    def _prepare(self, buffer_bytes: int | None) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self._socket.setblocking(False)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept on this loop from now on."""
        self._loop = loop
        loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Stop listening. On the loop's thread, if attached to one."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
        if self._resume is not None:
            self._resume.cancel()
        close_socket(self._socket)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            if not self._has_room():
                self._pause()
                return
            try:
                sock, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._failed(error)
                return
            self._receive(sock)

    def _failed(self, error: OSError) -> None:
        assert self._loop is not None
        self._pause()
        now = self._loop.time()
        if now < self._silent_until:
            return
        self._silent_until = now + LOG_SECONDS
        advice = "; raise the limit of open files" if error.errno in _OUT_OF_RESOURCES else ""
        _log.error("cannot accept connections: %s%s", error.strerror or error, advice)

    def _pause(self) -> None:
        assert self._loop is not None
        self._loop.remove_reader(self._socket)
        self._resume = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self.attach, self._loop)
