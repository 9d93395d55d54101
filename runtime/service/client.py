"""One client's connection to the service: first an HTTP request, then a WebSocket.

Owns the order of things on a connection and the WebSocket's control frames. Must not know
how requests are judged (the reception does) or where frames go (the tunnel does).
"""

from __future__ import annotations

import asyncio
import enum
import socket
import ssl
from typing import TYPE_CHECKING, Final, Protocol

from tunnelfleet.actors.transport.codec import (
    FrameReader,
    Opcode,
    Role,
    encode_close,
    encode_pong,
)
from tunnelfleet.proto import MAX_REQUEST_BYTES, FrameSplitter, Mode, RemoteProtocolError

from .handshake import END_OF_HEAD
from .wire import Hold, Wire

if TYPE_CHECKING:
    from .relay import RelayedTunnel


class ClientState(enum.Enum):
    """How far a connection has come."""

    REQUESTING = enum.auto()
    ANSWERED = enum.auto()
    ATTACHED = enum.auto()
    OVER = enum.auto()


class Reception(Protocol):
    """Who decides on requests and hears of ends."""

    def requested(self, client: Client, head: bytes) -> None:
        """The head of a request came; ``head`` is above the limit if it never ended."""

    def gone(self, client: Client, reason: str) -> None:
        """The connection is closed."""


HANDSHAKE_SECONDS: Final = 20.0
"""How long TLS and the request together may take."""


class Client:
    """A connection from its acceptance to its end.

    Args:
        sock: the accepted socket, owned by the client from now on.
        loop: the service's loop.
        tls: the service's TLS context, or None.
        reception: who decides on its request.

    Attributes:
        wire: the socket.
        mode: source or destination, once attached.
        channel_id: the identifier sent in the response.
        throttle_timer: what resumes reading when the bandwidth allows.
    """

    __slots__ = (
        "_head",
        "_loop",
        "_reader",
        "_reception",
        "_splitter",
        "_state",
        "_timeout",
        "_tunnel",
        "channel_id",
        "mode",
        "throttle_timer",
        "wire",
    )

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        tls: ssl.SSLContext | None,
        reception: Reception,
        channel_id: str,
    ) -> None:
        self._state = ClientState.REQUESTING
        self._loop = loop
        self._reception = reception
        self._head = bytearray()
        self._reader = FrameReader(Role.CLIENT)
        self._splitter = FrameSplitter()
        self._tunnel: RelayedTunnel | None = None
        self.mode: Mode | None = None
        self.channel_id = channel_id
        self.throttle_timer: asyncio.TimerHandle | None = None
        self.wire = Wire(sock, self, loop, tls)
        self._timeout: asyncio.TimerHandle | None = loop.call_later(
            HANDSHAKE_SECONDS, self.wire.abort, "no request in time"
        )

    # what the reception decides

    def attach(self, tunnel: RelayedTunnel, mode: Mode, response: bytes) -> None:
        """Answer the upgrade; from now on the connection is a tunnel's."""
        self._answered(ClientState.ATTACHED)
        self._tunnel, self.mode = tunnel, mode
        self.wire.write(response)
        tunnel.attach(self)

    def refuse(self, response: bytes) -> None:
        """Answer with this and end the connection."""
        self._answered(ClientState.ANSWERED)
        self.wire.finish(response)

    def leave_waiting(self) -> None:
        """Never answer, and never read again."""
        self._answered(ClientState.ANSWERED)
        self.wire.hold(Hold.STALLED)

    def _answered(self, state: ClientState) -> None:
        self._state = state
        self._head = bytearray()
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    # what the wire tells

    def allowance(self) -> int:
        """Return how many bytes may be read now (``WireUser``)."""
        if self._tunnel is None:
            return MAX_REQUEST_BYTES
        return self._tunnel.allowance(self)

    def received(self, data: bytes) -> None:
        """Take bytes from the wire (``WireUser``)."""
        if self._state is ClientState.REQUESTING:
            data = self._request_bytes(data)
        elif self._tunnel is not None:
            self._tunnel.spend(self, len(data))
        if data and self._state is ClientState.ATTACHED:
            self._websocket_bytes(data)

    def drained(self) -> None:
        """Resume whoever waited for this wire (``WireUser``)."""
        self.wire.release(Hold.SELF_FULL)
        if self._tunnel is not None:
            self._tunnel.drained(self)

    def ended(self, reason: str) -> None:
        """Clean up after the wire (``WireUser``)."""
        self._answered(ClientState.OVER)
        if self.throttle_timer is not None:
            self.throttle_timer.cancel()
            self.throttle_timer = None
        self._leave_tunnel(reason)
        self._reception.gone(self, reason)

    def _leave_tunnel(self, reason: str) -> None:
        if self._tunnel is not None:
            self._tunnel.detach(self, reason)

    def _request_bytes(self, data: bytes) -> bytes:
        """Collect the request; return what follows it."""
        self._head += data
        end = self._head.find(END_OF_HEAD)
        if end < 0:
            if len(self._head) >= MAX_REQUEST_BYTES:
                self._reception.requested(self, bytes(self._head) + END_OF_HEAD)
            return b""
        end += len(END_OF_HEAD)
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        self._reception.requested(self, head)
        return rest

    def _websocket_bytes(self, data: bytes) -> None:
        assert self._tunnel is not None
        try:
            frames, closed = self._split(data)
            self._tunnel.relay(self, frames)
        except RemoteProtocolError as error:
            self._tunnel.report_protocol_error(self, str(error))
            self._finish("protocol error")
            return
        if closed:
            self._finish("closed by the client")
        elif self.wire.is_full:
            self.wire.hold(Hold.SELF_FULL)

    def _finish(self, reason: str) -> None:
        self._state = ClientState.OVER
        self.wire.finish(encode_close(Role.SERVICE))
        self._leave_tunnel(reason)

    def _split(self, data: bytes) -> tuple[list[memoryview], bool]:
        """Return the tunnel frames in ``data`` and whether the client closed; answer pings."""
        frames: list[memoryview] = []
        pongs: list[bytearray] = []
        closed = False
        for opcode, payload in self._reader.feed(data):
            if opcode < Opcode.CLOSE:
                frames += self._splitter.frames(payload)
            elif opcode == Opcode.PING:
                pongs.append(encode_pong(payload, Role.SERVICE))
            elif opcode == Opcode.CLOSE:
                closed = True
                break
        # In one piece: a flood of empty pings would else be a flood of tiny pieces in the buffer.
        if pongs:
            self.wire.write(b"".join(pongs))
        return frames, closed
