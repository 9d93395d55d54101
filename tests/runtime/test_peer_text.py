"""A service that echoes what it was sent, or forges lines: what people then see."""

from __future__ import annotations

import http.client
import io
import json
import logging
from typing import TYPE_CHECKING

import pytest

from tests.support.scripted_server import Peer, ScriptedServer
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.proto import Message, MessageType, Mode
from tunnelfleet.runtime import Backoff, Limits, TunnelConfig, TunnelRuntime, TunnelState
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.cli.localproxy.output import configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ACCESS_TOKEN = "AQGAAXj4ZxQ9bTcE7kP2wLrY0vN8mUoHsJdGf1iRa5eBt6qCxWzKl3"
CLIENT_TOKEN = "5e6f0c1d-9a8b-4c7d-b6e5-f4a3b2c1d0e9"
FORGED = "\x1b[2J"


def _in_the_body(peer: Peer) -> None:
    peer.answer("403 Forbidden", "channel-id: c0ffee", body=peer.read_request())


def _in_pieces(peer: Peer) -> None:
    tokens = f"{ACCESS_TOKEN[:20]} {ACCESS_TOKEN[20:]} {CLIENT_TOKEN[3:30]}"
    peer.read_request()
    peer.answer("403 Forbidden", body=tokens.encode())


def _in_the_channel_id(peer: Peer) -> None:
    peer.read_request()
    peer.answer("403 Forbidden", f"channel-id: {ACCESS_TOKEN}/{CLIENT_TOKEN}{FORGED}")


def _in_the_reason_to_retry(peer: Peer) -> None:
    peer.answer("503 Busy", body=peer.read_request())


def _as_the_status_line(peer: Peer) -> None:
    peer.read_request()
    peer.send(f"access-token: {ACCESS_TOKEN} {CLIENT_TOKEN}{FORGED}\r\n\r\n".encode())


def _as_a_header_that_is_not_utf8(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nx: \xff" + f"{ACCESS_TOKEN} {CLIENT_TOKEN}\r\n\r\n".encode())


def _as_the_length_of_the_body(peer: Peer) -> None:
    peer.read_request()
    peer.send(f"HTTP/1.1 500 X\r\ncontent-length: {CLIENT_TOKEN}{ACCESS_TOKEN}\r\n\r\n".encode())


ECHOES = [
    _in_the_body,
    _in_pieces,
    _in_the_channel_id,
    _in_the_reason_to_retry,
    _as_the_status_line,
    _as_a_header_that_is_not_utf8,
    _as_the_length_of_the_body,
]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What ``localproxy -v 6`` writes on stderr."""
    stream, logger = io.StringIO(), logging.getLogger("tunnelfleet")
    former = logger.level, logger.propagate
    handler = configure_logging(6, stream)
    yield stream
    logger.removeHandler(handler)
    logger.level, logger.propagate = former


def _config(server: ScriptedServer) -> TunnelConfig:
    return TunnelConfig(
        name="t",
        mode=Mode.DESTINATION,
        endpoint=server.endpoint,
        access_token=ACCESS_TOKEN,
        client_token=CLIENT_TOKEN,
        services={"SSH": TcpAddress("127.0.0.1", 9)},
        # All that is shown is of one attempt.
        limits=Limits(backoff=Backoff(min_seconds=3600, max_seconds=3600)),
    )


def _readyz(runtime: TunnelRuntime) -> str:
    with AdminServer(runtime, AdminOptions(port=0)) as admin:
        connection = http.client.HTTPConnection("127.0.0.1", admin.port, timeout=WAIT_SECONDS)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().read().decode()
        finally:
            connection.close()


@pytest.mark.parametrize("echo", ECHOES, ids=[each.__name__.strip("_") for each in ECHOES])
def test_an_echoed_token_is_shown_nowhere(echo: Callable[[Peer], None], log: io.StringIO) -> None:
    told: list[str] = []
    with (
        ScriptedServer(echo) as server,
        TunnelRuntime(on_event=lambda event: told.append(repr(event))) as runtime,
    ):
        tunnel = runtime.open_tunnel(_config(server))
        status = tunnel.wait_for({TunnelState.REFUSED, TunnelState.BACKOFF}, WAIT_SECONDS)
        ready = _readyz(runtime)
        shown = [status.reason, status.last_event, status.channel_id, repr(status), ready]
        assert json.loads(ready)["not_connected"][0]["reason"] == status.reason
        runtime.close_tunnel("t")
    for text in (*shown, *told, log.getvalue()):
        for token in (ACCESS_TOKEN, CLIENT_TOKEN):
            for start in range(len(token) - 8):
                assert token[start : start + 8] not in text
        assert FORGED not in text
    assert status.reason


def test_a_channel_id_is_one_printable_line_without_tokens() -> None:
    def script(peer: Peer) -> None:
        peer.upgrade(f"channel-id: c0ffee-{ACCESS_TOKEN}{FORGED}" + "y" * 5_000)
        peer.send_message(Message(MessageType.SERVICE_IDS, available_service_ids=("SSH",)))
        peer.wait_closed()

    with ScriptedServer(script) as server, TunnelRuntime() as runtime:
        tunnel = runtime.open_tunnel(_config(server))
        status = tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        assert "c0ffee-[hidden]" in status.channel_id
        assert status.channel_id.isprintable()
        assert len(status.channel_id) <= 128
