"""What is said on a connected socket until it is a WebSocket: CONNECT, TLS, the upgrade.

Owns the client's side of RFC 9110 9.3.6 (CONNECT) and of RFC 6455 section 4.1. It blocks, within a
deadline, on a connect thread. Nothing is kept between two connections: no cookie, no redirect, no
proxy of the environment. No error repeats what the service sent: it may echo the request's tokens.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tunnelfleet.actors.net.socket_io import forget_tls_errors, wrap_tls
from tunnelfleet.proto import Endpoint, HandshakeError
from tunnelfleet.proto.endpoint import bracketed
from tunnelfleet.proto.handshake import SUBPROTOCOL_HEADER, SUBPROTOCOLS, SWITCHING_PROTOCOLS

from .compat import sha1_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tunnelfleet.actors.addresses import HttpProxy
    from tunnelfleet.proto import Mode

__all__ = [
    "MAX_HEADER_BYTES",
    "UpgradeAnswer",
    "read_head",
    "upgrade",
]


MAX_ANSWER_BYTES: Final = 65_536
"""Of the headers with which a proxy answers."""


def connect_through(
    sock: socket.socket, endpoint: Endpoint, proxy: HttpProxy, user_agent: str
) -> None:
    """Ask a proxy for a connection to `endpoint`; afterwards `sock` leads there.

    Args:
        sock: connected to the proxy, with a timeout; with TLS if the proxy wants it.
        endpoint: where to.
        proxy: whose credentials are sent.
        user_agent: the User-Agent header, which some proxies want.

    Raises:
        HandshakeError: the proxy refused.
        OSError: it did not answer as a proxy does.
    """
    authority = f"{bracketed(endpoint.host)}:{endpoint.port}"
    lines = [
        f"CONNECT {authority} HTTP/1.1",
        f"Host: {authority}",
        f"User-Agent: {user_agent}",
        "Proxy-Connection: Keep-Alive",
    ]
    if proxy.username or proxy.password:
        # A URL may have any byte in it, percent-encoded; the proxy gets the same ones.
        pair = f"{proxy.username}:{proxy.password}".encode(errors="surrogateescape")
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    left = MAX_ANSWER_BYTES
    while True:
        head = _read_head(sock, left)
        left -= len(head)
        status, *fields = head.decode("latin-1").split("\r\n")
        code = _code(status)
        if not 100 <= code < 200:
            break
    # Any 2xx opens the connection, and has no body (RFC 9110 section 9.3.6).
    if not 200 <= code < 300:
        raise HandshakeError(
            f"proxy {proxy} answered CONNECT with {code}: {_advice(code, fields, proxy)}",
            status=code,
            channel_id=None,
            # The proxy's word is not the service's: its rules may change while we run.
            retryable=True,
        )


def _read_head(sock: socket.socket, limit_bytes: int) -> bytes:
    head = bytearray()
    # Byte by byte: what follows the header belongs to the service.
    while not head.endswith(b"\r\n\r\n"):
        if len(head) >= limit_bytes:
            raise OSError(f"its answer to CONNECT is longer than {MAX_ANSWER_BYTES} bytes")
        byte = sock.recv(1)
        if not byte:
            raise OSError("it closed the connection during CONNECT")
        head += byte
    return bytes(head)


def _code(status: str) -> int:
    version, _, rest = status.partition(" ")
    code = rest.split(" ", 1)[0]
    is_http = version.startswith("HTTP/1.") and len(code) == 3
    if not (is_http and code.isascii() and code.isdecimal()):
        raise OSError("its answer to CONNECT is not HTTP")
    return int(code)


def _advice(code: int, fields: list[str], proxy: HttpProxy) -> str:
    if code != 407:
        return "check the proxy's address and rules, and that it lets CONNECT through to this host"
    offers = [
        value.strip().lower()
        for name, _, value in (field.partition(":") for field in fields)
        if name.strip().lower() == "proxy-authenticate"
    ]
    if offers and not any(offer.startswith("basic") for offer in offers):
        return "it does not take Basic authentication, which is all that is possible here"
    if proxy.username or proxy.password:
        return "it does not take these credentials; check the user and password in the proxy's URL"
    return (
        "it wants credentials; give them in the proxy's URL, http://USER:PASSWORD@HOST:PORT "
        "(write @ : / and # in them as %40 %3A %2F and %23)"
    )


def start_tls(context: ssl.SSLContext, sock: socket.socket, host: str) -> socket.socket | TlsInTls:
    """Begin TLS with `host` on a socket, which may be one of TLS already.

    Returns:
        The socket to use from now on; its handshake is still to be done.
    """
    if isinstance(sock, ssl.SSLSocket):
        return TlsInTls(context, sock, host)
    return wrap_tls(context, sock, server_hostname=_server_name(host))


def _server_name(host: str) -> str | bytes:
    # For a text, even one in ASCII, Python loads 1 MB of tables.
    return host.encode() if host.isascii() else host


READ_BYTES: Final = 65_536
RECORD_BYTES: Final = 16_384
"""What one TLS record can carry: more is not encrypted before it has left."""


class TlsInTls:
    """A TLS connection through another one, as a socket: blocking or not, as the outer one is.

    It has of a socket what a WebSocket needs, with the exceptions of an SSLSocket. As there, a
    `send` that raised `SSLWantWriteError` has to be repeated with the same data.

    Args:
        context: of the inner connection.
        outer: the connection to the proxy.
        host: whose certificate is expected.
    """

    def __init__(self, context: ssl.SSLContext, outer: ssl.SSLSocket, host: str) -> None:
        self._outer = outer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=_server_name(host)
        )
        self._unsent = b""
        self._encrypted = 0
        """Bytes of the user that are encrypted and have not all left."""

    def do_handshake(self) -> None:
        """Do the handshake; the outer socket blocks, with a timeout."""
        tls = self._tls
        assert tls is not None
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise OSError("the connection was closed during the TLS handshake") from None
            except ssl.SSLError:
                # The other side is told why, by an alert.
                with contextlib.suppress(OSError):
                    self._flush()
                raise
            else:
                self._flush()
                return

    def recv(self, size: int) -> bytes:
        """As a socket's: `b""` at the end, `SSLWantReadError` when nothing is there yet."""
        tls = self._tls
        if tls is None:
            return self._outer.recv(size)
        while True:
            try:
                return tls.read(size)
            except ssl.SSLWantReadError:
                if not self._fill():
                    return b""
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def _fill(self) -> bool:
        try:
            data = self._outer.recv(READ_BYTES)
        except BrokenPipeError:
            # As in `read_piece`: it is the end, and nobody could be told that TLS's is missing.
            forget_tls_errors()
            data = b""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return bool(data)

    def send(self, data: bytes | memoryview) -> int:
        """As a socket's; `SSLWantWriteError` when the outer connection takes no more for now."""
        tls = self._tls
        if tls is None:
            raise BrokenPipeError("the connection is shut down")
        if not self._encrypted:
            self._encrypted = tls.write(memoryview(data)[:RECORD_BYTES])
        self._flush()
        sent, self._encrypted = self._encrypted, 0
        return sent

    def sendall(self, data: bytes) -> None:
        """As a socket's; the outer one blocks."""
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def _flush(self) -> None:
        self._unsent += self._outgoing.read()
        while self._unsent:
            self._unsent = self._unsent[self._outer.send(self._unsent) :]

    def shutdown(self, how: int) -> None:
        """Shut the TCP connection down, without a farewell in TLS, as SSLSocket does."""
        self._tls = None
        self._outer.shutdown(how)

    def __getattr__(self, name: str) -> Any:
        # Descriptor, timeout, options and closing are those of the outer connection.
        return getattr(self._outer, name)


MAX_HEADER_BYTES = 65_536
MAX_ERROR_BODY_BYTES = 4_096
HEAD_READ_BYTES: Final = 1_024
"""What is read of an answer at a time, and so the most that may come behind its head.

More of it leaves holes in the heap: 4,096 take 6 to 9 KiB more for each idle tunnel.
"""
_EMPTY_LINE: Final = re.compile(rb"\n\r?\n")
_ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 section 1.3."""


class UpgradeAnswer(NamedTuple):
    """What came back.

    Attributes:
        status: 101 if the socket is a WebSocket now.
        headers: by lower-case name; the values of a header that came twice are joined by a comma.
        body: the beginning of what followed; after a 101 the first bytes of the WebSocket, after
            another status of the error's text.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def upgrade(
    sock: socket.socket, endpoint: Endpoint, mode: Mode, headers: Iterable[tuple[str, str]]
) -> UpgradeAnswer:
    """Ask for the upgrade and read the answer, with what came with it.

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
    lines, rest = read_head(sock)
    status, found = _parse(lines)
    if status == SWITCHING_PROTOCOLS:
        _check_upgrade(found, key)
        return UpgradeAnswer(status, found, rest)
    return UpgradeAnswer(status, found, _read_body(sock, found, rest))


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


def read_head(sock: socket.socket) -> tuple[list[str], bytes]:
    """Read an HTTP answer up to the empty line; return its lines and what came behind it.

    Not byte by byte: in a storm of connects each read waits for its turn of the interpreter.

    Raises:
        OSError: the connection broke, was closed or timed out, or there is no end to the header.
    """
    head = bytearray()
    while True:
        if len(head) >= MAX_HEADER_BYTES:
            raise OSError(f"the answer is longer than {MAX_HEADER_BYTES} bytes")
        piece = sock.recv(min(HEAD_READ_BYTES, MAX_HEADER_BYTES - len(head)))
        if not piece:
            raise OSError("the connection was closed before the answer was complete")
        searched = max(0, len(head) - len(b"\n\r"))
        head += piece
        if found := _EMPTY_LINE.search(head, searched):
            lines = head[: found.end()].decode("latin-1").split("\n")[:-2]
            return [line.strip() for line in lines], bytes(head[found.end() :])


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
    digest = sha1_digest(key + _ACCEPT_SUFFIX)
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


def _read_body(sock: socket.socket, headers: Mapping[str, str], body: bytes) -> bytes:
    """Read on behind what came with the head."""
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        raise ValueError("the answer has a content length that is no number")
    wanted = min(int(length[:10]), MAX_ERROR_BODY_BYTES)
    body = body[:wanted]
    while len(body) < wanted and (piece := sock.recv(wanted - len(body))):
        body += piece
    return body
