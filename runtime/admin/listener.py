"""Who may be connected to an HTTP server of ours, how many and for how long.

Owns the listening sockets, the accepted connections and their clocks. HTTP itself is aiohttp's,
which has no time for a first request, none for a response that nobody reads, and no limit on
connections. It closes a socket behind its last answer at once, and the kernel resets what is closed
with unread bytes, so that the answer may be lost: here its end is sent, and what still comes is
read, for a moment (RFC 9112 section 9.6). And asyncio's own accept loop logs a traceback for each
turn in which the process has no file descriptor left. It knows no pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from aiohttp import web

from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.net.socket_io import close_socket
from tunnelfleet.proto import counted

if TYPE_CHECKING:
    from .options import HttpLimits


BACKLOG: Final = 128

_log = get_logger(__name__)


def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host.

    Args:
        host: a name or an address.
        port: 0 picks a free one, the same for all addresses.

    Raises:
        OSError: it cannot.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _type, _protocol, _name, address in dict.fromkeys(found):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
            sock.listen(BACKLOG)
            # The others listen where the first one does, also if it picked the port itself.
            port = int(sock.getsockname()[1])
    except BaseException:
        for sock in sockets:
            close_socket(sock)
        raise
    return sockets


class ConnectionState(Enum):
    """What a connection is waiting for."""

    HANDSHAKE = auto()
    """TLS."""
    REQUEST = auto()
    """The server waits for the rest of a request, or for the first one."""
    HANDLING = auto()
    """The server makes the page that was asked for."""
    RESPONDING = auto()
    """The server waits until the client has taken the response."""
    IDLE = auto()
    """The client may ask for another page or go."""
    LINGERING = auto()
    """All is said; what the client still sends is thrown away until it closes, too."""


class HttpHandler(web.RequestHandler):
    """Speaks HTTP on one connection, and says when it is over.

    Attributes:
        on_over: called when it has closed the transport, in the same turn.
    """

    on_over: Callable[[], object] = staticmethod(lambda: None)

    async def start(self) -> None:
        """Answer requests until the last one."""
        await super().start()
        self.on_over()


LINGER_SECONDS: Final = 1.0
"""How long a client may take to close, too, once it was told that all is said."""
LINGER_READ_BYTES: Final = 65_536


class HttpConnection(asyncio.Protocol):
    """One connection: it passes everything on to aiohttp, and keeps the time.

    Args:
        sock: the accepted socket.
        http: what speaks HTTP on it.
        on_end: called with it when it has ended.
    """

    def __init__(
        self,
        sock: socket.socket,
        http: HttpHandler,
        on_end: Callable[[HttpConnection], object],
    ) -> None:
        self._socket = sock
        self._http = http
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._kept: socket.socket | None = None
        """The same socket, which stays open when the transport has closed its own."""
        self._linger_timer: asyncio.TimerHandle | None = None
        self._is_ahead = False
        """Bytes of the next request came before the end of this one."""
        self.task: asyncio.Task[object] | None = None
        """What makes the transport, once it runs."""
        self.is_unwanted = False
        """Whether the connection was aborted before that."""
        self.state = ConnectionState.HANDSHAKE
        self.since = time.monotonic()

    def _enter(self, state: ConnectionState) -> None:
        self.state = state
        self.since = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; the clock of the first request began with the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._http.on_over = self._keep_socket
        self.state = ConnectionState.REQUEST
        self._http.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        if self.state is ConnectionState.IDLE:
            self._enter(ConnectionState.REQUEST)
        elif self.state is not ConnectionState.REQUEST:
            self._is_ahead = True
        self._http.data_received(data)

    def eof_received(self) -> None:
        """Pass the end on; the transport closes then."""
        self._http.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Pass the end on; behind a last answer the socket stays for a moment."""
        self._http.connection_lost(exc)
        # Else they would lead to each other, and wait for the garbage collector.
        del self._http.on_over
        if self._kept is None:
            self._on_end(self)
        else:
            self._linger(self._kept)

    def pause_writing(self) -> None:
        """Pass the call on to aiohttp's protocol."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """Pass the call on to aiohttp's protocol."""
        self._http.resume_writing()

    def begin_handling(self) -> None:
        """Note that a whole request has come: the answer may take its time."""
        self._is_ahead = False
        self._enter(ConnectionState.HANDLING)

    def end_handling(self) -> None:
        """The client's time to take the response begins."""
        self._enter(ConnectionState.RESPONDING)

    def look(self) -> None:
        """Notice that the response has been taken."""
        transport = self._transport
        if (
            self.state is ConnectionState.RESPONDING
            and transport is not None
            and not transport.get_write_buffer_size()
        ):
            self._enter(ConnectionState.REQUEST if self._is_ahead else ConnectionState.IDLE)

    def abort(self) -> None:
        """End it at once."""
        if self.state is ConnectionState.LINGERING:
            self._end_lingering()
        elif self._transport is not None:
            self._drop_kept()
            self._transport.abort()
        elif self.task is not None:
            self.task.cancel()
        else:
            self.is_unwanted = True

    # -- the end

    def _keep_socket(self) -> None:
        # Without a free descriptor it is closed at once.
        with contextlib.suppress(OSError):
            self._kept = self._socket.dup()

    def _drop_kept(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            close_socket(kept)

    def _linger(self, sock: socket.socket) -> None:
        self._enter(ConnectionState.LINGERING)
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._linger_timer = loop.call_later(LINGER_SECONDS, self._end_lingering)
        loop.add_reader(sock, self._throw_away, sock)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        self._throw_away(sock)

    def _throw_away(self, sock: socket.socket) -> None:
        try:
            is_over = not sock.recv(LINGER_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            is_over = True
        if is_over:
            self._end_lingering()

    def _end_lingering(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        if self._kept is not None:
            asyncio.get_running_loop().remove_reader(self._kept)
            self._drop_kept()
            self._on_end(self)

    @property
    def transport(self) -> asyncio.Transport | None:
        """Its transport, from the end of the handshake on."""
        return self._transport


ACCEPTS_PER_TURN: Final = 16
SWEEP_SECONDS: Final = 0.25
"""The time between two looks at the clocks of all connections."""
ACCEPT_PAUSE_SECONDS: Final = 1.0
"""How long nothing is accepted after an accept failed, mostly for want of a descriptor."""
LOG_SECONDS: Final = 60.0
"""The time between two log lines about connections that cannot be accepted."""


class Listener:
    """Accepts connections while there are few enough, and ends those that take too long.

    When there are too many, the one that has kept the server waiting for the longest has to go, so
    that whoever opens connections and says nothing locks nobody out.

    Args:
        sockets: listening ones; the listener closes them.
        limits: of connections.
        make_http: makes what speaks HTTP on a connection.
        context: of TLS, or None.
        server: what the log calls it.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        limits: HttpLimits,
        make_http: Callable[[], HttpHandler],
        context: ssl.SSLContext | None,
        server: str,
    ) -> None:
        self._sockets = list(sockets)
        self._limits = limits
        self._make_http = make_http
        self._context = context
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._connections: set[HttpConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._silent_until = float("-inf")
        self._unlogged = 0
        self._seconds = {
            ConnectionState.HANDSHAKE: limits.request_seconds,
            ConnectionState.REQUEST: limits.request_seconds,
            ConnectionState.RESPONDING: limits.response_seconds,
            ConnectionState.IDLE: limits.idle_seconds,
        }

    @property
    def connections(self) -> int:
        """Return the number of connections."""
        return len(self._connections)

    def start(self) -> None:
        """Accept connections from now on."""
        for sock in self._sockets:
            sock.setblocking(False)
        self._accept_again()
        self._sweep()

    def find(self, transport: asyncio.BaseTransport | None) -> HttpConnection | None:
        """Return the connection of a transport."""
        return next((each for each in self._connections if each.transport is transport), None)

    def close(self) -> None:
        """Accept no more connections. Those that are there go on."""
        for handle in (self._pause, self._sweep_timer):
            if handle is not None:
                handle.cancel()
        self._close_sockets()

    def abort(self) -> None:
        """End what is left of the connections."""
        for connection in list(self._connections):
            connection.abort()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            close_socket(sock)

    # -- accepting

    def _accept_again(self) -> None:
        self._pause = None
        for sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            self._admit(sock)

    def _rest(self, error: OSError) -> None:
        """Without this pause the same connection would be reported again at once."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
        self._pause = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._accept_again)
        self._complain(
            f"{self._server} cannot accept a connection: {error.strerror}; "
            f"it tries again in {ACCEPT_PAUSE_SECONDS:g} s"
        )

    def _complain(self, text: str) -> None:
        now = time.monotonic()
        if now < self._silent_until:
            self._unlogged += 1
            return
        more, self._unlogged = self._unlogged, 0
        self._silent_until = now + LOG_SECONDS
        _log.warning(
            "%s%s", text, f" (and {counted(more, 'time')} since the last line)" if more else ""
        )

    def _admit(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if len(self._connections) >= self._limits.max_connections and not self._make_room():
            close_socket(sock)
            self._complain(
                f"{self._server} has {counted(self._limits.max_connections, 'connection')}, "
                "all at work: another one was closed (see max_connections)"
            )
            return
        connection = HttpConnection(sock, self._make_http(), self._connections.discard)
        self._connections.add(connection)
        task = self._loop.create_task(self._connect(connection, sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _make_room(self) -> bool:
        """End the connection that has waited for its client the longest."""
        for connection in self._connections:
            connection.look()
        waiting = [c for c in self._connections if c.state is not ConnectionState.HANDLING]
        if not waiting:
            return False
        last = min(waiting, key=lambda c: (c.state is ConnectionState.RESPONDING, c.since))
        self._connections.discard(last)
        last.abort()
        return True

    async def _connect(self, connection: HttpConnection, sock: socket.socket) -> None:
        timeout = self._limits.request_seconds if self._context is not None else None
        connection.task = asyncio.current_task()
        try:
            # A failure here is a client that went away or does not speak TLS.
            with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.CancelledError):
                if connection.is_unwanted:
                    return
                await self._loop.connect_accepted_socket(
                    lambda: connection,
                    sock,
                    ssl=self._context,
                    ssl_handshake_timeout=timeout,
                    ssl_shutdown_timeout=None if self._context is None else LINGER_SECONDS,
                )
        finally:
            if connection.transport is None:
                self._connections.discard(connection)
                close_socket(sock)

    # -- time

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            connection.look()
            limit = self._seconds.get(connection.state)
            if limit is not None and now - connection.since > limit:
                self._connections.discard(connection)
                connection.abort()
        self._sweep_timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)
