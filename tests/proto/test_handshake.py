"""What a client sends to connect, and what a refusal means (docs/protocol.md section 1)."""

from __future__ import annotations

import uuid

import pytest

from tunnelfleet.proto import (
    ACCESS_TOKEN_USED_TEXT,
    CLIENT_TOKEN_MISMATCH_TEXT,
    CLIENT_TOKEN_PATTERN,
    MAX_REQUEST_BYTES,
    SUBPROTOCOLS,
    ConfigError,
    Endpoint,
    Mode,
    generate_client_token,
    handshake_error,
    request_headers,
    validate_access_token,
    validate_client_token,
)
from tunnelfleet.proto.handshake import MAX_ACCESS_TOKEN_BYTES, MAX_USER_AGENT_BYTES

TOKEN = "AQGAAXiVzSmRL1VaJ22G7eRb_CrPABsAAgABQQAMOTAwNTgyMDkxNTM4AAFUAANDQVQAAQAHYXdz="
CLIENT_TOKEN = "c" * 32


def test_only_3_0_is_offered() -> None:
    assert SUBPROTOCOLS == ("aws.iot.securetunneling-3.0",)


def test_texts_are_those_of_the_service() -> None:
    assert ACCESS_TOKEN_USED_TEXT == (
        "Invalid access token: The access token was previously used and cannot be used again"
    )
    assert CLIENT_TOKEN_MISMATCH_TEXT == (
        "Invalid client token: The provided client token does not match the client token "
        "that was previously set."
    )


def test_generated_client_tokens_are_valid_and_differ() -> None:
    first, second = generate_client_token(), generate_client_token()
    assert first != second
    assert uuid.UUID(first).version == 4
    assert CLIENT_TOKEN_PATTERN.fullmatch(first)
    assert validate_client_token(first) == first


@pytest.mark.parametrize("token", ["c" * 32, "A-9" * 30, "c" * 128])
def test_client_tokens_that_are_valid(token: str) -> None:
    assert validate_client_token(token) == token


@pytest.mark.parametrize("token", ["", "c" * 31, "c" * 129, "c" * 32 + "_", "c" * 32 + "\n"])
def test_client_tokens_that_are_not(token: str) -> None:
    with pytest.raises(ConfigError, match="32 to 128") as caught:
        validate_client_token(token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("token", [TOKEN, "x", "x" * MAX_ACCESS_TOKEN_BYTES])
def test_access_tokens_that_can_be_sent(token: str) -> None:
    assert validate_access_token(token) == token


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("", "is empty"),
        ("secret\r\nX-Evil: 1", "line break"),
        ("secret ", "a space"),
        ('"secret"', "stands in quotes"),
        ("\u201csecret\u201d", "stands in quotes"),
        ("secr\u00e9t", "not ASCII"),
        ("secret\0", "line break"),
        ("secret" * 600, "above 4096 bytes"),
    ],
)
def test_access_tokens_that_cannot(token: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        validate_access_token(token)
    assert "secret" not in str(caught.value)


def test_request_headers() -> None:
    assert request_headers(TOKEN, CLIENT_TOKEN, "tunnelfleet/1") == [
        ("access-token", TOKEN),
        ("client-token", CLIENT_TOKEN),
        ("User-Agent", "tunnelfleet/1"),
    ]
    assert "client-token" not in dict(request_headers(TOKEN, None, "tunnelfleet/1"))


@pytest.mark.parametrize("user_agent", ["x\r\nX-Evil: 1", "\u00fc", "x" * 257])
def test_user_agents_that_cannot_be_sent(user_agent: str) -> None:
    with pytest.raises(ConfigError, match="user agent"):
        request_headers(TOKEN, None, user_agent)


@pytest.mark.parametrize(("access", "client"), [("", None), ("x", "short"), ("a b", CLIENT_TOKEN)])
def test_request_headers_checks_the_tokens(access: str, client: str | None) -> None:
    with pytest.raises(ConfigError):
        request_headers(access, client, "x")


def test_the_longest_request_is_below_the_limit() -> None:
    host = ".".join(["x" * 61] * 4)
    url = Endpoint.parse(f"{host}:12345").url(Mode.DESTINATION)
    lines = [
        f"GET {url.removeprefix(f'wss://{host}:12345')} HTTP/1.1",
        f"Host: {host}:12345",
        *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOLS[0]}",
    ]
    headers = request_headers("t" * MAX_ACCESS_TOKEN_BYTES, "c" * 128, "u" * MAX_USER_AGENT_BYTES)
    lines += [f"{name}: {value}" for name, value in headers]
    assert len("\r\n".join([*lines, "", ""])) <= MAX_REQUEST_BYTES


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (400, False),
        (401, False),
        (403, False),
        (404, False),
        (429, True),
        (499, False),
        (500, True),
        (503, True),
        (599, True),
        (302, True),
        (200, True),
    ],
)
def test_what_may_be_retried(status: int, retryable: bool) -> None:
    error = handshake_error(status, "", "chan-1")
    assert error.retryable is retryable
    assert (error.status, error.channel_id) == (status, "chan-1")
    assert f"HTTP {status}" in str(error)
    assert "chan-1" in str(error)
    assert ("it may work later" in str(error)) is retryable


@pytest.mark.parametrize(
    ("status", "body", "advice"),
    [
        (400, ACCESS_TOKEN_USED_TEXT, "rotate the tunnel's access tokens"),
        (400, CLIENT_TOKEN_MISMATCH_TEXT, "give the client token of the first connect"),
        (400, "", "check the access token, its mode"),
        (403, "Forbidden", "check that the tunnel is open"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, body: str, advice: str) -> None:
    error = handshake_error(status, body, None)
    assert body.rstrip(".") in str(error)
    assert advice in str(error)
    assert error.channel_id is None


def test_a_body_cannot_leak_a_token_or_forge_a_log_line() -> None:
    body = f"<p>bad token {TOKEN}</p>\r\n2026 INFO all is well\x1b[2J short-secret" + "y " * 5000
    text = str(handshake_error(403, body, "id\r\nx", secrets=["short-secret", ""]))
    assert TOKEN not in text
    assert "short-secret" not in text
    assert text.isprintable()
    assert len(text) < 500
    assert "bad token [hidden]" in text


def test_an_unregistered_status_has_no_phrase() -> None:
    assert str(handshake_error(599, "", None)) == (
        "the service answered HTTP 599: it may work later"
    )
