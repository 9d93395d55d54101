"""A tunneling service in a few lines, that does what a test writes: on plain TCP or TLS.

It shares no code with the embedded service nor with the client: RFC 6455 and docs/protocol.md
section 1.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import hashlib
import select
import socket
import ssl
import struct
import threading
from typing import TYPE_CHECKING, Self

from tests.support.actors import Log
from tests.support.frames import frame
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import Endpoint, Message, decode_message, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Script = Callable[["Peer"], None]

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Peer:
    """One accepted connection, as a script sees it. Everything has a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.request = b""
        self._unread = b""

    # bytes

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def recv(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        while len(self._unread) < size:
            piece = self.sock.recv(65_536)
            if not piece:
                raise EOFError
            self._unread += piece
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def read_to_end(self) -> bytes:
        """Read until the client closes; `ConnectionResetError` when it aborts."""
        data, self._unread = self._unread, b""
        while piece := self.sock.recv(65_536):
            data += piece
        return data

    def wait_closed(self) -> None:
        """Wait until the client is gone, however it went."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
            self.read_to_end()

    # HTTP

    def read_request(self) -> bytes:
        while b"\r\n\r\n" not in self.request:
            self.request += self.recv(1)
        return self.request

    def header(self, name: str) -> str | None:
        for line in self.request.decode().split("\r\n")[1:]:
            key, _, value = line.partition(": ")
            if key.lower() == name.lower():
                return value
        return None

    def answer(self, status: str, *headers: str, body: bytes = b"") -> None:
        lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
        self.send("\r\n".join(lines).encode() + body)

    def upgrade(self, *headers: str) -> None:
        """Answer the request with 101."""
        self.read_request()
        key = (self.header("Sec-WebSocket-Key") or "").encode()
        accept = base64.b64encode(hashlib.sha1(key + ACCEPT_GUID).digest()).decode()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
            "Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0",
            "channel-id: c0ffee",
            *headers,
        ]
        self.send(("\r\n".join([*lines, "", ""])).encode())

    # WebSocket

    def send_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        self.send(frame(opcode, payload, fin=fin))

    def send_message(self, *messages: Message) -> None:
        """Send tunnel messages, each in a WebSocket message of its own."""
        self.send(b"".join(frame(BINARY, encode_frame(message)) for message in messages))

    def read_frame(self) -> tuple[int, bytes]:
        """Read one frame of the client."""
        first, second = self.recv(2)
        assert first & 0xF0 == 0x80, "clients here send whole frames"
        assert second & 0x80, "clients mask"
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(self.recv(2 if size == 126 else 8), "big")
        mask = int.from_bytes((self.recv(4) * (size // 4 + 1))[:size], "big")
        masked = int.from_bytes(self.recv(size), "big")
        return first & 0x0F, (masked ^ mask).to_bytes(size, "big")

    def read_message(self) -> Message:
        """Read the next tunnel message; it is alone in its WebSocket message."""
        opcode, payload = self.read_frame()
        assert opcode == BINARY, opcode
        assert int.from_bytes(payload[:2], "big") == len(payload) - 2
        return decode_message(payload[2:], strict=True)


class ScriptedServer:
    """Accepts connections on loopback and runs a script for each, on a thread of its own.

    Args:
        script: called with each connection; what it raises is kept and fails the test at the end.
        tls: makes it a TLS server.
        receive_buffer_bytes: of the accepted sockets.
    """

    def __init__(
        self,
        script: Script,
        *,
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        self._script = script
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self._socks: list[socket.socket] = []
        self._stopping = False
        self.errors: list[BaseException] = []
        self.peers = Log()
        self._listener = socket.socket()
        if receive_buffer_bytes is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="scripted-server")

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("ws" if self._tls is None else "wss", "127.0.0.1", self.port)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._socks.append(sock)
            if self._stopping:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), name="scripted-peer")
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(WAIT_SECONDS)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._socks.append(sock)
            peer = Peer(sock)
            self.peers.add(peer)
            self._script(peer)
        except BaseException as error:
            if not self._stopping:
                self.errors.append(error)
        finally:
            sock.close()

    def close(self) -> None:
        self._stopping = True
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._listener.close()
        self._acceptor.join(WAIT_SECONDS)
        for sock in self._socks:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_SECONDS)
        for sock in self._socks:
            sock.close()

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_rest: object) -> None:
        self.close()
        if exception_type is None and self.errors:
            raise self.errors[0]


@contextlib.contextmanager
def black_hole(host: str = "127.0.0.1") -> Iterator[int]:
    """A port where a connect is never answered: the listener's backlog is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener, contextlib.ExitStack() as callers:
        listener.bind((host, 0))
        listener.listen(0)
        for _ in range(8):
            caller = callers.enter_context(socket.socket(family))
            caller.setblocking(False)
            code = caller.connect_ex(listener.getsockname())
            if code == errno.EINPROGRESS and not select.select([], [caller], [], 0.2)[1]:
                break
        else:
            raise AssertionError("the backlog never filled")
        yield listener.getsockname()[1]


def tls_contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for 127.0.0.1, and a client's that trusts it."""
    from tunnelfleet.runtime.service.tls import ensure_certificate, server_context

    files = ensure_certificate(folder, "127.0.0.1")
    client = ssl.create_default_context(cafile=str(files.ca))
    return server_context(files.own()), client


_SO_ATTACH_FILTER = 26
_RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A program of the Berkeley packet filter that drops whatever comes."""


def hear_nothing(sock: socket.socket) -> None:
    """Have the kernel drop all that comes for a socket, unacknowledged: its machine is gone."""
    program = ctypes.create_string_buffer(_RETURN_NOTHING, len(_RETURN_NOTHING))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program))
    )


def hold_open(peer: Peer) -> None:
    """A script: upgrade, and then only wait for the client's end."""
    peer.upgrade()
    peer.wait_closed()
