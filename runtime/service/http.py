"""An HTTP server beside the relay: for the management API, and for who watches the service.

Owns the bounds of a request's body, TLS with the service's present certificate, and what is said
of a port that is taken. Thread, connections and clocks are those of `runtime/admin/http_thread`.
What is answered is the business of the handler that it is given.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.admin.http_thread import HttpThread
from tunnelfleet.runtime.admin.listener import listen_tcp
from tunnelfleet.runtime.admin.options import HttpLimits

if TYPE_CHECKING:
    Handler = Callable[[web.BaseRequest, bytes], Awaitable[web.Response]]


class BodyTooLarge(Exception):  # noqa: N818 (named as HTTP names it)
    """A request's body is above ``MAX_BODY_BYTES``."""


MAX_BODY_BYTES: Final = 1_048_576
BODY_SECONDS: Final = 10.0
"""How long a request's body may take."""
MAX_CONNECTIONS: Final = 256
SHUTDOWN_SECONDS: Final = 2.0
"""How long requests under way have when the server stops."""
HEADERS: Final = {"Cache-Control": "no-store", "Server": "tunnelfleet"}
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
        self._host = host
        self._port = port
        self._handle = handle
        self._too_large = too_large
        self._tls = tls
        limits = HttpLimits(max_connections=MAX_CONNECTIONS)
        self._http = HttpThread(name, name, self._make_runner, limits, self._context())

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
            ConfigError: the address cannot be listened on.
        """
        try:
            sockets = listen_tcp(self._host, self._port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self.url}: {error.strerror or error}; choose another address"
            ) from error
        self._port = int(sockets[0].getsockname()[1])
        self._http.start(sockets)
        return self

    def stop(self) -> None:
        """Answer what is under way, close, and end the thread. Safe to call twice."""
        self._http.stop()

    def _make_runner(self, _stopping: asyncio.Event) -> web.BaseRunner:
        return web.ServerRunner(web.Server(self._on_request), shutdown_timeout=SHUTDOWN_SECONDS)

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
