"""An HTTP server beside the relay: for the management API, and for who watches the service.

Owns a thread with an event loop, TLS, the bounds of a request, and the order of an end. Connections
and their clocks are the administration server's (``runtime/admin/listener``). What is answered is
the business of the handler that it is given.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.admin.listener import Listener
from tunnelfleet.runtime.admin.options import AdminOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.BaseRequest, bytes], Awaitable[web.Response]]

MAX_BODY_BYTES: Final = 1_048_576
BODY_SECONDS: Final = 10.0
"""How long a request's body may take."""

MAX_CONNECTIONS: Final = 256
START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 5.0
SHUTDOWN_SECONDS: Final = 2.0
"""How long requests under way have when the server stops."""

HEADERS: Final = {"Cache-Control": "no-store", "Server": "tunnelfleet"}
"""Of every answer; the second instead of aiohttp's, which tells all versions."""

_log = get_logger(__name__)


class _HidesContents(logging.Filter):
    """Keeps what a client sent out of the log: aiohttp's errors quote it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[0] is not None:
            record.msg = f"{record.msg}: {record.exc_info[0].__name__}"
            record.exc_info = None
        return True


_http_log = logging.getLogger(f"{__name__}.requests")
_http_log.addFilter(_HidesContents())


class BodyTooLarge(Exception):  # noqa: N818 (named as HTTP names it)
    """A request's body is above ``MAX_BODY_BYTES``."""


class HttpServer:
    """Serves requests on a thread of its own.

    Args:
        host: address to listen on.
        port: port; 0 picks a free one.
        handle: answers a request; called with its body. An exception that it raises is answered
            with 500 and logged.
        too_large: answers a request whose body is too large or too slow.
        name: of the thread.
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
        tls: Callable[[], ssl.SSLContext | None] | None = None,
    ) -> None:
        self._options = AdminOptions(
            host=host, port=port, open_to_all=True, max_connections=MAX_CONNECTIONS
        )
        self._handle = handle
        self._too_large = too_large
        self._tls = tls
        self._port = port
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._listener: Listener | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def port(self) -> int:
        """The port; the one that was picked when 0 was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{TcpAddress(self._options.host, self._port)}"

    def start(self) -> Self:
        """Listen.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        self._thread.start()
        self._started.wait(START_SECONDS)
        if self._error is not None:
            self._thread.join(STOP_SECONDS)
            reason = getattr(self._error, "strerror", None) or self._error
            raise ConfigError(
                f"cannot listen on {self.url}: {reason}; choose another address"
            ) from self._error
        return self

    def stop(self) -> None:
        """Answer what is under way, close, and end the thread. Safe to call twice."""
        if self._loop is None or self._stopping is None:
            return
        if self._thread.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:
                _log.debug("the HTTP server ended by itself")
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised again by start()
            self._error = error
            self._started.set()

    async def _serve(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        http = web.Server(self._on_request)

        def make_http() -> web.RequestHandler:
            return web.RequestHandler(
                http,
                loop=loop,
                logger=_http_log,
                # None is what aiohttp's own runner passes on for "no access log".
                access_log=None,  # type: ignore[arg-type]
                keepalive_timeout=self._options.idle_seconds,
                lingering_time=1.0,
            )

        listener = Listener(self._options, make_http, self._context())
        self._listener = listener
        try:
            await listener.start()
            self._port = listener.port
            self._started.set()
            await self._stopping.wait()
        finally:
            listener.close()
            http.pre_shutdown()
            await http.shutdown(SHUTDOWN_SECONDS)
            listener.abort()

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
        connection = self._listener.find(request.transport) if self._listener else None
        if connection is None:
            raise ConnectionResetError("the client has gone")
        try:
            body = await self._body(request)
        except (BodyTooLarge, TimeoutError):
            response = self._too_large()
            response.force_close()
        else:
            connection.begin_handling()
            try:
                response = await self._handle(request, body)
            finally:
                connection.end_handling()
        for name, value in HEADERS.items():
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
