"""A thread with an event loop that serves HTTP, and ends with its owner.

`HttpThread` owns the thread, aiohttp's runner and the connections' clocks: what is the same for the
pages of a runtime and the admin API of a gateway. `HttpServer` is one for whoever answers requests
with a function, as the tunneling service does. Nothing that a client sent is logged: people put
tokens into URLs and headers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Self, TypeAlias

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion10, HttpVersion11

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.proto import CannotListen

from .listener import HttpConnection, HttpHandler, Listener, listen_tcp
from .options import HttpLimits

SHUTDOWN_SECONDS: Final = 1.0
"""How long requests under way have when the server stops."""

_log = get_logger(__name__)


class _WithoutContents(logging.Filter):
    """Keeps what a client sent out of the log: aiohttp's errors quote it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[0] is not None:
            if issubclass(record.exc_info[0], HttpProcessingError | web.RequestPayloadError):
                # A mistake of the client's: whoever may connect could fill the log with them.
                record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            record.msg = f"{record.msg}: {record.exc_info[0].__name__}"
            record.exc_info = None
        return True


HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Instead of aiohttp's, which tells all versions.
    "Server": "tunnelfleet",
}
"""Headers of every answer."""


class _RequestHandler(HttpHandler):
    """Speaks HTTP on one connection."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request."""
        response = super().handle_error(request, status, exc, message)
        response.headers.update(HEADERS)
        return response


VERSIONS: Final = (HttpVersion10, HttpVersion11)
_Answers: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def _only_http_1(answer: _Answers) -> _Answers:
    """Refuse requests of another version of HTTP.

    aiohttp does so by itself, but not where it was built without its parser in C.
    """

    async def look(request: web.BaseRequest) -> web.StreamResponse:
        if request.version in VERSIONS:
            return await answer(request)
        error = HttpProcessingError(code=400, message="no HTTP/1")
        return request.protocol.handle_error(request, 400, error)

    return look


_http_log = logging.getLogger(f"{__name__}.http")
_http_log.addFilter(_WithoutContents())


STOP_SECONDS: Final = 5.0
LINGERING_SECONDS: Final = 1.0
"""How long the body of a request is read that nobody asked for, after the response."""


class HttpThread:
    """Serves HTTP on a thread of its own, from `start` to `stop`.

    Args:
        name: of the thread.
        server: what the log calls it, as in "the administration server".
        make_runner: makes aiohttp's runner of what is served; called on the loop, with an event
            that is set when the server ends: what streams has to end then.
        limits: of connections.
        context: of TLS, or None.
    """

    def __init__(
        self,
        name: str,
        server: str,
        make_runner: Callable[[asyncio.Event], web.BaseRunner],
        limits: HttpLimits,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._name = name
        self._server = server
        self._make_runner = make_runner
        self._limits = limits
        self._context = context
        self._thread: threading.Thread | None = None
        self._is_up = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self.listener: Listener | None = None
        """The connections, once it has started."""

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on these listening sockets, and close them at the end.

        Raises:
            Exception: what the start of the runner raised.
        """
        self._thread = threading.Thread(
            target=self._run, args=(sockets,), name=self._name, daemon=True
        )
        self._thread.start()
        self._is_up.wait()
        if self._error is not None:
            self._thread.join(STOP_SECONDS)
            raise self._error

    def stop(self) -> None:
        """End the thread; what is under way has a moment. Safe to call twice."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        if self._thread.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:
                _log.debug("%s ended by itself", self._server)
        self._thread.join(STOP_SECONDS)

    def find(self, request: web.BaseRequest) -> HttpConnection:
        """Return the connection that a request came on.

        Raises:
            ConnectionResetError: the client has gone.
        """
        connection = self.listener.find(request.transport) if self.listener else None
        if connection is None:
            raise ConnectionResetError("the client has gone")
        return connection

    def _run(self, sockets: Sequence[socket.socket]) -> None:
        try:
            # Whatever policy the host has: what is served on depends on this kind of loop.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._serve(sockets))
        except BaseException as error:  # noqa: BLE001 - raised again by start()
            self._error = error
            self._is_up.set()

    async def _serve(self, sockets: Sequence[socket.socket]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        runner: web.BaseRunner | None = None

        def make_http() -> HttpHandler:
            assert runner is not None
            assert runner.server is not None
            return _RequestHandler(
                runner.server,
                loop=loop,
                logger=_http_log,
                # None is what aiohttp's own runner passes on for "no access log".
                access_log=None,  # type: ignore[arg-type]
                keepalive_timeout=self._limits.idle_seconds,
                lingering_time=LINGERING_SECONDS,
            )

        listener = Listener(sockets, self._limits, make_http, self._context, self._server)
        try:
            runner = self._make_runner(self._stopping)
            await runner.setup()
            assert runner.server is not None
            runner.server.request_handler = _only_http_1(runner.server.request_handler)
            listener.start()
            self.listener = listener
            self._is_up.set()
            await self._stopping.wait()
        finally:
            listener.close()
            if runner is not None:
                await runner.cleanup()
            listener.abort()


Handler: TypeAlias = Callable[[web.BaseRequest, bytes], Awaitable[web.Response]]


class BodyTooLarge(Exception):  # noqa: N818 (named as HTTP names it)
    """A request's body is above ``MAX_BODY_BYTES``."""


MAX_BODY_BYTES: Final = 1_048_576
BODY_SECONDS: Final = 10.0
"""How long a request's body may take."""
MAX_CONNECTIONS: Final = 256
END_SECONDS: Final = 2.0
"""How long requests under way have when the server stops."""
COMMON_HEADERS: Final = {"Cache-Control": "no-store", "Server": "tunnelfleet"}
"""Of every answer; the second instead of aiohttp's, which tells all versions."""


class HttpServer:
    """Serves requests on a thread of its own.

    Args:
        host: address to listen on.
        port: port; 0 picks a free one.
        handle: answers a request; called with its body. An exception that it raises is answered
            with 500 and logged.
        too_large: answers a request whose body is too large or too slow.
        name: of the thread.
        what: it is, for the text of an error.
        tls: returns the context that handshakes use at the time; None serves plain HTTP.
    """

    def __init__(
        self,
        host: str,
        port: int,
        handle: Handler,
        *,
        too_large: Callable[[], web.Response],
        name: str,
        what: str,
        tls: Callable[[], ssl.SSLContext | None] | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._handle = handle
        self._too_large = too_large
        self._tls = tls
        self._what = what
        limits = HttpLimits(max_connections=MAX_CONNECTIONS)
        self._http = HttpThread(name, what, self._make_runner, limits, self._context())

    @property
    def port(self) -> int:
        """The port; the one that was picked when 0 was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{TcpAddress(self._host, self._port)}"

    def start(self) -> Self:
        """Listen.

        Raises:
            CannotListen: the address cannot be listened on.
        """
        try:
            sockets = listen_tcp(self._host, self._port)
        except OSError as error:
            raise CannotListen(self._what, self.url, error) from error
        self._port = int(sockets[0].getsockname()[1])
        self._http.start(sockets)
        return self

    def stop(self) -> None:
        """Answer what is under way, close, and end the thread. Safe to call twice."""
        self._http.stop()

    def _make_runner(self, _stopping: asyncio.Event) -> web.BaseRunner:
        return web.ServerRunner(web.Server(self._on_request), shutdown_timeout=END_SECONDS)

    def _context(self) -> ssl.SSLContext | None:
        """Return a context that takes the present certificate in each handshake.

        The service takes its certificate anew on SIGHUP, and asyncio's server keeps its context.
        """
        get = self._tls
        if get is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2

        def choose(
            connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _old: ssl.SSLContext
        ) -> int | None:
            present = get()
            if present is None:
                return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
            connection.context = present
            return None

        context.sni_callback = choose
        return context

    async def _on_request(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = self._http.find(request)
        try:
            body = await self._body(request)
        except (BodyTooLarge, TimeoutError):
            response = self._too_large()
            response.force_close()
        except web.RequestPayloadError:
            response = web.Response(status=400, text="the body is not as its headers say\n")
            response.force_close()
        else:
            connection.begin_handling()
            try:
                response = await self._handle(request, body)
            finally:
                connection.end_handling()
        for name, value in COMMON_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @staticmethod
    async def _body(request: web.BaseRequest) -> bytes:
        body = bytearray()
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise BodyTooLarge
        return bytes(body)
