"""AdminServer: /metrics, /healthz and /readyz of a runtime, on a thread of its own.

Owns TLS, who is let in, and the pages; the thread is `http_thread`'s, and connections with their
limits are `listener`'s. What the pages say comes from the collector and from `health`. It never
touches a dispatcher but to ask whether it turns, so a scrape that takes long holds up no tunnel.

No answer of ours repeats anything of the request, and nothing of it is logged: people put tokens
into URLs. A scrape is made on a second thread, so that it holds up no other page.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)

from tunnelfleet.actors.net.daemon_threads import DaemonExecutor
from tunnelfleet.proto import ConfigError

from .exposition import Breather, expose
from .health import Readiness, TunnelView, join_ends, silent_dispatchers
from .http_thread import HEADERS, SHUTDOWN_SECONDS, HttpThread
from .listener import listen_tcp
from .options import AdminOptions

if TYPE_CHECKING:
    from tunnelfleet.runtime.runtime import TunnelRuntime

Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
MakePages = Callable[[asyncio.Event], Mapping[str, Page]]


ALLOWED_METHODS: Final = ("GET", "HEAD")
INDEX: Final = """<!doctype html><title>tunnelfleet</title><h1>tunnelfleet</h1>
<ul><li><a href="/metrics">/metrics</a> for Prometheus
<li><a href="/healthz">/healthz</a> is the process turning
<li><a href="/readyz">/readyz</a> are enough tunnels connected, and which are not</ul>
"""


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
        more_silent: names of other parts of the process that give no sign of life, for `/healthz`.
        more_ready: more fields of `/readyz`; a field `ready` that is false makes all unready.
    """

    def __init__(
        self,
        runtime: TunnelRuntime,
        options: AdminOptions | None = None,
        *,
        registry: CollectorRegistry | None = None,
        tunnel_of: Callable[[str], str] | None = None,
        more_pages: MakePages = lambda _stopping: {},
        more_silent: Callable[[], list[str]] = list,
        more_ready: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._more_ready = more_ready
        self._more_silent = more_silent
        self._runtime = runtime
        self._more_pages = more_pages
        self._tunnel_of = tunnel_of
        self._options = options or AdminOptions()
        self._registry = registry or make_registry(runtime)
        self._readiness = Readiness(self._options.ready_fraction, self._options.ready_hysteresis)
        # A collector of a host that never returns must not hold up the end of the process.
        self._scraper = DaemonExecutor(1, "tunnelfleet-metrics")
        self._http: HttpThread | None = None
        self._port = self._options.port
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
        if self._http is not None:
            raise RuntimeError("the administration server was started before; make a new one")
        self._http = HttpThread(
            "tunnelfleet-admin",
            "the administration server",
            self._make_runner,
            self._options,
            self._ssl_context(),
        )
        try:
            sockets = listen_tcp(self._options.host, self._options.port)
        except OSError as error:
            raise ConfigError(
                f"the administration server cannot listen on {self.url}: "
                f"{error.strerror or error}; choose another address"
            ) from error
        self._port = int(sockets[0].getsockname()[1])
        self._http.start(sockets)
        return self

    def stop(self) -> None:
        """Close the listener and end the thread. Safe to call twice."""
        if self._http is not None:
            self._http.stop()
            self._scraper.shutdown(wait=False, cancel_futures=True)

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

    def _make_runner(self, stopping: asyncio.Event) -> web.BaseRunner:
        self._pages |= self._more_pages(stopping)
        return web.ServerRunner(web.Server(self._on_request), shutdown_timeout=SHUTDOWN_SECONDS)

    async def _on_request(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._http is not None
        connection = self._http.find(request)
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
        # It runs on another thread, as /healthz must not wait for a large scrape.
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
        silent = [*await silent_dispatchers(dispatchers), *self._more_silent()]
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
        more = self._more_ready()
        is_ready = report.ready and running and bool(more.get("ready", True))
        body = {**report.to_json(self._readiness), "running": running, **more, "ready": is_ready}
        return web.json_response(body, status=200 if body["ready"] else 503)

    def _views(self) -> Iterator[TunnelView]:
        breather = Breather()
        for tunnel in self._runtime.tunnels():
            stats = tunnel.stats
            yield TunnelView(tunnel.name, stats.state, tunnel.reason, stats.since)
            breather.breathe()


def is_authorized(given: str, token: str) -> bool:
    """Return whether the header `Authorization` has the token.

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
    """Return a registry of the runtime and of the process it runs in."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(runtime.collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
