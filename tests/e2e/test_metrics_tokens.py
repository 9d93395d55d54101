"""A token, put everywhere a user could put one, is in no metric, page, log line, event or error."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socketserver
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.rig import FAST_LIMITS, Events
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import ConfigError, Endpoint, Mode
from tunnelfleet.runtime import HttpProxy, TunnelConfig, TunnelRuntime, TunnelState, parse_address
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACCESS = "AccessTokenHushHushHushHush0123456789abcdefghijklmnopqrstuvwxyz"
CLIENT = "client-token-hush-hush-hush-hush-0123456789"
BEARER = "BearerTokenHushHushHushHush0123456789"
PASSWORD = "ProxyPasswordHushHushHush0123456789"
SECRETS = (ACCESS, CLIENT, BEARER, PASSWORD)
PAGES = ("/", "/metrics", "/healthz", "/readyz", f"/{ACCESS}", f"/metrics?access-token={ACCESS}")


class Parrot(socketserver.BaseRequestHandler):
    """A service that refuses every handshake and repeats all it was sent."""

    status = 403

    def handle(self) -> None:
        request = b""
        while b"\r\n\r\n" not in request and (data := self.request.recv(65_536)):
            request += data
        head = f"HTTP/1.1 {self.status} {CLIENT}\r\nchannel-id: c\r\n"
        head += f"Content-Length: {len(request)}\r\n"
        self.request.sendall(head.encode() + b"Connection: close\r\n\r\n" + request)


class Crash(Parrot):
    status = 503


@contextlib.contextmanager
def parrot(handler: type[Parrot]) -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def leaks(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


def page(server: AdminServer, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_SECONDS)
    with contextlib.closing(connection):
        headers = {"Authorization": f"Bearer {BEARER}", "access-token": ACCESS}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return f"{answer.getheaders()} {answer.read().decode()}"


@pytest.mark.parametrize(
    ("handler", "through_proxy", "state"),
    [
        (Parrot, False, TunnelState.REFUSED),
        (Crash, False, TunnelState.BACKOFF),
        (Parrot, True, TunnelState.BACKOFF),
    ],
)
def test_metrics_pages_events_and_the_log(
    handler: type[Parrot],
    through_proxy: bool,
    state: TunnelState,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    events = Events()
    with (
        parrot(handler) as port,
        TunnelRuntime(on_event=events, per_tunnel_series=10) as runtime,
        AdminServer(runtime, AdminOptions(port=0, bearer_token=BEARER)) as server,
    ):
        proxy = (
            HttpProxy.parse(f"http://user:{PASSWORD}@127.0.0.1:{port}") if through_proxy else None
        )
        config = TunnelConfig(
            name="hush",
            mode=Mode.SOURCE,
            endpoint=Endpoint.parse(f"ws://127.0.0.1:{port}"),
            access_token=ACCESS,
            client_token=CLIENT,
            http_proxy=proxy,
            limits=FAST_LIMITS,
        )
        tunnel = runtime.open_tunnel(config)
        eventually(lambda: sum(tunnel.stats.connect_failures.copy().values()) > 0, "a failure")
        tunnel.wait_for({state, TunnelState.QUARANTINED}, WAIT_SECONDS)
        for path in PAGES:
            assert not leaks(page(server, path)), path
        assert "hush" in page(server, "/metrics")
        assert not leaks(f"{tunnel.status()} {tunnel!r} {tunnel.config!r} {runtime!r} {server!r}")
    assert not leaks(str(events.all()))
    assert not leaks(caplog.text)


@pytest.mark.parametrize(
    "option",
    ["-t", "-i", "-e", "-r", "-s", "-d", "-b", "-c", "-v", "-m", "-y", "--config", "--config-dir",
     "--settings-json", "--bandwidth", "--payload-bytes", "--admin"],
)  # fmt: skip
def test_a_token_as_any_option_of_localproxy_is_not_repeated(
    option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWSIOT_TUNNEL_ACCESS_TOKEN", ACCESS)
    # A wrong mode ends it before it runs, where the option itself does not.
    assert main(["localproxy", "-m", "neither", option, ACCESS]) != 0
    said = capsys.readouterr()
    assert said.err
    assert not leaks(said.out + said.err)


@pytest.mark.parametrize(
    "parse",
    [
        lambda: Endpoint.parse(f"wss://{ACCESS}@example.com"),
        lambda: Endpoint.parse(f"wss://example.com/tunnel?access-token={ACCESS}"),
        lambda: HttpProxy.parse(f"http://u:{PASSWORD}@[::1:3128"),
        lambda: HttpProxy.parse(f"ftp://u:{PASSWORD}@h"),
        lambda: parse_address(f"h:{ACCESS}"),
        lambda: AdminOptions(bearer_token=f"{BEARER} "),
        lambda: AdminOptions(bearer_token=BEARER, host="192.0.2.1"),
    ],
)
def test_what_cannot_be_read_is_not_repeated(parse: object) -> None:
    with pytest.raises(ConfigError) as raised:
        parse()  # type: ignore[operator]
    assert not leaks(f"{raised.value} {raised.value!r}")
