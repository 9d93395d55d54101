"""The clients of a service: the socket that accepts them, and each one's connection.

Owns the listening socket, what happens when there is no descriptor to accept with, and the order of
things on a connection: first an HTTP request, then a WebSocket with its control frames. It does not
know how requests are judged (`handshake`) or where frames go (`relay`).
"""

from __future__ import annotations

import asyncio
import enum
import errno
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias

from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.net.socket_io import close_socket
from tunnelfleet.actors.token_bucket import Throttle, kernel_buffer_bytes
from tunnelfleet.actors.transport.codec import (
    FrameReader,
    Opcode,
    ReceivedPiece,
    Role,
    encode_close,
    encode_pong,
)
from tunnelfleet.proto import (
    MAX_REQUEST_BYTES,
    DataBurst,
    Message,
    MessageReader,
    MessageType,
    Mode,
    RemoteProtocolError,
)

from .wire import READ_BYTES, Hold, Wire

ACCEPTS_A_TURN: Final = 64
BACKLOG: Final = 2048
ACCEPT_PAUSE_SECONDS: Final = 0.1
LOG_SECONDS: Final = 60.0
"""That nothing can be accepted is told once in so long."""

_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_log = get_logger(__name__)


class ServiceListener:
    """A listening socket, bound when made.

    Args:
        host: address or name to listen on; of a name's addresses the first.
        port: port, or 0 for a free one.
        receive: takes each accepted socket and owns it.
        buffer_bytes: the kernel's receive buffer of each connection; None leaves it to the kernel.
        has_room: asked before each is accepted; while it says no, they wait in the kernel.

    Attributes:
        port: the port it listens on.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        receive: Callable[[socket.socket], None],
        *,
        buffer_bytes: int | None,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._receive = receive
        self._has_room = has_room
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._silent_until = 0.0
        self._socket = socket.socket(family, kind, proto)
        try:
            self._prepare(buffer_bytes)
            self._socket.bind(address)
            self._socket.listen(BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    def _prepare(self, buffer_bytes: int | None) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self._socket.setblocking(False)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept on this loop from now on."""
        self._loop = loop
        loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Stop listening. On the loop's thread, if attached to one."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
        if self._resume is not None:
            self._resume.cancel()
        close_socket(self._socket)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            if not self._has_room():
                self._pause()
                return
            try:
                sock, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._failed(error)
                return
            self._receive(sock)

    def _failed(self, error: OSError) -> None:
        assert self._loop is not None
        self._pause()
        now = self._loop.time()
        if now < self._silent_until:
            return
        self._silent_until = now + LOG_SECONDS
        advice = "; raise the limit of open files" if error.errno in _OUT_OF_RESOURCES else ""
        _log.error("cannot accept connections: %s%s", error.strerror or error, advice)

    def _pause(self) -> None:
        assert self._loop is not None
        self._loop.remove_reader(self._socket)
        self._resume = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self.attach, self._loop)


class ClientState(enum.Enum):
    """How far a connection has come."""

    REQUESTING = enum.auto()
    ANSWERED = enum.auto()
    ATTACHED = enum.auto()
    OVER = enum.auto()


Arrived: TypeAlias = tuple[Message | DataBurst, memoryview]
"""A message or a burst, and its frames as they came."""


class Relay(Protocol):
    """What a connection asks of the tunnel that it is attached to."""

    def attach(self, client: Client) -> None:
        """Take this connection as the tunnel's in its mode."""

    def detach(self, client: Client, reason: str) -> None:
        """Let go of this connection; it is over."""

    def drained(self, client: Client) -> None:
        """What waited for this connection has left."""

    def relay(self, sender: Client, arrived: Sequence[Arrived]) -> None:
        """Take what a client sent."""

    def report_protocol_error(self, client: Client, reason: str) -> None:
        """The connection ends because its client did not keep to the protocol."""


# As plain names: Python 3.11 takes six times as long to look up the member of an enum.
_REQUESTING, _ATTACHED, _CLOSE = ClientState.REQUESTING, ClientState.ATTACHED, Opcode.CLOSE
_DATA = MessageType.DATA


class Reception(Protocol):
    """Who decides on requests and hears of ends."""

    def requested(self, client: Client, head: bytes) -> None:
        """The head of a request came; ``head`` is above the limit if it never ended."""

    def gone(self, client: Client, reason: str) -> None:
        """The connection is closed."""


END_OF_HEAD: Final = b"\r\n\r\n"
TURN_FRAMES: Final = 2_000
"""Frames and messages that are taken in one turn, so that all connections have theirs: some 10 ms.

A read may hold 11,000 frames."""
CONTROL_FRAMES: Final = 4
"""A start or a reset counts as so many: the tunnel takes note of it, and tells its listeners."""
MESSAGES_OF_A_FRAME: Final = 8
"""So many messages of a burst count as one frame: they take as long."""
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
    """

    __slots__ = (
        "_arriving",
        "_head",
        "_loop",
        "_messages",
        "_reader",
        "_reception",
        "_state",
        "_throttle",
        "_throttle_timer",
        "_timeout",
        "_tunnel",
        "channel_id",
        "mode",
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
        self._state = _REQUESTING
        self._loop = loop
        self._reception = reception
        self._head = bytearray()
        self._reader = FrameReader(Role.CLIENT)
        self._messages = MessageReader(strict=True)
        self._arriving: Iterator[Arrived | ReceivedPiece | None] | None = None
        """What is left of the bytes that were read last: the budget of a turn was spent."""
        self._tunnel: Relay | None = None
        self.mode: Mode | None = None
        self.channel_id = channel_id
        self._throttle: Throttle | None = None
        self._throttle_timer: asyncio.TimerHandle | None = None
        """What resumes reading when the bandwidth allows."""
        self.wire = Wire(sock, self, loop, tls)
        self._timeout: asyncio.TimerHandle | None = loop.call_later(
            HANDSHAKE_SECONDS, self.wire.abort, "no request in time"
        )

    # what the reception decides

    def attach(self, tunnel: Relay, mode: Mode, response: bytes) -> None:
        """Answer the upgrade; from now on the connection is a tunnel's."""
        self._answered(_ATTACHED)
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
        wanted_bytes = self._reader.wanted_bytes(READ_BYTES)
        if self._throttle is None:
            return wanted_bytes
        return self._allowed(self._throttle, wanted_bytes)

    def _allowed(self, throttle: Throttle, wanted_bytes: int) -> int:
        wait_seconds = throttle.wait_seconds(self._loop.time())
        if wait_seconds <= 0:
            return min(throttle.quantum_bytes, wanted_bytes)
        self.wire.hold(Hold.THROTTLED)
        self._throttle_timer = self._loop.call_later(wait_seconds, self._end_throttle_wait)
        return 0

    def set_throttle(self, throttle: Throttle | None) -> None:
        """Be read as that allows, which other clients may have used before; None: without limit."""
        self._throttle = throttle
        rate = None if throttle is None else throttle.bytes_per_second
        self.wire.set_kernel_buffer(kernel_buffer_bytes(rate))
        self._end_throttle_wait()

    def _end_throttle_wait(self) -> None:
        self._stop_throttle_timer()
        self.wire.release(Hold.THROTTLED)

    def _stop_throttle_timer(self) -> None:
        if self._throttle_timer is not None:
            self._throttle_timer.cancel()
            self._throttle_timer = None

    def received(self, data: bytes) -> None:
        """Take bytes from the wire (``WireUser``)."""
        if self._state is _REQUESTING:
            data = self._request_bytes(data)
        elif self._throttle is not None:
            # Pings included (docs/protocol.md section 1).
            self._throttle.spend(len(data), self._loop.time())
        if data and self._state is _ATTACHED:
            self._websocket_bytes(data)

    def drained(self) -> None:
        """Resume whoever waited for this wire (``WireUser``)."""
        self.wire.release(Hold.SELF_FULL)
        if self._tunnel is not None:
            self._tunnel.drained(self)

    def ended(self, reason: str) -> None:
        """Clean up after the wire (``WireUser``)."""
        self._answered(ClientState.OVER)
        self._arriving = None
        self._stop_throttle_timer()
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
            arrived = self._alone(data)
            if arrived:
                self._tunnel.relay(self, arrived)
        except RemoteProtocolError as error:
            self._broke(error)
            return
        if not arrived:
            self._arriving = self._arrivals(data)
            self._take()
        elif self.wire.is_full:
            self.wire.hold(Hold.SELF_FULL)

    def _alone(self, data: bytes) -> Sequence[Arrived]:
        """What ``data`` is, if that is one small message; else nothing was taken."""
        payload = self._reader.alone(data)
        item = None if payload is None else self._messages.alone(payload)
        return () if payload is None or item is None else ((item, memoryview(payload)),)

    def _broke(self, error: RemoteProtocolError) -> None:
        assert self._tunnel is not None
        self._tunnel.report_protocol_error(self, str(error))
        self._finish("protocol error")

    def _arrivals(self, data: bytes) -> Iterator[Arrived | ReceivedPiece | None]:
        """Yield control frames, the messages that ``data`` completes, and None for each frame."""
        for piece in self._reader.feed(data):
            if piece.opcode < _CLOSE:
                yield None
                yield from self._messages.read(piece.data)
            else:
                yield piece

    def _take(self) -> None:
        """Take of what was read as much as one turn has time for."""
        assert self._tunnel is not None
        arrived: list[Arrived] = []
        try:
            try:
                closed = self._split(arrived)
            finally:
                # Also what came in front of an error.
                self._tunnel.relay(self, arrived)
        except RemoteProtocolError as error:
            self._broke(error)
            return
        if closed:
            self._finish("closed by the client")
            return
        if self.wire.is_full:
            self.wire.hold(Hold.SELF_FULL)
        if self._arriving is None:
            self.wire.release(Hold.UNTAKEN)
        else:
            self.wire.hold(Hold.UNTAKEN)
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._state is _ATTACHED and self._arriving is not None:
            self._take()

    def _finish(self, reason: str) -> None:
        self._state = ClientState.OVER
        self._arriving = None
        self.wire.finish(encode_close(Role.SERVICE))
        self._leave_tunnel(reason)

    def _split(self, arrived: list[Arrived]) -> bool:
        """Add what has come; answer pings; return whether the client closed."""
        assert self._arriving is not None
        pongs: list[bytearray] = []
        budget, closed = TURN_FRAMES, False
        for item in self._arriving:
            budget -= 1
            if isinstance(item, ReceivedPiece):
                if item.opcode == Opcode.PING:
                    pongs.append(encode_pong(item.data, Role.SERVICE))
                elif item.opcode == _CLOSE:
                    closed = True
                    break
            elif item is not None:
                arrived.append(item)
                message = item[0]
                if isinstance(message, DataBurst):
                    budget -= len(message.more) // MESSAGES_OF_A_FRAME
                elif message.type is not _DATA:
                    budget -= CONTROL_FRAMES
            if budget <= 0:
                break
        else:
            self._arriving = None
        # In one piece: a flood of empty pings would else be a flood of tiny pieces in the buffer.
        if pongs:
            self.wire.write(b"".join(pongs))
        return closed
