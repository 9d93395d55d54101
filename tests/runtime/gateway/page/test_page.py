"""The routes of the status page: who may read it, and that no reader holds up anything."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime import TunnelRuntime
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.gateway.page import Sample, StatusPage
from tunnelfleet.runtime.gateway.page import page as page_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN = "a-token-for-the-pages-0123456789"


class Look:
    """Stands for a gateway that is looked at."""

    def __init__(self) -> None:
        self.sample = Sample({"name": "gw", "alerts": []}, {"a": ("a", 0)})
        self.problem = ""
        self.count = 0

    def __call__(self) -> Sample:
        self.count += 1
        if self.problem:
            raise TunnelError(self.problem)
        return self.sample


@pytest.fixture
def look() -> Look:
    return Look()


@pytest.fixture
def serve(look: Look, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AdminServer]]:
    monkeypatch.setattr(page_module, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(page_module, "LOOK_SECONDS", 0.05)
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> AdminServer:
            runtime = stack.enter_context(TunnelRuntime())
            page = StatusPage(look, ["gw.example"])
            given = AdminOptions(port=0, **options)
            return stack.enter_context(AdminServer(runtime, given, more_pages=page.pages))

        yield start


def get(
    server: AdminServer, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()


class Reader:
    """Follows the events."""

    def __init__(self, server: AdminServer) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS)
        self._socket.sendall(b"GET /status/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        self._lines = self._socket.makefile("rb")
        self.status = int(self._lines.readline().split()[1])

    def next(self) -> tuple[str, Any]:
        event = ""
        for line in self._lines:
            if line.startswith(b"event: "):
                event = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                return event, json.loads(line[6:])
        raise EOFError

    def next_of(self, event: str) -> Any:
        while True:
            found, data = self.next()
            if found == event:
                return data

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def test_the_page_needs_nothing_from_elsewhere(serve: Callable[..., AdminServer]) -> None:
    server = serve()
    for path, kind in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")):
        status, headers, body = get(server, path)
        assert (status, headers["Content-Type"]) == (200, f"text/{kind}; charset=utf-8")
        assert "http:" not in body
        assert "https:" not in body
        assert "//cdn" not in body
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"


def test_the_page_is_for_reading(serve: Callable[..., AdminServer]) -> None:
    server = serve()
    for path in ("/", "/page.js", "/status/events"):
        assert get(server, path, method="POST")[0] == 405
    assert get(server, "/status/events", method="HEAD")[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9464", 200),
        ("[::1]:9464", 200),
        ("10.1.2.3", 200),
        ("localhost:1", 200),
        ("LocalHost", 200),
        (socket.gethostname(), 200),
        ("gw.example:9464", 200),
        ("", 421),
        ("attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
        ("localhost.attacker.example", 421),
        ("gw.example.attacker.example", 421),
        ("[::1].attacker.example", 421),
        ("127.0.0.1:1:2", 421),
        ("x" * 4_000, 421),
    ],
)
def test_a_name_from_elsewhere_does_not_get_the_page(
    serve: Callable[..., AdminServer], host: str, status: int
) -> None:
    server = serve()
    for path in ("/", "/status/events"):
        assert get(server, path, {"Host": host}, "HEAD")[0] == status
    # Whoever scrapes may come by any name: nothing there is for a browser.
    assert get(server, "/metrics", {"Host": host})[0] == 200


def test_a_browser_gives_the_token_as_a_password(serve: Callable[..., AdminServer]) -> None:
    server = serve(bearer_token=TOKEN)
    status, headers, _ = get(server, "/")
    assert status == 401
    assert 'Basic realm="tunnelfleet"' in headers["WWW-Authenticate"]
    good = {
        "bearer": f"Bearer {TOKEN}",
        "scheme in small letters": f"bearer {TOKEN}",
        "basic": "Basic " + _basic(f"anybody:{TOKEN}"),
        "basic without a user": "Basic " + _basic(f":{TOKEN}"),
    }
    for name, given in good.items():
        assert get(server, "/", {"Authorization": given})[0] == 200, name
    bad = [
        f"Bearer {TOKEN}x",
        f"Digest {TOKEN}",
        TOKEN,
        "Basic",
        "Basic ????",
        "Basic " + _basic(TOKEN),
        "Basic " + _basic(f"a:{TOKEN}:"),
    ]
    for given in bad:
        assert get(server, "/", {"Authorization": given})[0] == 401, given


def _basic(text: str) -> str:
    import base64

    return base64.b64encode(text.encode()).decode()


def test_a_reader_hears_the_whole_and_then_what_is_new(
    serve: Callable[..., AdminServer], look: Look
) -> None:
    reader = Reader(serve())
    first = reader.next_of("status")
    assert first["whole"]
    assert first["tunnels"] == [["a", 0]]
    look.sample = Sample({"name": "gw", "alerts": ["no"]}, {"b": ("b", 1)})
    second = reader.next_of("status")
    assert not second["whole"]
    assert second["tunnels"] == [["b", 1]]
    assert second["gone"]["tunnels"] == ["a"]
    assert second["gateway"]["alerts"] == ["no"]
    reader.close()


def test_a_gateway_that_does_not_answer_is_told_and_then_is_there_again(
    serve: Callable[..., AdminServer], look: Look
) -> None:
    reader = Reader(serve())
    assert reader.next()[0] == "status"
    look.problem = "no answer within 10 s"
    assert "no answer within 10 s" in reader.next_of("stale")["reason"]
    look.problem = ""
    assert reader.next()[0] in {"quiet", "status"}
    reader.close()


def test_nobody_looks_when_nobody_reads(serve: Callable[..., AdminServer], look: Look) -> None:
    server = serve()
    assert look.count == 0
    reader = Reader(server)
    assert reader.next()[0] == "status"
    reader.close()
    eventually(lambda: not _page_threads())
    # And a reader who comes after that is served.
    again = Reader(server)
    assert again.next_of("status")["whole"]
    again.close()


def _page_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("tunnelfleet-page")]


def test_more_readers_than_the_limit_are_told_to_come_back(
    serve: Callable[..., AdminServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "MAX_READERS", 2)
    server = serve()
    readers = [Reader(server) for _ in range(2)]
    for reader in readers:
        assert reader.next()[0] == "status"
    status, headers, _ = get(server, "/status/events")
    assert (status, headers["Retry-After"]) == (503, "10")
    assert get(server, "/healthz")[0] == 200
    for reader in readers:
        reader.close()
    eventually(lambda: get(server, "/status/events", method="HEAD")[0] == 200)


def test_a_reader_that_takes_nothing_is_let_go_and_holds_up_nobody(
    serve: Callable[..., AdminServer], look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "WRITE_SECONDS", 0.5)
    server = serve()
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    stuck.connect(("127.0.0.1", server.port))
    stuck.sendall(b"GET /status/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    quick = Reader(server)
    seen = 0
    stuck.settimeout(WAIT_SECONDS)
    for turn in range(60):
        # 60 looks of 200 kB each: more than the kernel keeps for who does not read.
        look.sample = Sample({"name": "gw", "alerts": []}, {"a": ("a", f"{turn}" * 100_000)})
        seen += len(quick.next_of("status")["tunnels"])
    assert seen >= 59
    with contextlib.suppress(ConnectionResetError):
        while stuck.recv(1 << 20):
            pass
    stuck.close()
    quick.close()


def test_an_open_page_does_not_hold_up_the_end(
    serve: Callable[..., AdminServer], look: Look
) -> None:
    server = serve()
    reader = Reader(server)
    assert reader.next()[0] == "status"
    server.stop()
    with contextlib.suppress(EOFError, ConnectionResetError):
        while reader.next():
            pass
    reader.close()
    assert look.count >= 1
