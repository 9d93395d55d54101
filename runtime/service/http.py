"""The one HTTP/1.1 exchange of a tunnel connection: the upgrade request and its answer.

Owns parsing the request's head and building responses. Pure; what a request means for a
tunnel is decided in ``tunnelfleet.proto`` and ``tunnels``. It counts the request's own
bytes, since the limit of 4 KiB is on the whole request (PROTOCOL.md section 1).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from .websocket import accept_key

END_OF_HEAD: Final = b"\r\n\r\n"
_KEY_BYTES: Final = 16
_REQUEST_LINE_WORDS: Final = 3


class BadRequest(Exception):  # noqa: N818 (named as HTTP names it)
    """The bytes are no HTTP request for a WebSocket upgrade.

    Attributes:
        status: the HTTP status to answer with.
    """

    def __init__(self, reason: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(reason)
        self.status = int(status)


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """The head of a WebSocket upgrade request. Its repr hides headers, which carry tokens.

    Attributes:
        path: the path without the query.
        query: the query's pairs, in order, duplicates kept.
        headers: the headers in order, duplicates kept, names as sent.
    """

    path: str
    query: list[tuple[str, str]]
    headers: list[tuple[str, str]]

    def __repr__(self) -> str:
        return f"UpgradeRequest(path={self.path!r}, {len(self.headers)} headers)"

    def header(self, name: str) -> str:
        """Return the value of a header, duplicates joined by commas, or ""."""
        return ",".join(value for key, value in self.headers if key.lower() == name)

    def accept(self) -> str:
        """Return the answer to the request's WebSocket key.

        Raises:
            BadRequest: it is not a WebSocket version 13 upgrade.
        """
        _check_upgrade(self)
        return accept_key(self.header("sec-websocket-key").strip())


def parse_request(head: bytes) -> UpgradeRequest:
    """Parse the head of a request, up to and including its empty line.

    Raises:
        BadRequest: it is not HTTP/1.1 GET, or malformed.
    """
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != _REQUEST_LINE_WORDS or not words[2].startswith("HTTP/"):
        raise BadRequest("malformed request line")
    if words[2] != "HTTP/1.1":
        raise BadRequest("only HTTP/1.1", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if words[0] != "GET":
        raise BadRequest("only GET", HTTPStatus.METHOD_NOT_ALLOWED)
    try:
        target = urlsplit(words[1])
    except ValueError as error:
        raise BadRequest("malformed request target") from error
    query = parse_qsl(target.query, keep_blank_values=True)
    return UpgradeRequest(target.path, query, [_header(line) for line in lines[1:]])


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip() or not name.isascii():
        raise BadRequest("malformed header line")
    return name, value.strip(" \t")


def _check_upgrade(request: UpgradeRequest) -> None:
    connection = [word.strip().lower() for word in request.header("connection").split(",")]
    if request.header("upgrade").strip().lower() != "websocket" or "upgrade" not in connection:
        raise BadRequest("not a WebSocket upgrade", HTTPStatus.UPGRADE_REQUIRED)
    if request.header("sec-websocket-version").strip() != "13":
        raise BadRequest("only WebSocket version 13", HTTPStatus.UPGRADE_REQUIRED)
    try:
        key = base64.b64decode(request.header("sec-websocket-key").strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest("malformed Sec-WebSocket-Key") from error
    if len(key) != _KEY_BYTES:
        raise BadRequest("Sec-WebSocket-Key must be 16 bytes")


def upgrade_response(accept: str, subprotocol: str, channel_id: str) -> bytes:
    """Return the 101 response (PROTOCOL.md section 1: the headers that clients need)."""
    return _head(
        HTTPStatus.SWITCHING_PROTOCOLS,
        [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept),
            ("Sec-WebSocket-Protocol", subprotocol),
            ("channel-id", channel_id),
        ],
    )


def refusal_response(
    status: int, body: str, channel_id: str, retry_after_seconds: float | None = None
) -> bytes:
    """Return a response that refuses the upgrade and ends the HTTP connection."""
    content = body.encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(content))),
        ("Connection", "close"),
        ("channel-id", channel_id),
    ]
    if status == HTTPStatus.UPGRADE_REQUIRED:
        headers += [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    if retry_after_seconds is not None:
        headers.append(("Retry-After", f"{retry_after_seconds:g}"))
    return _head(status, headers) + content


def _head(status: int, headers: list[tuple[str, str]]) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Status"
    lines = [f"HTTP/1.1 {int(status)} {phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
