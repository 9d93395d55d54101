"""The gateway's admin API and the pages of a runtime, over HTTP at a TCP address with a token."""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.fuzz.harness import TURNS, Harness, Source
from tests.support.fleet import wanted
from tests.support.gateway_api import TOKEN as TUNNEL_TOKEN
from tests.support.gateway_api import ApiRig, api_entry
from tunnelfleet.runtime import TcpAddress, TunnelRuntime
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.gateway.api.app import OPERATIONS

BEARER = "b" * 40
PATHS = sorted({each.path.replace("{name}", "a") for each in OPERATIONS} - {"/v1/events"})
PAGES = ["/", "/metrics", "/healthz", "/readyz"]
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH")
MAX_ANSWER_BYTES = 1_048_576
ANSWER_SECONDS = 20.0


class Place(NamedTuple):
    """Where somebody listens, and on which thread."""

    port: int
    thread: str


@cache
def places() -> tuple[Place, Place]:
    """A gateway's API, and a runtime's pages; they run as long as the process does."""
    stack = contextlib.ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tunnelfleet-fuzz-")))
    rig = ApiRig(folder, wanted("a"), place=TcpAddress("127.0.0.1", 0), token=BEARER)
    stack.enter_context(rig)
    address = rig.server.address
    assert isinstance(address, TcpAddress)
    runtime = stack.enter_context(TunnelRuntime())
    pages = stack.enter_context(AdminServer(runtime, AdminOptions(port=0, bearer_token=BEARER)))
    ENDS.append(stack)
    return Place(address.port, "tunnelfleet-api"), Place(pages.port, "tunnelfleet-admin")


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
    place = places()[at]
    asked = read(source, PATHS if at == 0 else PAGES)
    status, headers, body = ask(place, asked)
    assert len(body) <= MAX_ANSWER_BYTES
    assert BEARER.encode() not in body
    assert TUNNEL_TOKEN.encode() not in body
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


def ask(place: Place, asked: Asked) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send a request as it is; return what was answered."""
    made = http.client.HTTPConnection("127.0.0.1", place.port, timeout=ANSWER_SECONDS)
    lines = [f"{asked.method} {asked.target} HTTP/1.1"]
    framing = ("content-length", "transfer-encoding", "connection", "expect", "upgrade")
    lines += [
        f"{name}: {value}" for name, value in asked.headers if name and name.lower() not in framing
    ]
    lines += [f"Content-Length: {len(asked.body)}", "Connection: close", "", ""]
    before = used(place.thread)
    made.connect()
    try:
        made.sock.sendall("\r\n".join(lines).encode("latin-1") + asked.body)
        answer = http.client.HTTPResponse(made.sock, method=asked.method)
        answer.begin()
        body = answer.read()
        answer.close()
    finally:
        made.close()
    TURNS.note(used(place.thread) - before)
    return answer.status, answer.headers, body


def used(name: str) -> float:
    """The CPU time of a thread."""
    thread = next(each for each in threading.enumerate() if each.name == name)
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def clean(place: Place, asked: Asked) -> None:
    """Take away what a request has added, so that there is never more than that."""
    if asked.method in ("POST", "PUT"):
        for row in json.loads(ask(place, own("GET", "/v1/tunnels"))[2])["tunnels"]:
            if row["source"] == "api":
                status, _headers, _body = ask(
                    place, own("DELETE", f"/v1/tunnels/{quote(row['name'], '')}")
                )
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
