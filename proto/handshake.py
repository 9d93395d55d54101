"""The WebSocket upgrade, from both sides: docs/protocol.md sections 1 and 4.

Owns what a client asks for and what the answer to it means, and what a service makes of a request:
whether it may enter, and the status and reason if not. Pure: it is given texts, and returns them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from .endpoint import MODE_PARAMETER, TUNNEL_PATH
from .errors import ConfigError, HandshakeError
from .modes import Mode
from .text import HIDDEN, MAX_ID_CHARACTERS, Redactor, printable

# What looks like a password here is the name of a header or the text of a refusal.
# ruff: noqa: S105

SUBPROTOCOL_V1 = "aws.iot.securetunneling-1.0"
SUBPROTOCOL_V2 = "aws.iot.securetunneling-2.0"
SUBPROTOCOL_V3 = "aws.iot.securetunneling-3.0"
SUBPROTOCOLS = (SUBPROTOCOL_V3,)
"""What a client offers: just 3.0, whatever version it then speaks, as both observed clients do."""

ACCESS_TOKEN_HEADER = "access-token"
ACCESS_TOKEN_COOKIE = "awsiot-tunnel-token"
CLIENT_TOKEN_HEADER = "client-token"
CHANNEL_ID_HEADER = "channel-id"
SUBPROTOCOL_HEADER = "Sec-WebSocket-Protocol"

SWITCHING_PROTOCOLS, BAD_REQUEST, TOO_MANY_REQUESTS = 101, 400, 429
"""Statuses of HTTP."""

CLIENT_TOKEN_PATTERN = re.compile(r"\A[a-zA-Z0-9-]{32,128}\Z")
MAX_REQUEST_BYTES = 4096


class LenientClientToken(str):
    """A client token that may have a `_` in it, which the service's own pattern does not allow.

    localproxy sends such a token, so its replacement has to be able to.
    """

    __slots__ = ()


def generate_client_token() -> str:
    """Return a new client token, a UUIDv4 as advised."""
    return str(uuid.uuid4())


_LENIENT_CLIENT_TOKEN_PATTERN = re.compile(r"\A[a-zA-Z0-9_-]{32,128}\Z")


def validate_client_token(client_token: str) -> str:
    """Return `client_token` if it can be one.

    Raises:
        ConfigError: it cannot.
    """
    is_lenient = isinstance(client_token, LenientClientToken)
    pattern = _LENIENT_CLIENT_TOKEN_PATTERN if is_lenient else CLIENT_TOKEN_PATTERN
    if not pattern.fullmatch(client_token):
        raise ConfigError(
            "the client token must be 32 to 128 letters, digits or hyphens: "
            "leave it out to have one generated"
        )
    return client_token


MAX_ACCESS_TOKEN_BYTES = 3072
"""This leaves 1 KiB of a request for the longest host, user agent and client token."""
_QUOTES = "\"'`\u201c\u201d"
_PRINTABLE_ASCII = re.compile(r"[!-~]+")


def validate_access_token(access_token: str) -> str:
    """Return `access_token` if it can be sent as a header.

    Raises:
        ConfigError: it is empty, too long for a request, or has characters that no token has.
    """
    if not access_token:
        raise ConfigError("the access token is empty: give the one that OpenTunnel returned")
    if access_token[0] in _QUOTES and access_token[-1] in _QUOTES:
        raise ConfigError("the access token stands in quotes: give it without them")
    if len(access_token) > MAX_ACCESS_TOKEN_BYTES:
        raise ConfigError(
            f"the access token is longer than {MAX_ACCESS_TOKEN_BYTES} characters, so the request "
            f"would be above {MAX_REQUEST_BYTES} bytes: give the one that OpenTunnel returned"
        )
    if not _PRINTABLE_ASCII.fullmatch(access_token):
        raise ConfigError(
            "the access token has a space, line break or character that is not ASCII in it: "
            "copy it anew, without what stands around it"
        )
    return access_token


MAX_USER_AGENT_BYTES = 256
_USER_AGENT = re.compile(r"[ -~]*")


def request_headers(
    access_token: str, client_token: str | None, user_agent: str
) -> list[tuple[str, str]]:
    """Return the headers of an upgrade request that are this protocol's own, in order.

    The WebSocket library adds its own (not an `Origin`: with it a request may be too large) and
    offers `SUBPROTOCOLS`.

    Args:
        access_token: the token of this side of the tunnel.
        client_token: sent again, the same, on every reconnect; None for a token to be used once
            only.
        user_agent: names the program, at most `MAX_USER_AGENT_BYTES`.

    Raises:
        ConfigError: one of them cannot be sent.
    """
    if len(user_agent) > MAX_USER_AGENT_BYTES or not _USER_AGENT.fullmatch(user_agent):
        raise ConfigError(
            f"the user agent must be printable ASCII, at most {MAX_USER_AGENT_BYTES} characters"
        )
    headers = [(ACCESS_TOKEN_HEADER, validate_access_token(access_token))]
    if client_token is not None:
        headers.append((CLIENT_TOKEN_HEADER, validate_client_token(client_token)))
    return [*headers, ("User-Agent", user_agent)]


def handshake_error(
    status: int, body: str, channel_id: str | None, *, secrets: Iterable[str] = ()
) -> HandshakeError:
    """Return the error that an HTTP answer other than 101 stands for.

    4xx means that the request is refused and is not to be repeated unchanged, but for 429, which is
    a throttle. Anything else may be passing (docs/protocol.md section 1).

    Args:
        status: the HTTP status.
        body: the text that came with it. An excerpt is shown.
        channel_id: the `channel-id` header, if there was one.
        secrets: texts that must not be shown. What looks like a token is not shown in any case.
    """
    refused = 400 <= status < 500 and status != TOO_MANY_REQUESTS
    redactor = Redactor(secrets)
    parts = [f"the service answered HTTP {status}{_reason(status)}"]
    if excerpt := _excerpt(body, redactor):
        parts.append(f'"{excerpt}"')
    parts.append(_advice(status, body, refused=refused))
    shown_id = redactor(channel_id or "", MAX_ID_CHARACTERS)
    return HandshakeError(
        ": ".join(parts), status=status, channel_id=shown_id or None, retryable=not refused
    )


def _reason(status: int) -> str:
    try:
        # With all their names it takes 0.1 MB, which a tunnel that connects does not need.
        from http import HTTPStatus  # noqa: PLC0415

        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


_EXCERPT_LENGTH = 200
_SEARCHED_LENGTH = 1024
# As long as the shortest token there is: longer runs in a refusal's body are not shown.
_TOKEN_LIKE = re.compile(r"[A-Za-z0-9+/=_.~\\-]{32,}")


def _excerpt(body: str, redactor: Redactor) -> str:
    # Tokens of other tunnels are not known here, so whatever is as long as one goes too, before
    # the text is cut to a length at which it would no longer be noticed.
    text = _TOKEN_LIKE.sub(HIDDEN, redactor(body, _SEARCHED_LENGTH))
    return printable(text, _EXCERPT_LENGTH)


ACCESS_TOKEN_INVALID_TEXT = "Invalid access token"
ACCESS_TOKEN_USED_TEXT = (
    f"{ACCESS_TOKEN_INVALID_TEXT}: The access token was previously used and cannot be used again"
)
CLIENT_TOKEN_INVALID_TEXT = "Invalid client token"
CLIENT_TOKEN_MISMATCH_TEXT = (
    f"{CLIENT_TOKEN_INVALID_TEXT}: The provided client token does not match the client token "
    "that was previously set."
)


def _advice(status: int, body: str, *, refused: bool) -> str:
    if not refused:
        return "it may work later"
    if ACCESS_TOKEN_USED_TEXT in body:
        return "rotate the tunnel's access tokens and give the new one"
    if CLIENT_TOKEN_MISMATCH_TEXT.rstrip(".") in body:
        return "give the client token of the first connect, or rotate the tunnel's access tokens"
    if status == BAD_REQUEST:
        return "check the access token, its mode (source or destination) and the endpoint"
    return "check that the tunnel is open, its region, and that the access token is its newest one"


ACCEPTED_SUBPROTOCOLS = (SUBPROTOCOL_V3, SUBPROTOCOL_V2, SUBPROTOCOL_V1)
"""What a service accepts, the best first."""


class RequestRefused(Exception):  # noqa: N818 - a decision of the service, not a failure of it
    """The error of an upgrade request that is refused.

    Args:
        status: the HTTP status to answer with.
        body: the text to answer with; no token is in it.
    """

    def __init__(self, status: int, body: str) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class RequestAccepted:
    """An upgrade request that is well formed. Whether its tokens are valid it does not say.

    Args:
        mode: the side that the client wants to be.
        access_token: its access token.
        client_token: its client token, if it sent one.
        subprotocol: the one to answer with.
    """

    mode: Mode
    access_token: str = field(repr=False)
    client_token: str | None = field(repr=False)
    subprotocol: str


def check_request(
    path: str, query: Iterable[tuple[str, str]], headers: Iterable[tuple[str, str]]
) -> RequestAccepted:
    """Judge an upgrade request as the service does (docs/protocol.md section 1).

    Args:
        path: its path, without the query.
        query: its decoded query parameters, every one.
        headers: its headers, every one, names in any case.

    Raises:
        RequestRefused: with the status and text to answer.
    """
    query, headers = list(query), list(headers)
    _check_size(path, query, headers)
    if path != TUNNEL_PATH:
        raise _refusal(f"the path must be {TUNNEL_PATH}")
    return RequestAccepted(
        mode=_requested_mode(query),
        access_token=_requested_access_token(headers),
        client_token=_requested_client_token(headers),
        subprotocol=_requested_subprotocol(headers),
    )


INVALID_REQUEST_TEXT = "Invalid request"


def _refusal(problem: str, text: str = INVALID_REQUEST_TEXT) -> RequestRefused:
    return RequestRefused(BAD_REQUEST, f"{text}: {problem}")


def _check_size(path: str, query: list[tuple[str, str]], headers: list[tuple[str, str]]) -> None:
    parameters = sum(_size(name) + _size(value) + len("?=") for name, value in query)
    lines = sum(_size(name) + _size(value) + len(": \r\n") for name, value in headers)
    if len("GET  HTTP/1.1\r\n\r\n") + _size(path) + parameters + lines > MAX_REQUEST_BYTES:
        raise _refusal(f"it is above {MAX_REQUEST_BYTES} bytes")


def _size(text: str) -> int:
    # A server gives bytes that are not UTF-8 as surrogates, one each.
    return len(text.encode("utf-8", "replace"))


def _values(headers: list[tuple[str, str]], wanted: str) -> list[str]:
    return [value.strip() for name, value in headers if name.lower() == wanted.lower()]


def _requested_mode(query: list[tuple[str, str]]) -> Mode:
    match [value for name, value in query if name == MODE_PARAMETER]:
        case ["source" | "destination" as mode]:
            return Mode(mode)
    raise _refusal(f"{MODE_PARAMETER} must be given once, as source or destination")


def _requested_access_token(headers: list[tuple[str, str]]) -> str:
    cookies = [
        value.strip().strip('"')
        for line in _values(headers, "cookie")
        for name, _, value in (pair.partition("=") for pair in line.split(";"))
        if name.strip() == ACCESS_TOKEN_COOKIE
    ]
    match [*_values(headers, ACCESS_TOKEN_HEADER), *cookies]:
        case [token] if token:
            return token
    raise _refusal("exactly one must be given", ACCESS_TOKEN_INVALID_TEXT)


def _requested_client_token(headers: list[tuple[str, str]]) -> str | None:
    match _values(headers, CLIENT_TOKEN_HEADER):
        case []:
            return None
        case [token] if CLIENT_TOKEN_PATTERN.fullmatch(token):
            return token
    raise _refusal(
        "at most one may be given, of 32 to 128 letters, digits or hyphens",
        CLIENT_TOKEN_INVALID_TEXT,
    )


def _requested_subprotocol(headers: list[tuple[str, str]]) -> str:
    offered = {
        name.strip() for line in _values(headers, SUBPROTOCOL_HEADER) for name in line.split(",")
    }
    for subprotocol in ACCEPTED_SUBPROTOCOLS:
        if subprotocol in offered:
            return subprotocol
    raise _refusal(f"{SUBPROTOCOL_HEADER} must offer one of {', '.join(ACCEPTED_SUBPROTOCOLS)}")
