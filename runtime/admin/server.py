"""AdminServer: /metrics, /healthz and /readyz of a runtime, on a thread of its own.

Owns TLS, who is let in, and what the pages say. Alive means that every dispatcher takes its turns;
ready, that enough tunnels are connected. It never touches a dispatcher but to ask whether it turns.
No answer repeats anything of the request, and nothing of it is logged: people put tokens into URLs.
A scrape is made on a second thread, so that it holds up no other page.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.actors.net.daemon_threads import DaemonExecutor
from tunnelfleet.proto import CannotListen
from tunnelfleet.runtime.metrics.families import Breather, expose
from tunnelfleet.runtime.tls import load_own_certificate

from .http_thread import HEADERS, SHUTDOWN_SECONDS, HttpThread
from .listener import listen_tcp
from .options import AdminOptions, BearerToken, no_other_token

if TYPE_CHECKING:
    from tunnelfleet.runtime.runtime import TunnelRuntime

ANSWER_SECONDS: Final = 1.0
"""How long a dispatcher has for its answer."""


async def silent_dispatchers(
    dispatchers: Sequence[Dispatcher], timeout_seconds: float = ANSWER_SECONDS
) -> list[str]:
    """Return the names of the dispatchers that did not answer in time."""
    questions = {dispatcher.name: _ask(dispatcher) for dispatcher in dispatchers}
    waiting = [answer for answer in questions.values() if answer is not None]
    if waiting:
        await asyncio.wait(waiting, timeout=timeout_seconds)
    return [name for name, answer in questions.items() if answer is None or not answer.done()]


def _ask(dispatcher: Dispatcher) -> asyncio.Future[None] | None:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[None] = loop.create_future()
    try:
        dispatcher.call_soon(_answer, loop, answer)
    except RuntimeError:
        return None
    return answer


def _answer(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[None]) -> None:
    """This runs on the dispatcher's thread, and whoever asked may be gone."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(_settle, answer)


def _settle(answer: asyncio.Future[None]) -> None:
    if not answer.done():
        answer.set_result(None)


MAX_LISTED: Final = 100
"""How many tunnels the report names. The others are only counted."""
_MARGIN: Final = 1e-9
_LEAVING: Final = frozenset({TunnelState.DRAINING, TunnelState.STOPPED})


_RANKS: Final = {TunnelState.CONNECTED: 0, TunnelState.DRAINING: 1, TunnelState.STOPPED: 1}
"""How bad a state is. Of a tunnel's ends the highest number counts; other states are 2."""


class TunnelView(NamedTuple):
    """What is asked of a tunnel; `since` in seconds of the Unix epoch."""

    name: str
    state: TunnelState
    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class ReadinessReport:
    """The judgement, and the numbers that it rests on."""

    ready: bool
    connected: int
    tunnels: int
    fraction: float
    missing: tuple[TunnelView, ...]
    missing_count: int

    def to_json(self, readiness: Readiness) -> dict[str, object]:
        """Return the body of an answer."""
        return {
            "ready": self.ready,
            "connected": self.connected,
            "tunnels": self.tunnels,
            "fraction": round(self.fraction, 4),
            "ready_at": readiness.ready_at,
            "unready_below": round(readiness.unready_below, 4),
            "not_connected": [
                {
                    "tunnel": each.name,
                    "state": each.state.value,
                    "reason": each.reason,
                    "since": round(each.since, 3),
                }
                for each in self.missing
            ],
            "not_connected_count": self.missing_count,
        }


def join_ends(ends: Iterable[TunnelView], tunnel_of: Callable[[str], str]) -> Iterable[TunnelView]:
    """Make one of the ends that belong to one tunnel: it is connected when all of them are.

    Args:
        ends: what the runtime has.
        tunnel_of: the name of the tunnel that an end of that name belongs to.
    """
    joined: dict[str, TunnelView] = {}
    for end in ends:
        name = tunnel_of(end.name)
        known = joined.get(name)
        if known is None or _RANKS.get(end.state, 2) > _RANKS.get(known.state, 2):
            joined[name] = end._replace(name=name)
    return joined.values()


class Readiness:
    """Judges whether the fleet is ready, and remembers its last judgement.

    Args:
        fraction: the part of the tunnels that must be connected.
        hysteresis: see above.
    """

    def __init__(self, fraction: float, hysteresis: float) -> None:
        self.ready_at = fraction
        self.unready_below = max(0.0, fraction - hysteresis)
        self._ready = False

    def judge(self, tunnels: Iterable[TunnelView]) -> ReadinessReport:
        """Look at the tunnels, one by one; without any the fleet is ready."""
        connected = missing_count = 0
        missing: list[TunnelView] = []
        for each in tunnels:
            if each.state is TunnelState.CONNECTED:
                connected += 1
            elif each.state not in _LEAVING:
                missing_count += 1
                if len(missing) < MAX_LISTED:
                    missing.append(each)
        wanted = connected + missing_count
        fraction = connected / wanted if wanted else 1.0
        threshold = self.unready_below if self._ready else self.ready_at
        self._ready = fraction + _MARGIN >= threshold
        return ReadinessReport(
            self._ready,
            connected,
            wanted,
            fraction,
            tuple(missing),
            missing_count,
        )


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
        current_token: the token of files as they were last read, if it may change.
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
        current_token: Callable[[], str | None] = no_other_token,
    ) -> None:
        self._more_ready = more_ready
        self._more_silent = more_silent
        self._runtime = runtime
        self._more_pages = more_pages
        self._tunnel_of = tunnel_of
        self._options = options or AdminOptions()
        self._token = BearerToken(self._options.bearer_token, current_token)
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
            ConfigError: the address or the certificate cannot be used; ``CannotListen`` for the
                address.
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
            raise CannotListen("the administration server", self.url, error) from error
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
        load_own_certificate(context, certificate, key)
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
        given = request.headers.get("Authorization", "")
        if not self._token.lets_in(lambda token: is_authorized(given, token)):
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
