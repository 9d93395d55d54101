from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tests.support.counted import count_some, open_tunnel
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.counters import TunnelStats
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime import TunnelRuntime
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.service.tls import ensure_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

TOKEN = "7hush-hush-this-is-the-bearer-token"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.body)
        return found


def get(
    server: AdminServer, path: str, context: ssl.SSLContext | None = None, **headers: str
) -> Answer:
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_SECONDS)
    else:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, timeout=10, context=context
        )
    try:
        connection.request(
            "GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


@pytest.fixture
def server(runtime: TunnelRuntime) -> Iterator[AdminServer]:
    with AdminServer(runtime, AdminOptions(port=0)) as running:
        yield running


def test_metrics_of_runtime_and_process(server: AdminServer, runtime: TunnelRuntime) -> None:
    open_tunnel(runtime._meter, "a", sent=5)
    answer = get(server, "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'tunnelfleet_sent_bytes_total{mode="source",service_id="SSH"} 5.0\n' in answer.body
    assert b"process_cpu_seconds_total" in answer.body
    assert b'python_gc_collections_total{generation="2"}' in answer.body


def test_open_metrics_and_gzip(server: AdminServer) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    answer = get(server, "/metrics", Accept=accept, Accept_Encoding="gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert gzip.decompress(answer.body).endswith(b"# EOF\n")


def test_it_listens_on_loopback_only(server: AdminServer) -> None:
    assert server.url == f"http://127.0.0.1:{server.port}"
    host = socket.gethostbyname(socket.gethostname())
    if not host.startswith("127."):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, server.port), timeout=WAIT_SECONDS)


def test_health(server: AdminServer) -> None:
    answer = get(server, "/healthz")
    assert (answer.status, answer.json) == (200, {"healthy": True, "dispatchers": 1})


def test_a_dispatcher_that_hangs_is_not_healthy_and_metrics_go_on(
    server: AdminServer, runtime: TunnelRuntime
) -> None:
    go_on = threading.Event()
    runtime.dispatchers[0].call_soon(go_on.wait)
    try:
        answer = get(server, "/healthz")
        assert get(server, "/metrics").status == 200
    finally:
        go_on.set()
    assert answer.status == 503
    assert answer.json["silent"] == ["tunnelfleet-0"]
    assert get(server, "/healthz").status == 200


def test_another_part_that_gives_no_sign_of_life_is_not_healthy(runtime: TunnelRuntime) -> None:
    silent = ["worker 1"]
    with AdminServer(runtime, AdminOptions(port=0), more_silent=lambda: silent) as server:
        answer = get(server, "/healthz")
        assert (answer.status, answer.json["silent"]) == (503, ["worker 1"])
        silent.clear()
        assert get(server, "/healthz").status == 200


def test_another_part_may_say_more_and_be_not_ready(runtime: TunnelRuntime) -> None:
    more: dict[str, object] = {"ready": False, "lease": "none"}
    with AdminServer(runtime, AdminOptions(port=0), more_ready=lambda: more) as server:
        answer = get(server, "/readyz")
        assert (answer.status, answer.json["ready"], answer.json["lease"]) == (503, False, "none")
        del more["ready"]
        assert get(server, "/readyz").status == 200


def test_a_runtime_that_has_stopped_is_neither_healthy_nor_ready() -> None:
    runtime = TunnelRuntime().start()
    with AdminServer(runtime, AdminOptions(port=0)) as server:
        assert get(server, "/readyz").status == 200
        runtime.stop()
        assert get(server, "/healthz").status == 503
        assert get(server, "/readyz").status == 503
        assert get(server, "/metrics").status == 200


def test_readiness(
    server: AdminServer, runtime: TunnelRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FakeTunnel:
        name = "press-4"
        stats = count_some(TunnelStats(), state=TunnelState.REFUSED)
        reason = "invalid access token"

    monkeypatch.setattr(runtime, "tunnels", lambda: [FakeTunnel()])
    answer = get(server, "/readyz")
    assert answer.status == 503
    missing: dict[str, object]
    (missing,) = answer.json["not_connected"]  # type: ignore[misc]
    assert missing["tunnel"] == "press-4"
    assert missing["state"] == "refused"
    assert missing["reason"] == "invalid access token"
    FakeTunnel.stats.enter(TunnelState.CONNECTED)
    assert get(server, "/readyz").status == 200


def test_the_bearer_token(runtime: TunnelRuntime, caplog: pytest.LogCaptureFixture) -> None:
    with AdminServer(runtime, AdminOptions(port=0, bearer_token=TOKEN)) as server:
        for path in ("/metrics", "/healthz", "/readyz", "/", "/nothing"):
            assert get(server, path).status == 401
            assert get(server, path, Authorization=f"Bearer {TOKEN}x").status == 401
            assert get(server, path, Authorization=f"Basic {TOKEN}").status == 401
        answer = get(server, "/metrics", Authorization=f"Bearer {TOKEN}")
        assert answer.status == 200
        assert TOKEN.encode() not in answer.body
    assert TOKEN not in caplog.text


def test_tls(runtime: TunnelRuntime, tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    options = AdminOptions(port=0, certificate=files.certificate, private_key=files.private_key)
    context = ssl.create_default_context(cafile=str(files.ca))
    with AdminServer(runtime, options) as server:
        assert server.url.startswith("https://")
        assert get(server, "/metrics", context).status == 200


def test_a_certificate_that_is_none(runtime: TunnelRuntime, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    options = AdminOptions(port=0, certificate=tmp_path / "x.pem", private_key=tmp_path / "x.pem")
    with pytest.raises(ConfigError, match="certificate"):
        AdminServer(runtime, options).start()


def test_a_port_that_is_taken(server: AdminServer, runtime: TunnelRuntime) -> None:
    with pytest.raises(ConfigError, match="choose another"):
        AdminServer(runtime, AdminOptions(port=server.port)).start()


def test_it_starts_once_and_stops_twice(runtime: TunnelRuntime) -> None:
    server = AdminServer(runtime, AdminOptions(port=0)).start()
    with pytest.raises(RuntimeError):
        server.start()
    server.stop()
    server.stop()


def test_what_is_not_there_and_what_is_not_asked_repeats_nothing(
    server: AdminServer, caplog: pytest.LogCaptureFixture
) -> None:
    answer = get(server, f"/{TOKEN}?access-token={TOKEN}", access_token=TOKEN)
    assert answer.status == 404
    assert TOKEN.encode() not in answer.body
    assert TOKEN not in caplog.text


def test_the_index_names_the_pages(server: AdminServer) -> None:
    answer = get(server, "/")
    assert answer.headers["Content-Type"].startswith("text/html")
    for page in (b"/metrics", b"/healthz", b"/readyz"):
        assert page in answer.body


class SlowCollector(Collector):
    """A collector that is in the middle of something until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def collect(self) -> Iterator[Metric]:
        self.entered.set()
        self.go_on.wait(10)
        yield GaugeMetricFamily("slow", "of a scrape", value=1)


def test_a_scrape_that_takes_long_holds_up_no_other_page(runtime: TunnelRuntime) -> None:
    slow, registry = SlowCollector(), CollectorRegistry(auto_describe=False)
    registry.register(slow)
    got: list[Answer] = []
    with AdminServer(runtime, AdminOptions(port=0), registry=registry) as server:
        scraper = threading.Thread(target=lambda: got.append(get(server, "/metrics")))
        scraper.start()
        try:
            assert slow.entered.wait(10)
            assert get(server, "/healthz").status == 200
            assert get(server, "/readyz").status == 200
            assert not got
        finally:
            slow.go_on.set()
            scraper.join(10)
    assert (got[0].status, got[0].body.splitlines()[-1]) == (200, b"slow 1.0")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nAuthorization: Bearer %s\x01\r\n\r\n",
        b"GET /%s HTTP/9.9\r\n\r\n",
        b"GET /" + 9_000 * b"x" + b"%s HTTP/1.1\r\n\r\n",
    ],
    ids=["header", "version", "long"],
)
def test_a_request_that_is_none_puts_nothing_of_it_into_the_log(
    server: AdminServer, caplog: pytest.LogCaptureFixture, request_bytes: bytes
) -> None:
    with (
        caplog.at_level("DEBUG"),
        socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as client,
    ):
        client.sendall(request_bytes % TOKEN.encode())
        assert b" 400 " in client.recv(100)
    text = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "Error handling request" in text
    assert TOKEN not in text
    # Whoever may connect must not be able to fill the log.
    assert {each.levelname for each in caplog.records if "Error handling" in each.msg} == {"DEBUG"}


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"405"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
    ],
)
def test_no_answer_tells_versions(server: AdminServer, request_bytes: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as client:
        client.sendall(request_bytes)
        with client.makefile("rb") as answer:
            head = answer.read().partition(b"\r\n\r\n")[0]
    assert head.split(b" ")[1] == status
    assert b"\r\nServer: tunnelfleet\r\n" in head + b"\r\n"
    assert b"aiohttp" not in head
    assert b"\r\nCache-Control: no-store" in head


def test_a_head_has_no_body(server: AdminServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as client:
        client.sendall(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with client.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n\r\n")


def test_tunnels_are_counted_and_not_their_ends(
    runtime: TunnelRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one process has both ends of a tunnel, as the demo has."""

    class End:
        def __init__(self, name: str, state: TunnelState) -> None:
            self.name, self.stats = name, count_some(TunnelStats(), state=state)

        @property
        def reason(self) -> str:
            return self.stats.reason

    ends = [
        End(f"{name} {mode}", TunnelState.CONNECTED)
        for name in ("kiln", "oven", "press")
        for mode in ("source", "destination")
    ]
    ends[-1].stats.enter(TunnelState.BACKOFF, "lost")
    monkeypatch.setattr(runtime, "tunnels", lambda: ends)
    with AdminServer(
        runtime, AdminOptions(port=0), tunnel_of=lambda name: name.split()[0]
    ) as server:
        found = get(server, "/readyz").json
    assert (found["tunnels"], found["connected"], found["not_connected_count"]) == (3, 2, 1)
    missing: Any
    (missing,) = found["not_connected"]
    assert (missing["tunnel"], missing["state"], missing["reason"]) == ("press", "backoff", "lost")


@pytest.mark.filterwarnings("ignore:.*policy:DeprecationWarning")
def test_it_serves_in_a_host_that_has_another_policy_for_loops() -> None:
    uvloop = pytest.importorskip("uvloop")
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        with TunnelRuntime() as runtime, AdminServer(runtime, AdminOptions(port=0)) as server:
            assert get(server, "/metrics").status == 200
    finally:
        asyncio.set_event_loop_policy(before)
