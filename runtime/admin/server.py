"""AdminServer: /metrics, /healthz and /readyz of a runtime, on a thread of its own.

Owns the thread, TLS, who is let in, and the pages; connections and their limits are `listener`'s.
What they say comes from the collector and from `health`. It never touches a dispatcher
but to ask whether it turns, so a scrape that takes long holds up no tunnel.

No answer of ours repeats anything of the request, and nothing of it is logged: people put tokens
into URLs. A scrape is made on a second thread, so that it holds up no other page.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)

from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.proto import ConfigError

from .exposition import Breather, expose
from .health import Readiness, TunnelView, join_ends, silent_dispatchers
from .listener import Listener
from .options import AdminOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from tunnelfleet.runtime.runtime import TunnelRuntime

    Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    MakePages = Callable[[asyncio.Event], Mapping[str, Page]]

__all__ = ["AdminServer"]

STOP_SECONDS: Final = 5.0
SHUTDOWN_SECONDS: Final = 1.0
"""How long requests under way have when the server stops."""
LINGERING_SECONDS: Final = 1.0
"""How long the body of a request is read that nobody asked for, after the response."""
ALLOWED_METHODS: Final = ("GET", "HEAD")
HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Instead of aiohttp's, which tells all versions.
    "Server": "tunnelfleet",
}
"""Of every answer."""

INDEX: Final = """<!doctype html><title>tunnelfleet</title><h1>tunnelfleet</h1>
<ul><li><a href="/metrics">/metrics</a> for Prometheus
<li><a href="/healthz">/healthz</a> is the process turning
<li><a href="/readyz">/readyz</a> are enough tunnels connected, and which are not</ul>
"""

_log = get_logger(__name__)


class _WithoutContents(logging.Filter):
    """Keeps what a client sent out of the log: aiohttp's errors quote it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[0] is not None:
            record.msg = f"{record.msg}: {record.exc_info[0].__name__}"
            record.exc_info = None
        return True


class _RequestHandler(web.RequestHandler):
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


_http_log = logging.getLogger(f"{__name__}.http")
_http_log.addFilter(_WithoutContents())


class AdminServer:
    """Serves what a runtime has to say of itself. Use it as a context manager.

    Args:
        runtime: the runtime.
        options: where to listen, whom to let in.
        registry: what `/metrics` shows; None makes one of the runtime and the process.
        tunnel_of: where the runtime has more than one end of a tunnel: the tunnel that an end of
            that name belongs to. `/readyz` counts tunnels then, not ends.
        more_pages: makes more pages by path, or others in place of its own. It is given an event
            that is set when the server ends: what streams has to end then.
    """

    def __init__(
        self,
        runtime: TunnelRuntime,
        options: AdminOptions | None = None,
        *,
        registry: CollectorRegistry | None = None,
        tunnel_of: Callable[[str], str] | None = None,
        more_pages: MakePages = lambda _stopping: {},
    ) -> None:
        self._runtime = runtime
        self._more_pages = more_pages
        self._tunnel_of = tunnel_of
        self._options = options or AdminOptions()
        self._registry = registry or make_registry(runtime)
        self._readiness = Readiness(self._options.ready_fraction, self._options.ready_hysteresis)
        self._scraper = ThreadPoolExecutor(1, thread_name_prefix="tunnelfleet-metrics")
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._port = self._options.port
        self._listener: Listener | None = None
        self._pages: dict[str, Page] = {
            "/": self._on_index,
            "/metrics": self._on_metrics,
            "/healthz": self._on_healthz,
            "/readyz": self._on_readyz,
        }

    @property
    def port(self) -> int:
        """The port; the one that was picked when 0 was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """Its URL, without a path."""
        host = self._options.host
        scheme = "https" if self._options.is_tls else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._port}"

    # -- start and stop

    def start(self) -> Self:
        """Listen.

        Raises:
            ConfigError: the address or the certificate cannot be used.
            RuntimeError: it was started before.
        """
        if self._thread is not None:
            raise RuntimeError("the administration server was started before; make a new one")
        context = self._ssl_context()
        self._thread = threading.Thread(
            target=self._run, args=(context,), name="tunnelfleet-admin", daemon=True
        )
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            self._thread.join(STOP_SECONDS)
            reason = getattr(self._error, "strerror", None) or self._error
            raise ConfigError(
                f"the administration server cannot listen on {self.url}: {reason}; "
                "choose another address"
            ) from self._error
        return self

    def stop(self) -> None:
        """Close the listener and end the thread. Safe to call twice."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        if self._thread.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:
                _log.debug("the administration server ended by itself")
        self._thread.join(STOP_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    def _ssl_context(self) -> ssl.SSLContext | None:
        certificate, key = self._options.certificate, self._options.private_key
        if certificate is None or key is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(certificate, key)
        except OSError as error:
            raise ConfigError(f"the certificate cannot be used: {error}") from error
        return context

    # -- the thread

    def _run(self, context: ssl.SSLContext | None) -> None:
        try:
            asyncio.run(self._serve(context))
        except BaseException as error:  # noqa: BLE001 - raised again by start()
            self._error = error
            self._started.set()

    async def _serve(self, context: ssl.SSLContext | None) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._pages |= self._more_pages(self._stopping)
        http = web.Server(self._on_request)

        def make_http() -> web.RequestHandler:
            return _RequestHandler(
                http,
                loop=loop,
                logger=_http_log,
                # None is what aiohttp's own runner passes on for "no access log".
                access_log=None,  # type: ignore[arg-type]
                keepalive_timeout=self._options.idle_seconds,
                lingering_time=LINGERING_SECONDS,
            )

        listener = self._listener = Listener(self._options, make_http, context)
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
            self._scraper.shutdown(cancel_futures=True)

    async def _on_request(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = self._listener.find(request.transport) if self._listener else None
        if connection is None:
            raise ConnectionResetError("the client has gone")
        connection.begin_handling()
        try:
            response = await self._answer(request)
        finally:
            connection.end_handling()
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        token = self._options.bearer_token
        given = request.headers.get("Authorization", "")
        if token is not None and not is_authorized(given, token):
            headers = {"WWW-Authenticate": 'Bearer, Basic realm="tunnelfleet", charset="UTF-8"'}
            return web.Response(status=401, text="send the bearer token\n", headers=headers)
        page = self._pages.get(request.path)
        if page is None:
            return web.Response(status=404, text="there is no such page\n")
        if request.method not in ALLOWED_METHODS:
            headers = {"Allow": ", ".join(ALLOWED_METHODS)}
            return web.Response(status=405, text="pages can be read only\n", headers=headers)
        return await page(request)

    # -- pages

    async def _on_index(self, _request: web.BaseRequest) -> web.Response:
        return web.Response(text=INDEX, content_type="text/html")

    async def _on_metrics(self, request: web.BaseRequest) -> web.Response:
        accept = request.headers.get("Accept", "")
        accept_encoding = request.headers.get("Accept-Encoding", "")
        # Elsewhere: a large scrape takes its time, and /healthz must not wait for it.
        found = await asyncio.get_running_loop().run_in_executor(
            self._scraper, expose, self._registry, accept, accept_encoding
        )
        headers = {"Content-Type": found.content_type, "Vary": "Accept, Accept-Encoding"}
        if found.encoding is not None:
            headers["Content-Encoding"] = found.encoding
        return web.Response(body=found.body, headers=headers)

    async def _on_healthz(self, _request: web.BaseRequest) -> web.Response:
        dispatchers = self._runtime.dispatchers
        if not dispatchers:
            return web.json_response(
                {"healthy": False, "why": "the runtime is not running"}, status=503
            )
        silent = await silent_dispatchers(dispatchers)
        body: dict[str, object] = {"healthy": not silent, "dispatchers": len(dispatchers)}
        if silent:
            body["silent"] = silent
        return web.json_response(body, status=503 if silent else 200)

    async def _on_readyz(self, _request: web.BaseRequest) -> web.Response:
        views: Iterable[TunnelView] = self._views()
        if self._tunnel_of is not None:
            views = join_ends(views, self._tunnel_of)
        report = self._readiness.judge(views)
        running = bool(self._runtime.dispatchers)
        body = {**report.to_json(self._readiness), "running": running}
        if not running:
            body["ready"] = False
        return web.json_response(body, status=200 if body["ready"] else 503)

    def _views(self) -> Iterator[TunnelView]:
        breather = Breather()
        for tunnel in self._runtime.tunnels():
            stats = tunnel.stats
            yield TunnelView(tunnel.name, stats.state, stats.reason, stats.since)
            breather.breathe()


def is_authorized(given: str, token: str) -> bool:
    """Whether the header `Authorization` has the token.

    As a bearer token, or, for browsers, which ask people for nothing else, as the password of any
    user (RFC 7617).
    """
    scheme, _, rest = given.partition(" ")
    shown = rest.encode("utf-8", "replace")
    if scheme.lower() == "basic":
        try:
            _user, _, shown = base64.b64decode(shown, validate=True).partition(b":")
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(shown, token.encode())


def make_registry(runtime: TunnelRuntime) -> CollectorRegistry:
    """A registry of the runtime and of the process it runs in."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(runtime.collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
