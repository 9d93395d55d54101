"""The upgrade of a connected socket to a WebSocket, on the client's side (RFC 6455 section 4.1).

Owns the HTTP request, and how the answer is read and judged. Nothing is kept between two upgrades:
no cookie, no redirect, no proxy of the environment, no trace that would show the tokens.
websocket-client keeps all of these for the whole process, the host's own connections included.
No error here repeats what the service sent: it may echo the request, with its tokens.
"""

from __future__ import annotations

import base64
import hashlib
import os
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from tunnelfleet.proto.handshake import SUBPROTOCOL_HEADER, SUBPROTOCOLS

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping

    from tunnelfleet.proto import Endpoint, Mode

__all__ = [
    "MAX_HEADER_BYTES",
    "UpgradeAnswer",
    "read_head",
    "upgrade",
]


MAX_HEADER_BYTES = 65_536
MAX_ERROR_BODY_BYTES = 4_096
_ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 section 1.3."""


class UpgradeAnswer(NamedTuple):
    """What came back.

    Attributes:
        status: 101 if the socket is a WebSocket now.
        headers: by lower-case name; the values of a header that came twice are joined by a comma.
        body: the beginning of what followed another status.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def upgrade(
    sock: socket.socket, endpoint: Endpoint, mode: Mode, headers: Iterable[tuple[str, str]]
) -> UpgradeAnswer:
    """Ask for the upgrade and read the answer; not a byte of what follows it is read.

    Args:
        sock: connected, and with TLS if the endpoint wants it. It may time out.
        endpoint: what to name in the request.
        mode: of the tunnel.
        headers: further ones of the request.

    Raises:
        OSError: the connection broke, was closed or timed out.
        ValueError: the answer is not one that an HTTP or WebSocket server gives.
    """
    key = base64.b64encode(os.urandom(16))
    sock.sendall(_request(endpoint, mode, key, headers))
    status, found = _parse(read_head(sock))
    if status == HTTPStatus.SWITCHING_PROTOCOLS:
        _check_upgrade(found, key)
        return UpgradeAnswer(status, found, b"")
    return UpgradeAnswer(status, found, _read_body(sock, found))


def _request(
    endpoint: Endpoint, mode: Mode, key: bytes, headers: Iterable[tuple[str, str]]
) -> bytes:
    host, path = endpoint.url(mode).partition("://")[2].split("/", 1)
    lines = [
        f"GET /{path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode()}",
        "Sec-WebSocket-Version: 13",
        f"{SUBPROTOCOL_HEADER}: {','.join(SUBPROTOCOLS)}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def read_head(sock: socket.socket) -> list[str]:
    """Read an HTTP answer up to the empty line, and return its lines.

    Byte by byte: what follows belongs to TLS, or to the WebSocket.

    Raises:
        OSError: the connection broke, was closed or timed out, or there is no end to the header.
    """
    head = bytearray()
    while not head.endswith((b"\r\n\r\n", b"\n\n")):
        if len(head) >= MAX_HEADER_BYTES:
            raise OSError(f"the answer is longer than {MAX_HEADER_BYTES} bytes")
        byte = sock.recv(1)
        if not byte:
            raise OSError("the connection was closed before the answer was complete")
        head += byte
    return [line.strip() for line in head.decode("latin-1").split("\n")[:-2]]


def _parse(lines: list[str]) -> tuple[int, dict[str, str]]:
    protocol, _, rest = lines[0].partition(" ")
    status = rest[:3]
    if not protocol.startswith("HTTP/1.") or not (status.isascii() and status.isdecimal()):
        raise ValueError("the answer is not HTTP")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise ValueError("the answer has a header line without a colon")
        name = name.strip().lower()
        value = value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return int(status), headers


def _check_upgrade(headers: Mapping[str, str], key: bytes) -> None:
    # RFC 6455 says SHA-1; it proves that this was read, and protects nothing.
    digest = hashlib.sha1(key + _ACCEPT_SUFFIX, usedforsecurity=False).digest()
    if "websocket" not in _tokens(headers, "upgrade"):
        raise ValueError("the answer does not upgrade to a WebSocket")
    if "upgrade" not in _tokens(headers, "connection"):
        raise ValueError("the answer does not upgrade the connection")
    if headers.get("sec-websocket-accept", "") != base64.b64encode(digest).decode():
        raise ValueError("the answer does not belong to the request: its accept key is wrong")
    if headers.get(SUBPROTOCOL_HEADER.lower(), "").lower() not in SUBPROTOCOLS:
        raise ValueError("the answer does not choose the subprotocol that was offered")


def _tokens(headers: Mapping[str, str], name: str) -> list[str]:
    return [token.strip().lower() for token in headers.get(name, "").split(",")]


def _read_body(sock: socket.socket, headers: Mapping[str, str]) -> bytes:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        raise ValueError("the answer has a content length that is no number")
    wanted = min(int(length[:10]), MAX_ERROR_BODY_BYTES)
    body = b""
    while len(body) < wanted and (piece := sock.recv(wanted - len(body))):
        body += piece
    return body
