"""A tunneling service that does what it is told, right or wrong, byte by byte.

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(websocket_frame(BINARY, b"...", masked=True))
        peer.wait_closed()

    with ScriptedService(script) as service:
        ... service.endpoint ...

Owns the answers that the real service cannot be told to give. It shares no code with the client
under test but the encoding of tunnel messages, and plays each connection's script on a thread.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

from tunnelfleet.proto import Message, MessageType, encode_frame
from tunnelfleet.runtime import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN = 0x80
RESERVED_BIT = 0x40
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SCRIPT_SECONDS = 60.0
BLOCKED_SECONDS = 0.5
RECEIVE_BUFFER_BYTES = 16_384
"""Of each connection: a peer that does not read is soon full."""


def websocket_frame(
    opcode: int, payload: bytes, *, first_bits: int = FIN, masked: bool = False
) -> bytes:
    """One frame as a server sends it, or with bits that it must not set."""
    mask_bit = 0x80 if masked else 0
    head = frame_head(opcode, len(payload), first_bits=first_bits, mask_bit=mask_bit)
    return head + (bytes(4) if masked else b"") + payload


def frame_head(opcode: int, length: int, *, first_bits: int = FIN, mask_bit: int = 0) -> bytes:
    """The head of a frame that announces a payload of that length."""
    if length < 126:
        return struct.pack(">BB", first_bits | opcode, mask_bit | length)
    if length < 65_536:
        return struct.pack(">BBH", first_bits | opcode, mask_bit | 126, length)
    return struct.pack(">BBQ", first_bits | opcode, mask_bit | 127, length)


class FaultyPeer:
    """One client of a scripted service.

    Attributes:
        request: the head of its request, in lower case.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.settimeout(SCRIPT_SECONDS)
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(65_536)
            if not data:
                break
            head += data
        self.request = head.decode("latin-1")

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def upgrade(self, **changes: str) -> None:
        """Answer the upgrade; a header given by keyword (`_` for `-`) replaces the right one."""
        key = re.search(r"(?i)sec-websocket-key: *(\S+)", self.request)
        digest = hashlib.sha1(key.group(1).encode() + GUID).digest() if key else b""
        headers = {
            "upgrade": "websocket",
            "connection": "upgrade",
            "sec-websocket-accept": base64.b64encode(digest).decode(),
            "sec-websocket-protocol": "aws.iot.securetunneling-3.0",
            "channel-id": "scripted",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        lines = [f"{name}: {value}" for name, value in headers.items()]
        self.send("\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""]).encode())

    def announce(self, *service_ids: str) -> None:
        """Send SERVICE_IDS."""
        self.message(Message(MessageType.SERVICE_IDS, available_service_ids=service_ids))

    def message(self, message: Message) -> None:
        """Send a tunnel message in a WebSocket message of its own."""
        self.send(websocket_frame(BINARY, encode_frame(message)))

    def flood(self, frames: bytes, limit_bytes: int) -> int:
        """Send frames over and over and read nothing; returns how much was taken in the end.

        Args:
            frames: whole frames.
            limit_bytes: send no more than this.
        """
        self._socket.settimeout(BLOCKED_SECONDS)
        taken, rest = 0, memoryview(b"")
        with contextlib.suppress(TimeoutError):
            while taken < limit_bytes:
                rest = rest or memoryview(frames)
                sent = self._socket.send(rest)
                taken, rest = taken + sent, rest[sent:]
        return taken

    def wait_closed(self) -> None:
        """Read until the client ends the connection."""
        with contextlib.suppress(ConnectionResetError):
            while self._socket.recv(65_536):
                pass

    def end(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class ScriptedService:
    """Plays a script for every connection; a context manager.

    Args:
        scripts: for the first connection, the second and so on; the last one for all that follow.

    Attributes:
        peers: the clients so far.
    """

    def __init__(self, *scripts: Callable[[FaultyPeer], None]) -> None:
        self._scripts = list(scripts)
        self.peers: list[FaultyPeer] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        size = RECEIVE_BUFFER_BYTES
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="scripted service")]

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens, without TLS."""
        return Endpoint.parse(f"ws://127.0.0.1:{self._listener.getsockname()[1]}")

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(SCRIPT_SECONDS)
        for sock in self._sockets:
            # Of those, too, that have not yet said what they want.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for peer in self.peers:
            peer.end()
        for thread in self._threads:
            thread.join(SCRIPT_SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            number = min(len(self._threads) - 1, len(self._scripts) - 1)
            script = self._scripts[number]
            play = threading.Thread(target=self._play, args=(sock, script), name="scripted peer")
            self._threads.append(play)
            play.start()

    def _play(self, sock: socket.socket, script: Callable[[FaultyPeer], None]) -> None:
        with contextlib.suppress(OSError), sock:
            peer = FaultyPeer(sock)
            self.peers.append(peer)
            script(peer)
