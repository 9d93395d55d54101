"""The way through an HTTP proxy: CONNECT, with TLS to the proxy itself where its URL says https.

Owns what is said to a proxy and what its answer means, and TLS inside of TLS, which Python's own
SSLSocket cannot do. It behaves as curl does. It opens no socket and knows no thread and no retry.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.proto import Endpoint, HandshakeError
from tunnelfleet.proto.endpoint import bracketed

if TYPE_CHECKING:
    from tunnelfleet.actors.addresses import HttpProxy


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
    return context.wrap_socket(
        sock, server_hostname=_server_name(host), do_handshake_on_connect=False
    )


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
        data = self._outer.recv(READ_BYTES)
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
