"""Whether a service accepts an upgrade request (docs/protocol.md section 1).

Owns the judgement of a request's form. Which tokens are valid, and whether they were used before,
it does not know. No token is in a text that it makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from .endpoint import MODE_PARAMETER, TUNNEL_PATH
from .handshake import (
    ACCESS_TOKEN_COOKIE,
    ACCESS_TOKEN_HEADER,
    ACCESS_TOKEN_INVALID_TEXT,
    CLIENT_TOKEN_HEADER,
    CLIENT_TOKEN_INVALID_TEXT,
    CLIENT_TOKEN_PATTERN,
    INVALID_REQUEST_TEXT,
    MAX_REQUEST_BYTES,
    SUBPROTOCOL_HEADER,
    SUBPROTOCOL_V1,
    SUBPROTOCOL_V2,
    SUBPROTOCOL_V3,
)
from .modes import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def _refusal(problem: str, text: str = INVALID_REQUEST_TEXT) -> RequestRefused:
    return RequestRefused(HTTPStatus.BAD_REQUEST, f"{text}: {problem}")


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
