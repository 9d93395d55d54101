"""Every handshake that is refused, byte for byte in status and body, as programs know them."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.captures import CAPTURES, handshakes
from tests.support.service_client import (
    CLIENT_TOKEN,
    SUBPROTOCOL,
    TunnelClient,
    connect_tcp,
    raw_request,
    request,
)
from tests.support.sockets import read_to_end
from tests.support.waiting import eventually
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tunnelfleet.runtime.service import TunnelTokens

TOKEN = "Invalid access token"
REQUEST = "Invalid request"
CLIENT = "Invalid client token"
SUBPROTOCOLS = (
    "Sec-WebSocket-Protocol must offer one of aws.iot.securetunneling-3.0, "
    "aws.iot.securetunneling-2.0, aws.iot.securetunneling-1.0"
)


class Row(NamedTuple):
    """A request, and how it is answered."""

    name: str
    wire: Callable[[TunnelTokens], bytes]
    status: int
    body: str


def access(tokens: TunnelTokens, *more: str) -> list[str]:
    return [f"access-token: {tokens.source_token}", *more]


AT_ONCE = [
    Row("wrong path", lambda t: request(t, path="/x"), 400, f"{REQUEST}: the path must be /tunnel"),
    Row("missing", lambda t: request(t, headers=[]), 400, f"{TOKEN}: exactly one must be given"),
    Row(
        "double",
        lambda t: request(t, headers=access(t, *access(t))),
        400,
        f"{TOKEN}: exactly one must be given",
    ),
    Row(
        "header and cookie",
        lambda t: request(t, headers=access(t, f"Cookie: awsiot-tunnel-token={t.source_token}")),
        400,
        f"{TOKEN}: exactly one must be given",
    ),
    Row("wrong", lambda t: request(t, headers=["access-token: nonsense"]), 403, TOKEN),
    Row(
        "mode mismatch",
        lambda t: request(t, query="?local-proxy-mode=destination"),
        400,
        f"{REQUEST}: the access token was issued for the other mode",
    ),
    Row(
        "no mode",
        lambda t: request(t, query=""),
        400,
        f"{REQUEST}: local-proxy-mode must be given once, as source or destination",
    ),
    Row(
        "client token of another form",
        lambda t: request(t, headers=access(t, "client-token: short")),
        400,
        f"{CLIENT}: at most one may be given, of 32 to 128 letters, digits or hyphens",
    ),
    Row(
        "above 4 KiB",
        lambda t: request(t, headers=access(t, "x: " + "a" * 4096)),
        400,
        f"{REQUEST}: it is above 4096 bytes",
    ),
    Row(
        "missing subprotocol",
        lambda t: request(t).replace(f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n".encode(), b""),
        400,
        f"{REQUEST}: {SUBPROTOCOLS}",
    ),
    Row(
        "unknown subprotocol",
        lambda t: request(t).replace(SUBPROTOCOL.encode(), b"aws.iot.securetunneling-4.0"),
        400,
        f"{REQUEST}: {SUBPROTOCOLS}",
    ),
]

AFTER_A_CONNECT = [
    Row(
        "spent",
        request,
        403,
        f"{TOKEN}: The access token was previously used and cannot be used again",
    ),
    Row(
        "wrong client token",
        lambda t: request(t, headers=access(t, f"client-token: {'b' * 32}")),
        403,
        f"{CLIENT}: The provided client token does not match the client token that was "
        "previously set.",
    ),
]


def check(service: TunnelService, row: Row, tokens: TunnelTokens) -> None:
    status, headers, body = raw_request(service, row.wire(tokens))
    assert (status, body) == (row.status, row.body)
    assert headers["content-length"] == str(len(row.body))
    assert headers["connection"] == "close"


@pytest.mark.parametrize("row", AT_ONCE, ids=lambda row: row.name)
def test_at_the_first_try(row: Row, service: TunnelService, tokens: TunnelTokens) -> None:
    check(service, row, tokens)
    TunnelClient(service, Mode.SOURCE, tokens.source_token).close()  # it is not spent by that


@pytest.mark.parametrize("row", AFTER_A_CONNECT, ids=lambda row: row.name)
def test_after_a_connect(row: Row, service: TunnelService, tokens: TunnelTokens) -> None:
    client = TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN)
    check(service, row, tokens)
    client.assert_quiet()
    client.close()


def test_a_client_token_of_another_tunnel(service: TunnelService, tokens: TunnelTokens) -> None:
    client = TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN)
    other = service.open_tunnel("press-5")
    wire = request(other, headers=access(other, f"client-token: {CLIENT_TOKEN}"))
    expected = f"{CLIENT}: The provided client token is in use by another tunnel."
    assert raw_request(service, wire)[::2] == (403, expected)
    client.close()


def test_closed(service: TunnelService, tokens: TunnelTokens) -> None:
    service.close_tunnel("press-4")
    assert raw_request(service, request(tokens))[::2] == (403, TOKEN)


def test_expired(service: TunnelService) -> None:
    tokens = service.open_tunnel("short", ["SSH"], lifetime_seconds=0.05)
    eventually(lambda: service.open_names() == [])
    assert raw_request(service, request(tokens))[::2] == (403, TOKEN)


def test_rotated(service: TunnelService, tokens: TunnelTokens) -> None:
    service.rotate("press-4", Mode.SOURCE)
    assert raw_request(service, request(tokens))[::2] == (403, TOKEN)


def test_too_many_at_once_spend_no_token() -> None:
    with TunnelService(tls=False, connects_per_second=0.001) as service:
        first, second = service.open_tunnel("a"), service.open_tunnel("b")
        TunnelClient(service, Mode.SOURCE, first.source_token).close()
        refused = (429, "Too many requests: connect again later")
        for _ in range(2):
            assert raw_request(service, request(second))[::2] == refused
        # Who has none is told that, whatever the rate.
        assert raw_request(service, request(second, headers=["access-token: none"]))[0] == 403


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none(rate: float) -> None:
    with pytest.raises(ConfigError, match="connects_per_second"):
        TunnelService(tls=False, connects_per_second=rate)


@contextlib.contextmanager
def connected(service: TunnelService) -> Iterator[socket.socket]:
    """A connection, with the service's TLS if it has it."""
    with connect_tcp(service) as plain:
        if not service.has_tls:
            yield plain
            return
        with service.ssl_context().wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            yield sock


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_what_recorded_clients_send_is_taken_once(capture: Path, tls: bool) -> None:
    with TunnelService(tls=tls) as service:
        tokens = service.open_tunnel("press-4", ["SSH", "HTTP"])
        for recorded in handshakes(capture):
            token = getattr(tokens, f"{recorded.mode}_token")
            headers = "".join(
                f"{name}: {value.replace('<token>', token)}\r\n"
                for name, value in recorded.headers.items()
                if name.lower() != "client-token"
            )
            wire = f"GET {recorded.path} HTTP/1.1\r\n{headers}\r\n".encode()
            with connected(service) as sock:
                sock.sendall(wire)
                assert sock.recv(12) == b"HTTP/1.1 101"
            text = f"{TOKEN}: The access token was previously used and cannot be used again"
            with connected(service) as sock:
                sock.sendall(wire)
                head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
            assert body == text.encode()
            lines = head.decode().split("\r\n")
            assert re.fullmatch(r"channel-id: [0-9a-f]{32}", lines.pop())
            assert lines == [
                "HTTP/1.1 403 Forbidden",
                "Content-Type: text/plain; charset=utf-8",
                f"Content-Length: {len(text)}",
                "Connection: close",
            ]
