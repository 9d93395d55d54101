"""Requests and responses of the upgrade."""

from __future__ import annotations

import pytest

from tunnelfleet.runtime.service.handshake import (
    BadRequest,
    accept_key,
    parse_request,
    refusal_response,
    upgrade_response,
)

UPGRADE = [
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


def head(line: str = "GET /tunnel?local-proxy-mode=source HTTP/1.1", *headers: str) -> bytes:
    return "\r\n".join([line, *headers, "", ""]).encode("latin-1")


def test_parses_path_query_and_headers_in_order() -> None:
    request = parse_request(head("GET /tunnel?a=1&a=2&b= HTTP/1.1", "X: 1 ", "x:\t2", "Y:"))
    assert (request.path, request.query) == ("/tunnel", [("a", "1"), ("a", "2"), ("b", "")])
    assert request.headers == [("X", "1"), ("x", "2"), ("Y", "")]
    assert request.header("x") == "1,2"


def test_repr_hides_the_headers() -> None:
    assert "secret" not in repr(parse_request(head("GET /t HTTP/1.1", "access-token: secret")))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\r\n\r\n", 400),
        (head("GET /tunnel"), 400),
        (head("GET /tunnel HTTP/1.1 x"), 400),
        (head("nonsense\x00 \xff y"), 400),
        (head("GET /tunnel HTTP/1.1", "no colon"), 400),
        (head("GET /tunnel HTTP/1.1", "Folded: a", " b: c"), 400),
        (head("GET /tunnel HTTP/1.1", "N\xe4me: a"), 400),
        (head("GET //[ HTTP/1.1"), 400),
        (head("POST /tunnel HTTP/1.1"), 405),
        (head("GET /tunnel HTTP/1.0"), 505),
    ],
)
def test_refuses_what_is_no_request(request_bytes: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_request(request_bytes)
    assert caught.value.status == status


def test_accepts_an_upgrade() -> None:
    assert (
        parse_request(head("GET / HTTP/1.1", *UPGRADE)).accept() == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    )


@pytest.mark.parametrize(
    ("index", "header", "status"),
    [
        (0, "Upgrade: h2c", 426),
        (1, "Connection: close", 426),
        (2, "Sec-WebSocket-Version: 8", 426),
        (3, "Sec-WebSocket-Key: short", 400),
        (3, "Sec-WebSocket-Key: AAAA", 400),
        (3, "X: no key", 400),
    ],
)
def test_refuses_what_is_no_upgrade(index: int, header: str, status: int) -> None:
    headers = [header if each == index else line for each, line in enumerate(UPGRADE)]
    with pytest.raises(BadRequest) as caught:
        parse_request(head("GET / HTTP/1.1", *headers)).accept()
    assert caught.value.status == status


def test_the_upgrade_response_has_what_clients_need() -> None:
    assert upgrade_response("KEY", "aws.iot.securetunneling-3.0", "ID").split(b"\r\n") == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: KEY",
        b"Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0",
        b"channel-id: ID",
        b"",
        b"",
    ]


def test_a_refusal_says_why_and_ends_the_connection() -> None:
    response = refusal_response(429, "slow d\u00f6wn", "ID", retry_after_seconds=2.5)
    assert response.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    for line in (
        b"Content-Length: 10",
        b"Connection: close",
        b"channel-id: ID",
        b"Retry-After: 2.5",
    ):
        assert line + b"\r\n" in response
    assert response.endswith(b"\r\n\r\n" + "slow d\u00f6wn".encode())


def test_a_status_without_a_name_is_no_obstacle() -> None:
    assert refusal_response(599, "", "ID").startswith(b"HTTP/1.1 599 ")


def test_a_426_names_the_version() -> None:
    assert b"Sec-WebSocket-Version: 13\r\n" in refusal_response(426, "", "ID")


def test_accept_key_of_the_rfc() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
