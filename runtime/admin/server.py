"""AdminServer: /metrics, /healthz and /readyz of a runtime, on a thread of its own.

Owns the thread, the listener, TLS, who is let in, and the pages. What they say comes from the
collector, `liveness` and `readiness`. It never touches a dispatcher but to ask whether it turns,
so a scrape that takes long holds up no tunnel.

No answer of ours repeats anything of the request, and nothing of it is logged: people put tokens
into URLs. A scrape is made on a second thread, so that it holds up no other page.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.metrics.breather import Breather

from .exposition import expose
from .liveness import silent_dispatchers
from .options import AdminOptions
from .readiness import Readiness, TunnelView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp.typedefs import Handler

    from tunnelfleet.runtime.runtime import TunnelRuntime

__all__ = ["AdminServer"]

STOP_SECONDS: Final = 5.0
SHUTDOWN_SECONDS: Final = 1.0
"""How long requests under way have when the server stops."""
MAX_REQUEST_BYTES: Final = 1_024

INDEX: Final = """<!doctype html><title>tunnelfleet</title><h1>tunnelfleet</h1>
<ul><li><a href="/metrics">/metrics</a> for Prometheus
<li><a href="/healthz">/healthz</a> is the process turning
<li><a href="/readyz">/readyz</a> are enough tunnels connected, and which are not</ul>
"""

_log = logging.getLogger(__name__)


class _WithoutContents(logging.Filter):
    """Keeps what a client sent out of the log: aiohttp's errors quote it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[0] is not None:
            record.msg = f"{record.msg}: {record.exc_info[0].__name__}"
            record.exc_info = None
        return True


_http_log = logging.getLogger(f"{__name__}.http")
_http_log.addFilter(_WithoutContents())


class AdminServer:
    """Serves what a runtime has to say of itself. Use it as a context manager.

    Args:
        runtime: the runtime.
        options: where to listen, whom to let in.
        registry: what `/metrics` shows; None makes one of the runtime and the process.
    """

    def __init__(
        self,
        runtime: TunnelRuntime,
        options: AdminOptions | None = None,
        *,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._runtime = runtime
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

    # -- life

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
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            logger=_http_log,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._options.host, self._options.port, ssl_context=context)
            await site.start()
            self._port = runner.addresses[0][1]
            self._started.set()
            await self._stopping.wait()
        finally:
            await runner.cleanup()
            self._scraper.shutdown(cancel_futures=True)

    def _application(self) -> web.Application:
        application = web.Application(
            middlewares=[self._guard()], client_max_size=MAX_REQUEST_BYTES
        )
        application.router.add_get("/", self._on_index)
        application.router.add_get("/metrics", self._on_metrics)
        application.router.add_get("/healthz", self._on_healthz)
        application.router.add_get("/readyz", self._on_readyz)
        return application

    def _guard(self) -> Any:
        token = self._options.bearer_token
        wanted = f"Bearer {token}".encode()

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            given = request.headers.get("Authorization", "").encode("utf-8", "replace")
            if token is not None and not hmac.compare_digest(given, wanted):
                raise web.HTTPUnauthorized(
                    text="send the bearer token\n", headers={"WWW-Authenticate": "Bearer"}
                )
            response = await handler(request)
            response.headers["Cache-Control"] = "no-store"
            response.headers["X-Content-Type-Options"] = "nosniff"
            return response

        return guard

    # -- pages

    async def _on_index(self, _request: web.Request) -> web.Response:
        return web.Response(text=INDEX, content_type="text/html")

    async def _on_metrics(self, request: web.Request) -> web.Response:
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

    async def _on_healthz(self, _request: web.Request) -> web.Response:
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

    async def _on_readyz(self, _request: web.Request) -> web.Response:
        report = self._readiness.judge(self._views())
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


def make_registry(runtime: TunnelRuntime) -> CollectorRegistry:
    """A registry of the runtime and of the process it runs in."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(runtime.collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
