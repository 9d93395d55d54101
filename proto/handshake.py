"""What a client sends to connect, and what a refusal means (docs/protocol.md section 1).

Owns the names and texts of the handshake, the form of tokens, and the reading of HTTP answers.
Pure: it sends nothing. No token is in a text that it makes.
"""

# What looks like a password here is the name of a header or the text of a refusal.
# ruff: noqa: S105

from __future__ import annotations

import re
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING

from .errors import ConfigError, HandshakeError
from .text import HIDDEN, MAX_ID_CHARACTERS, Redactor, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

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

CLIENT_TOKEN_PATTERN = re.compile(r"\A[a-zA-Z0-9-]{32,128}\Z")
_LENIENT_CLIENT_TOKEN_PATTERN = re.compile(r"\A[a-zA-Z0-9_-]{32,128}\Z")
MAX_REQUEST_BYTES = 4096
MAX_ACCESS_TOKEN_BYTES = 3072
"""This leaves 1 KiB of a request for the longest host, user agent and client token."""
MAX_USER_AGENT_BYTES = 256

INVALID_REQUEST_TEXT = "Invalid request"
ACCESS_TOKEN_INVALID_TEXT = "Invalid access token"
ACCESS_TOKEN_USED_TEXT = (
    f"{ACCESS_TOKEN_INVALID_TEXT}: The access token was previously used and cannot be used again"
)
CLIENT_TOKEN_INVALID_TEXT = "Invalid client token"
CLIENT_TOKEN_MISMATCH_TEXT = (
    f"{CLIENT_TOKEN_INVALID_TEXT}: The provided client token does not match the client token "
    "that was previously set."
)

_QUOTES = "\"'`\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
_PRINTABLE_ASCII = re.compile(r"[!-~]+")
_USER_AGENT = re.compile(r"[ -~]*")

_EXCERPT_LENGTH = 200
_SEARCHED_LENGTH = 1024
# As long as the shortest token there is: longer runs in a refusal's body are not shown.
_TOKEN_LIKE = re.compile(r"[A-Za-z0-9+/=_.~\\-]{32,}")


class LenientClientToken(str):
    """A client token that may have a `_` in it, which the service's own pattern does not allow.

    localproxy sends such a token, so its replacement has to be able to.
    """

    __slots__ = ()


def generate_client_token() -> str:
    """Return a new client token, a UUIDv4 as advised."""
    return str(uuid.uuid4())


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
    refused = 400 <= status < 500 and status != HTTPStatus.TOO_MANY_REQUESTS
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
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _excerpt(body: str, redactor: Redactor) -> str:
    # Tokens of other tunnels are not known here, so whatever is as long as one goes too, before
    # the text is cut to a length at which it would no longer be noticed.
    text = _TOKEN_LIKE.sub(HIDDEN, redactor(body, _SEARCHED_LENGTH))
    return printable(text, _EXCERPT_LENGTH)


def _advice(status: int, body: str, *, refused: bool) -> str:
    if not refused:
        return "it may work later"
    if ACCESS_TOKEN_USED_TEXT in body:
        return "rotate the tunnel's access tokens and give the new one"
    if CLIENT_TOKEN_MISMATCH_TEXT.rstrip(".") in body:
        return "give the client token of the first connect, or rotate the tunnel's access tokens"
    if status == HTTPStatus.BAD_REQUEST:
        return "check the access token, its mode (source or destination) and the endpoint"
    return "check that the tunnel is open, its region, and that the access token is its newest one"
