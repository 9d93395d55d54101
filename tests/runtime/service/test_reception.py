"""Requests at a running service: the table of docs/protocol.md section 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.frames import masked
from tests.support.service_client import (
    CLIENT_TOKEN,
    SUBPROTOCOL,
    EventLog,
    TunnelClient,
    connect_tcp,
    raw_request,
    request,
)
from tests.support.sockets import read_to_end
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import ACCESS_TOKEN_USED_TEXT, CLIENT_TOKEN_MISMATCH_TEXT, Mode
from tunnelfleet.runtime.service import ServiceEventKind
from tunnelfleet.runtime.service import handshake as reception

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tunnelfleet.runtime.service import TunnelService, TunnelTokens

OTHER_CLIENT_TOKEN = "fedcba9876543210fedcba9876543210"


def _accepted(service: TunnelService, wire: bytes) -> dict[str, str]:
    """Send a request that is accepted; return the response's headers."""
    with connect_tcp(service) as sock:
        sock.sendall(wire)
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = sock.recv(4096)
            assert chunk, head
            head += chunk
    status, *lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert status == "HTTP/1.1 101 Switching Protocols"
    return dict(line.lower().split(": ", 1) for line in lines)


def test_the_response_names_subprotocol_and_channel(
    service: TunnelService, tokens: TunnelTokens
) -> None:
    headers = _accepted(service, request(tokens))
    assert headers["sec-websocket-protocol"] == SUBPROTOCOL
    assert headers["sec-websocket-accept"] == "s3pplmbitxaq9kygzzhzrbk+xoo="
    assert len(headers["channel-id"].replace("-", "")) == 32
    assert "sec-websocket-extensions" not in headers


def test_channel_ids_differ(service: TunnelService, tokens: TunnelTokens) -> None:
    with_token = [f"access-token: {tokens.source_token}", f"client-token: {CLIENT_TOKEN}"]
    ids = {_accepted(service, request(tokens, headers=with_token))["channel-id"] for _ in range(3)}
    assert len(ids) == 3


def test_the_token_may_come_as_a_cookie(service: TunnelService, tokens: TunnelTokens) -> None:
    cookie = f"Cookie: a=b; awsiot-tunnel-token={tokens.source_token}"
    _accepted(service, request(tokens, headers=[cookie]))


def test_offered_extensions_are_not_used(service: TunnelService, tokens: TunnelTokens) -> None:
    headers = [
        f"access-token: {tokens.source_token}",
        "Sec-WebSocket-Extensions: permessage-deflate",
    ]
    assert "sec-websocket-extensions" not in _accepted(service, request(tokens, headers=headers))


def test_a_frame_may_follow_the_request_at_once(
    service: TunnelService, tokens: TunnelTokens, destination: TunnelClient
) -> None:
    frame = bytes.fromhex("000408011001")
    with connect_tcp(service) as sock:
        sock.sendall(request(tokens) + masked(2, frame))
        assert destination.payload() == frame


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/"},
        {"path": "/tunnel/"},
        {"path": "/Tunnel"},
        {"query": ""},
        {"query": "?local-proxy-mode="},
        {"query": "?local-proxy-mode=Source"},
        {"query": "?local-proxy-mode=source&local-proxy-mode=source"},
        {"query": "?local-proxy-mode=destination"},
        {"headers": []},
        {"headers": ["access-token: {token}", "access-token: {token}"]},
        {"headers": ["access-token: {token}", "Cookie: awsiot-tunnel-token={token}"]},
        {"headers": ["Cookie: awsiot-tunnel-token={token}; awsiot-tunnel-token={token}"]},
        {"headers": ["access-token: {token}", "client-token: short"]},
        {"headers": ["access-token: {token}", "client-token: " + "a" * 129]},
        {"headers": ["access-token: {token}", "client-token: " + "_" * 32]},
        {
            "headers": [
                "access-token: {token}",
                "client-token: " + "a" * 32,
                "client-token: " + "a" * 32,
            ]
        },
        {"headers": ["access-token: {token}", "X: " + "x" * 4096]},
        {"headers": ["access-token: {token}", "Upgrade: h2c"]},
        {"method": "get"},
    ],
)
def test_bad_requests(
    service: TunnelService, tokens: TunnelTokens, change: dict[str, object]
) -> None:
    if "headers" in change:
        texts = list(change["headers"])  # type: ignore[call-overload]
        change = {"headers": [text.format(token=tokens.source_token) for text in texts]}
    status, headers, body = raw_request(service, request(tokens, **change))  # type: ignore[arg-type]
    assert 400 <= status < 500
    if change.keys() != {"method"} and "h2c" not in str(change):
        assert status == 400
    assert "channel-id" in headers
    assert tokens.source_token not in body
    _accepted(service, request(tokens))  # it spent nothing


def test_the_request_may_be_4096_bytes_and_no_more(
    service: TunnelService, tokens: TunnelTokens
) -> None:
    token = f"access-token: {tokens.source_token}"
    room = 4096 - len(request(tokens, headers=[token, "X: "]))
    status, _, body = raw_request(
        service, request(tokens, headers=[token, "X: " + "x" * (room + 1)])
    )
    assert (status, "4096" in body) == (400, True)
    fits = request(tokens, headers=[token, "X: " + "x" * room])
    assert len(fits) == 4096
    _accepted(service, fits)


def test_a_request_without_end_is_refused_at_4_kib(service: TunnelService) -> None:
    assert raw_request(service, b"GET /tunnel HTTP/1.1\r\nX: " + b"x" * 8192)[0] == 400


@pytest.mark.parametrize(
    "wire", [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"\r\n\r\n", b"SSH-2.0\r\n\r\n"]
)
def test_what_is_not_http_is_refused(service: TunnelService, wire: bytes) -> None:
    assert raw_request(service, wire)[0] == 400


def test_a_spent_token_is_refused_with_awss_text(
    service: TunnelService, tokens: TunnelTokens, events: EventLog
) -> None:
    _accepted(service, request(tokens))
    status, _, body = raw_request(service, request(tokens))
    assert (status, body) == (403, ACCESS_TOKEN_USED_TEXT)
    refused = events.wait(ServiceEventKind.CLIENT_REFUSED)
    assert refused.tunnel == "press-4"
    assert ACCESS_TOKEN_USED_TEXT in refused.detail


def test_a_client_token_mismatch_is_refused_with_awss_text(
    service: TunnelService, tokens: TunnelTokens
) -> None:
    def with_client_token(client_token: str) -> bytes:
        lines = [f"access-token: {tokens.source_token}", f"client-token: {client_token}"]
        return request(tokens, headers=lines)

    _accepted(service, with_client_token(CLIENT_TOKEN))
    status, _, body = raw_request(service, with_client_token(OTHER_CLIENT_TOKEN))
    assert (status, body) == (403, CLIENT_TOKEN_MISMATCH_TEXT)
    _accepted(service, with_client_token(CLIENT_TOKEN))


def test_rotation_revokes_and_disconnects(
    service: TunnelService, tokens: TunnelTokens, connect: Callable[..., TunnelClient]
) -> None:
    source = connect(tokens, Mode.SOURCE, CLIENT_TOKEN)
    destination = connect(tokens, Mode.DESTINATION)
    rotated = service.rotate("press-4", Mode.SOURCE)
    source.assert_ended()
    destination.assert_quiet()
    assert raw_request(service, request(tokens))[0] == 403
    connect(rotated, Mode.SOURCE, OTHER_CLIENT_TOKEN).assert_quiet()


def test_planned_refusals_come_before_the_token_is_used(
    service: TunnelService, tokens: TunnelTokens
) -> None:
    service.refuse_next("press-4", 503, "busy", count=2, retry_after=1)
    other = service.open_tunnel("other", ["SSH"])
    _accepted(service, request(other))
    for _ in range(2):
        status, headers, body = raw_request(service, request(tokens))
        assert (status, body, headers["retry-after"]) == (503, "busy", "1")
    _accepted(service, request(tokens))


def test_planned_refusals_may_be_for_anybody(service: TunnelService, tokens: TunnelTokens) -> None:
    service.refuse_next(None, 429)
    assert raw_request(service, b"GET / HTTP/1.1\r\n\r\n")[0] == 429
    _accepted(service, request(tokens))


def test_silence_answers_nothing_and_stays_connected(
    service: TunnelService, tokens: TunnelTokens
) -> None:
    service.silence_next(1)
    with connect_tcp(service) as sock:
        sock.sendall(request(tokens))
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        _accepted(service, request(tokens))


def test_garbage_is_no_http(service: TunnelService, tokens: TunnelTokens) -> None:
    service.garbage_next(1)
    with connect_tcp(service) as sock:
        sock.sendall(request(tokens))
        answer = read_to_end(sock)
    assert answer
    assert not answer.startswith(b"HTTP/")
    _accepted(service, request(tokens))


# strangers


def _idle_connections(service: TunnelService, count: int) -> list[socket.socket]:
    idle = []
    for number in range(count):
        idle.append(connect_tcp(service))
        eventually(lambda n=number: len(service._admission._strangers) == n + 1, "it was accepted")  # type: ignore[misc]
    return idle


def test_a_stranger_that_had_time_enough_makes_place(
    service: TunnelService, tokens: TunnelTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "MAX_STRANGERS", 4)
    monkeypatch.setattr(reception, "STRANGER_SECONDS", 0.0)
    idle = _idle_connections(service, 4)
    TunnelClient(service, Mode.SOURCE, tokens.source_token).close()
    assert read_to_end(idle[0]) == b""
    assert len(service._admission._strangers) == 3
    for sock in idle:
        sock.close()


def test_newcomers_wait_while_strangers_have_their_time(
    service: TunnelService, tokens: TunnelTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "MAX_STRANGERS", 4)
    monkeypatch.setattr(reception, "STRANGER_SECONDS", 3_600.0)
    idle = _idle_connections(service, 4)
    with connect_tcp(service) as waiting:
        waiting.sendall(request(tokens))
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        idle.pop().close()
        waiting.settimeout(WAIT_SECONDS)
        assert waiting.recv(12) == b"HTTP/1.1 101"
    for sock in idle:
        sock.close()


def test_who_has_shown_a_token_is_no_stranger(
    service: TunnelService, source: TunnelClient, destination: TunnelClient
) -> None:
    assert len(service._admission._strangers) == 0
    source.close()
    destination.close()
