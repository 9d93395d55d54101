"""The gateway's admin API and the pages of a runtime, over HTTP at a TCP address with a token."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

from aiohttp import web

from tests.fuzz.harness import TURNS, Harness, Source
from tests.support.fleet import Files, wanted
from tests.support.gateway_api import TOKEN as TUNNEL_TOKEN
from tests.support.gateway_api import api_entry
from tunnelfleet.actors.net.daemon_threads import DaemonExecutor
from tunnelfleet.runtime import TcpAddress, TunnelRuntime
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.admin.http_thread import HttpThread, _http_log, _RequestHandler
from tunnelfleet.runtime.admin.listener import HttpConnection, Listener
from tunnelfleet.runtime.gateway import Gateway
from tunnelfleet.runtime.gateway.api import ApiOptions, ApiServer, EventFeed
from tunnelfleet.runtime.gateway.api.app import OPERATIONS
from tunnelfleet.runtime.gateway.api.context import PARTS

BEARER = "b" * 40
PATHS = sorted({each.path.replace("{name}", "a") for each in OPERATIONS} - {"/v1/events"})
PAGES = ["/", "/metrics", "/healthz", "/readyz"]
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH")
MAX_ANSWER_BYTES = 1_048_576
EVENTS = 1_000
CONNECT_RATE = 0.001


class Caller(Executor):
    """Calls at once what a server would call on another thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        outcome: Future[Any] = Future()
        try:
            outcome.set_result(fn(*args, **kwargs))
        except BaseException as error:
            outcome.set_exception(error)
        return outcome


class Wire(asyncio.Transport):
    """A connection without a socket: what is written to it is kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._loop = loop
        self.written: list[bytes] = []
        self.is_ended = loop.create_future()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_ended.done()

    def close(self) -> None:
        if not self.is_ended.done():
            self.is_ended.set_result(None)

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Connections:
    """Stands for a listener: there is one connection at a time."""

    def __init__(self) -> None:
        self.present: HttpConnection | None = None

    def find(self, transport: asyncio.BaseTransport | None) -> HttpConnection | None:
        return self.present if transport is not None else None


class NoSocket:
    """Stands for the socket of a connection, which only its end asks for another of."""

    def dup(self) -> None:
        raise OSError("there is none")


class Place:
    """Who answers, on this thread: all but the listening sockets and the threads is the real one.

    Args:
        loop: of both places.
        http: what would serve on a thread.
        server: whose thread that would be.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, http: HttpThread, server: Any) -> None:
        self._loop = loop
        self._connections = Connections()
        http.listener = cast("Listener", self._connections)
        server._http = http
        self.runner: web.BaseRunner = loop.run_until_complete(self._set_up(server))

    @staticmethod
    async def _set_up(server: Any) -> web.BaseRunner:
        made: web.BaseRunner = server._make_runner(asyncio.Event())
        await made.setup()
        return made

    def answer(self, data: bytes) -> bytes:
        """What is answered to these bytes, up to the end of the connection."""
        wire, nobody = Wire(self._loop), cast("socket.socket", NoSocket())
        assert self.runner.server is not None
        handler = _RequestHandler(
            self.runner.server,
            loop=self._loop,
            logger=_http_log,
            access_log=None,  # type: ignore[arg-type]
        )
        made = HttpConnection(nobody, handler, lambda _connection: None)
        self._connections.present = made

        async def converse() -> None:
            made.connection_made(wire)
            made.data_received(data)
            await wire.is_ended

        self._loop.run_until_complete(converse())
        made.connection_lost(None)
        return b"".join(wire.written)

    def close(self) -> None:
        self._loop.run_until_complete(self.runner.cleanup())


class Places(NamedTuple):
    """A gateway with its API, and the pages of a runtime."""

    gateway: Gateway
    api: Place
    pages: Place


@cache
def places() -> Places:
    """They run as long as the process does."""
    stack = contextlib.ExitStack()
    ENDS.append(stack)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tunnelfleet-fuzz-")))
    loop = asyncio.SelectorEventLoop()
    stack.callback(loop.close)
    feed = stack.enter_context(EventFeed(EVENTS))
    files = Files(folder, wanted("a"))
    # So tunnels wait for permits: what they do is not this surface, and takes its time.
    files.settings = replace(files.settings, connect_rate=CONNECT_RATE)
    gateway = stack.enter_context(Gateway(files))
    options = ApiOptions(place=TcpAddress("127.0.0.1", 0), token=BEARER)
    server = ApiServer(gateway, options, feed=feed)
    # It takes the address, by which it tells its own names; nobody is accepted there.
    server.listen()
    stack.callback(server.stop)
    api = Place(loop, HttpThread("api", "the API", server._make_runner, options), server)
    stack.callback(api.close)
    assert isinstance(api.runner, web.AppRunner)
    parts = api.runner.app[PARTS]
    for work in (parts.questions, parts.changes, parts.reloads, parts.surveys):
        work._executor = cast("ThreadPoolExecutor", Caller())
    runtime = stack.enter_context(TunnelRuntime())
    admin = AdminServer(runtime, AdminOptions(port=0, bearer_token=BEARER))
    admin._scraper = cast("DaemonExecutor", Caller())
    pages = Place(loop, HttpThread("pages", "the pages", admin._make_runner, admin._options), admin)
    stack.callback(pages.close)
    return Places(gateway, api, pages)


ENDS: list[contextlib.ExitStack] = []
"""What `stop` closes; a process of the driver ends without."""


def stop() -> None:
    """End what was started."""
    while ENDS:
        ENDS.pop().close()
    places.cache_clear()


class Asked(NamedTuple):
    """A request."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    is_allowed: bool


def run(data: bytes) -> None:
    source = Source(data)
    at = source.choose([0, 0, 0, 1])
    place = places().pages if at else places().api
    asked = read(source, PATHS if at == 0 else PAGES)
    status, headers, body = ask(place, asked)
    assert len(body) <= MAX_ANSWER_BYTES
    for secret in (BEARER, TUNNEL_TOKEN):
        # Who writes it somewhere else, as the name of a host, may read it there again.
        is_repeated = secret in asked.target or secret.encode() in asked.body
        assert secret.encode() not in body or is_repeated
    if not asked.is_allowed:
        # Nobody gets anything without the token; what is no request is told so before.
        assert status in (400, 401, 413, 421), status
    assert status < 500 or status == 503, (status, body[:300])
    if body and "problem+json" in headers.get("Content-Type", ""):
        problem = json.loads(body)
        assert problem["status"] == status
        assert str(problem["detail"]).isprintable()
    if at == 0 and asked.is_allowed and status in (200, 201):
        clean(place, asked)


def read(source: Source, paths: list[str]) -> Asked:
    method = source.choose(METHODS)
    target = source.choose(paths)
    options = source.byte()
    if options & 1:
        target += "?" + word(source)
    if options & 2:
        target = f"{target}/{word(source)}"
    headers = [(word(source), word(source)) for _ in range(options >> 2 & 1)]
    is_allowed = not options & 8
    given = f"Bearer {BEARER}" if is_allowed else word(source)
    host = word(source) if options & 16 else "localhost"
    kind = word(source) if options & 32 else "application/json"
    body = source.rest()
    if is_allowed and headers and headers[0][0].lower() in ("host", "authorization"):
        headers = []
    named = [("Host", host), ("Authorization", given), ("Content-Type", kind), *headers]
    return Asked(method, target, named, body, is_allowed)


def word(source: Source) -> str:
    """A text without the characters that end a line or a word of HTTP."""
    text = source.take(source.byte() % 32).decode("latin-1")
    return "".join(each for each in text if each > " " and each != "\x7f")


def ask(place: Place, asked: Asked) -> tuple[int, dict[str, str], bytes]:
    """Send a request as it is; return what was answered: status, fields of the head, body."""
    lines = [f"{asked.method} {asked.target} HTTP/1.1"]
    framing = ("content-length", "transfer-encoding", "connection", "expect", "upgrade")
    lines += [
        f"{name}: {value}" for name, value in asked.headers if name and name.lower() not in framing
    ]
    lines += [f"Content-Length: {len(asked.body)}", "Connection: close", "", ""]
    with TURNS:
        wire = place.answer("\r\n".join(lines).encode("latin-1") + asked.body)
    return parse(wire, is_head=asked.method == "HEAD")


def parse(wire: bytes, *, is_head: bool) -> tuple[int, dict[str, str], bytes]:
    """Take one answer apart, which has to be whole; http.client would take a sixth of the time."""
    head, end, body = wire.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    version, status, _reason = line.split(" ", 2)
    assert end, wire[:300]
    assert version in ("HTTP/1.0", "HTTP/1.1")
    named = dict(each.split(": ", 1) for each in fields)
    assert "Transfer-Encoding" not in named
    # An answer without a body may say none. What is no request was not read as one without a body.
    length = int(named.get("Content-Length", "0"))
    is_short = is_head and not (status == "400" and body)
    assert len(body) == (0 if is_short else length), named
    return int(status), named, body


def clean(place: Place, asked: Asked) -> None:
    """Take away what a request has added, so that there is never more than that."""
    if asked.method in ("POST", "PUT"):
        for name in [*places().gateway.state.sources.get("api", ())]:
            status, _headers, _body = ask(place, own("DELETE", f"/v1/tunnels/{quote(name, '')}"))
            assert status in (204, 404)


def own(method: str, target: str) -> Asked:
    headers = [("Host", "localhost"), ("Authorization", f"Bearer {BEARER}")]
    return Asked(method, target, headers, b"", is_allowed=True)


def seed(path: str, method: str, options: int = 0, body: Any = None, more: bytes = b"") -> bytes:
    head = bytes((0, METHODS.index(method), PATHS.index(path), options))
    return head + more + (b"" if body is None else json.dumps(body).encode())


HARNESS = Harness(
    run=run,
    covers=[
        "runtime/gateway/api/app.py",
        "runtime/gateway/api/requests.py",
        "runtime/gateway/api/tunnels.py",
        "runtime/gateway/api/context.py",
        "runtime/gateway/api/records.py",
        "runtime/gateway/api/server.py",
        "runtime/admin/server.py",
        "runtime/admin/options.py",
    ],
    seeds=[
        *(seed(path, method) for path in PATHS for method in ("GET", "POST", "DELETE")),
        seed("/v1/tunnels", "POST", 0, api_entry()),
        seed("/v1/tunnels/a", "PUT", 0, api_entry("a")),
        seed("/v1/tunnels/a", "PUT", 2, api_entry("b"), b"\1b"),
        seed("/v1/tunnels/a/token", "POST", 0, {"access_token": "t" * 40}),
        seed("/v1/drain", "POST", 0, {"names": ["a"]}),
        seed("/v1/retry", "POST", 0, {"all": True}),
        seed("/v1/tunnels", "GET", 1, None, b"\x0cstate=backoff"),
        seed("/v1/audit", "GET", 1, None, b"\x0fsince=1&limit=2"),
        seed("/v1/tunnels", "GET", 4, None, b'\x08If-Match\3"a"'),
        seed("/v1/tunnels", "GET", 8, None, b"\1x"),
        seed("/v1/tunnels", "GET", 16, None, b"\x0cevil.example"),
        b"\3\0\1\0",
        b"\3\0\1\x08\x09Basic OmJi",
    ],
    words=[b'"name":', b'"services":', b"since=", b"limit=", b"If-Match", b"*", b"%00", b"[" * 8],
    max_bytes=1_024,
    stop=stop,
)
