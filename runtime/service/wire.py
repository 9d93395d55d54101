"""One accepted socket, plain or TLS, with reading and writing under exact control.

Owns the socket: non-blocking reads and writes on the service's event loop, a write buffer
that reports when it is full and when it has drained, and four ways to end: graceful, closed,
aborted, or left in silence. Must not know HTTP, WebSockets or tunnels.

Why not asyncio's transports, nor aiohttp's server on top of them: a throttled tunnel must leave its
queue with the sender, so a read takes as many bytes as the bandwidth allows and no more, while
asyncio reads up to 256 KiB ahead; and asyncio's TLS keeps a zeroed 256 KiB buffer for
every connection, 2.5 GB for ten thousand idle ones. Its length is that of one socket's states.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import ssl
import time
from collections import deque
from typing import Final, Protocol

from tunnelfleet.actors.net.socket_io import (
    NOTHING_YET,
    abort_quietly,
    close_socket,
    discard_some,
    forget_tls_errors,
    wrap_tls,
)
from tunnelfleet.actors.transport.established import ReadEnd, ReadPiece, read_piece, true_end


class Hold(enum.Enum):
    """Why a wire is not read; it is read when none applies."""

    UNTAKEN = enum.auto()
    """Its user has not taken all that was read before."""
    PEER_FULL = enum.auto()
    SELF_FULL = enum.auto()
    STALLED = enum.auto()
    THROTTLED = enum.auto()
    DELAYED = enum.auto()
    ANSWERS_DELAYED = enum.auto()
    SILENT = enum.auto()


class WireState(enum.Enum):
    """Where a wire is in its life."""

    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    FINISHING = enum.auto()
    CLOSED = enum.auto()


# As plain names: Python 3.11 takes six times as long to look up the member of an enum.
_HANDSHAKE, _OPEN, _FINISHING = WireState.HANDSHAKE, WireState.OPEN, WireState.FINISHING
_FULL, _DRAINED, _WANTS_OUTPUT = ReadEnd.FULL, ReadEnd.DRAINED, ReadEnd.WANTS_OUTPUT


class WireUser(Protocol):
    """Who is told what happens on a wire; called on the loop, never after ``ended``."""

    def allowance(self) -> int:
        """Return how many bytes may be read now; 0 after having put a hold on the wire."""

    def received(self, data: bytes) -> None:
        """Bytes came."""

    def drained(self) -> None:
        """A wire that was full is no longer."""

    def ended(self, reason: str) -> None:
        """The wire is closed; ``reason`` is for people."""


class _Nobody:
    """The user of a wire that is closed: who was told of its end is not held by it any more."""

    def allowance(self) -> int:
        return 0

    def received(self, data: bytes) -> None:
        """There is nobody to take them."""

    def drained(self) -> None:
        """There is nobody to feed it."""

    def ended(self, reason: str) -> None:
        """It was told already."""


_NOBODY: Final = _Nobody()

HIGH_WATER_BYTES: Final = 131_072
"""Above this much unsent, the wire is full: whoever feeds it must stop."""
LOW_WATER_BYTES: Final = 32_768
"""Below this much unsent a full wire has drained, and may be fed again."""
READ_BYTES: Final = 65_536
"""So much is read at once, unless frames are large: those are read to their end."""
READS_A_TURN: Final = 4
"""So many pieces are read in one turn at most,"""
READ_MORE_SECONDS: Final = 0.001
"""and none after so long."""
PIECE_BYTES: Final = 64
"""What a piece that waits takes besides its own bytes; many small ones count as what they are."""
TLS_RECORD_BYTES: Final = 16_384
_NOT_NOW: Final = (*NOTHING_YET, InterruptedError)
SEND_BYTES: Final = 65_536
LINGER_SECONDS: Final = 1.0
"""How long a graceful end may take to send its last bytes and see the other side's end."""


class Wire:
    """A connected socket.

    Args:
        sock: accepted, non-blocking; owned by the wire from now on.
        user: who is told.
        loop: the loop on whose thread every call is made.
        tls: the server's context, or None for plain TCP.

    Attributes:
        is_full: ``HIGH_WATER_BYTES`` were passed and have not drained since.
    """

    __slots__ = (
        "_buffer",
        "_buffered_bytes",
        "_failure",
        "_fd",
        "_holds",
        "_is_delivering",
        "_is_reset",
        "_linger",
        "_loop",
        "_reading",
        "_reread",
        "_socket",
        "_state",
        "_tls",
        "_user",
        "_writing",
        "is_full",
    )

    def __init__(
        self,
        sock: socket.socket,
        user: WireUser,
        loop: asyncio.AbstractEventLoop,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._user = user
        self._loop = loop
        self._tls: ssl.SSLSocket | None = None
        self._socket = sock
        self._state = _OPEN
        self._buffer: deque[bytes | bytearray | memoryview] = deque()
        self._buffered_bytes = 0
        self.is_full = False
        self._holds: set[Hold] = set()
        self._reading = False
        self._writing = False
        self._is_reset = False
        self._is_delivering = False
        self._failure: str | None = None
        """Why it is over, while what was read is still being taken: nothing more is written."""
        self._reread: asyncio.Handle | None = None
        self._linger: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if tls is not None:
            self._tls = wrap_tls(tls, sock, server_side=True)
            self._socket = self._tls
            self._state = _HANDSHAKE
        self._fd = self._socket.fileno()
        self._watch_reading(True)

    @property
    def buffered_bytes(self) -> int:
        """Bytes accepted by ``write`` that have not left for the kernel."""
        return self._buffered_bytes

    @property
    def _held_bytes(self) -> int:
        return self._buffered_bytes + len(self._buffer) * PIECE_BYTES

    @property
    def is_open(self) -> bool:
        """Whether it still takes bytes."""
        return self._state is _OPEN

    # reading

    def hold(self, reason: Hold) -> None:
        """Do not read until every hold is released."""
        self._holds.add(reason)
        if self._state is _OPEN:
            self._watch_reading(False)

    def release(self, reason: Hold) -> None:
        """Take a hold back; the last one resumes reading."""
        if not self._holds or reason not in self._holds:
            # Looked at first: the hash of an enum's member is a function in Python.
            return
        self._holds.discard(reason)
        if self._failure is not None and self._is_taken:
            self._end(self._failure)
        elif not self._holds and self._state is _OPEN:
            self._watch_reading(True)
            self._read_again()

    def set_kernel_buffer(self, size_bytes: int) -> None:
        """Set how much the kernel takes in advance of reading."""
        if self._state is not WireState.CLOSED:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)

    def _read_again(self) -> None:
        """Read soon without waiting for readiness: TLS may hold bytes which the kernel does not."""
        if self._reread is None:
            self._reread = self._loop.call_soon(self._on_reread)

    def _on_reread(self) -> None:
        self._reread = None
        self._on_readable()

    def _on_readable(self) -> None:
        if self._state is _OPEN:
            if not self._holds:
                self._read()
        elif self._state is _HANDSHAKE:
            self._shake_hands()
        elif self._state is _FINISHING:
            self._discard()

    def _shake_hands(self) -> None:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._watch_writing(False)
        except ssl.SSLWantWriteError:
            self._watch_writing(True)
        except OSError as error:
            forget_tls_errors()
            self._end(f"TLS handshake failed: {_why(error)}")
        else:
            self._watch_writing(False)
            self._state = _OPEN
            # Nothing of TLS is sent any more, so the kernel would wait 40 ms with its ACK, and a
            # client without TCP_NODELAY as long with its request.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            self._read_again()

    def _read(self) -> None:
        reads, until = READS_A_TURN, 0.0
        while True:
            wanted_bytes = self._user.allowance()
            if wanted_bytes <= 0:
                return
            piece = read_piece(self._socket, wanted_bytes)
            if piece.end is _WANTS_OUTPUT:
                self._watch_writing(True)
            if piece.data:
                self._deliver(piece.data)
            if self._failure is not None and self._is_taken:
                self._end(self._failure)
            if self._state is not _OPEN:
                return
            reads -= 1
            if reads == 0 or piece.end is not _FULL or self._holds:
                break
            now = time.monotonic()
            until = until or now + READ_MORE_SECONDS
            if now > until:
                break
        if piece.end is not _DRAINED:
            self._after(true_end(self._socket, piece))

    def _deliver(self, data: bytes) -> None:
        # An answer that cannot be written any more must not lose what was read before it.
        self._is_delivering = True
        try:
            self._user.received(data)
        finally:
            self._is_delivering = False

    @property
    def _is_taken(self) -> bool:
        """Whether the user has taken all that was read: an end may come."""
        return not self._is_delivering and Hold.UNTAKEN not in self._holds

    def _after(self, piece: ReadPiece) -> None:
        if piece.end is ReadEnd.CLOSED:
            self._fail("closed by the client")
        elif piece.end is ReadEnd.BROKEN and piece.error is not None:
            self._fail(_why(piece.error))
        elif piece.data and not self._holds and self._tls is not None and self._tls.pending():
            self._read_again()

    def _discard(self) -> None:
        """Read what still comes after our end, so that the close does not become a reset."""
        if discard_some(self._socket, READ_BYTES):
            self._end("closed by the service")

    # writing

    def write(self, data: bytes | bytearray) -> None:
        """Take bytes for sending. Whoever calls must heed ``is_full``."""
        if self._state is not _OPEN or self._failure is not None or not data:
            return
        sent = 0
        if not (self._buffer or self._writing or self._holds):
            sent = self._send_first(data)
            if sent == len(data):
                return
        self._buffer.append(memoryview(data)[sent:] if sent else data)
        self._buffered_bytes += len(data) - sent
        if not self._writing:
            self._flush()
        if self._held_bytes > HIGH_WATER_BYTES:
            self.is_full = True

    def _send_first(self, data: bytes | bytearray) -> int:
        """Send what nothing waits in front of; return how much needs not wait."""
        try:
            return self._socket.send(data)
        except _NOT_NOW:
            return 0
        except OSError as error:
            forget_tls_errors()
            self._fail(_why(error))
            return len(data)

    def _on_writable(self) -> None:
        if self._state is _HANDSHAKE:
            self._shake_hands()
            return
        self._flush()
        if self.is_full and self._held_bytes <= LOW_WATER_BYTES and self.is_open:
            self.is_full = False
            self._user.drained()
        if not self._buffer and self._state is _OPEN and self._tls is not None:
            self._on_readable()

    def _flush(self) -> None:
        if self._holds and Hold.SILENT in self._holds:
            self._watch_writing(False)
            return
        try:
            while self._buffer:
                self._sent(self._socket.send(self._head()))
        except _NOT_NOW:
            self._watch_writing(True)
        except OSError as error:
            forget_tls_errors()
            self._fail(_why(error))
        else:
            if self._writing:
                self._watch_writing(False)
            if self._state is _FINISHING:
                self._half_close()

    def _fail(self, reason: str) -> None:
        if self._is_taken:
            self._end(reason)
            return
        self._failure = reason
        self._buffer.clear()
        self._buffered_bytes = 0

    def _head(self) -> bytes | bytearray | memoryview:
        """Return the next bytes to send, small pieces joined into one TLS record or segment."""
        buffer = self._buffer
        if len(buffer) > 1 and len(buffer[0]) < TLS_RECORD_BYTES:
            pieces = [buffer.popleft()]
            size = len(pieces[0])
            while buffer and size + len(buffer[0]) <= SEND_BYTES:
                pieces.append(buffer.popleft())
                size += len(pieces[-1])
            buffer.appendleft(b"".join(pieces))
        return buffer[0]

    def _sent(self, count: int) -> None:
        self._buffered_bytes -= count
        head = self._buffer[0]
        if count == len(head):
            self._buffer.popleft()
        else:
            self._buffer[0] = memoryview(head)[count:]

    # ending

    def finish(self, last: bytes | bytearray = b"") -> None:
        """End gracefully: send ``last``, then close the TCP connection. Bounded in time."""
        if self._state is not _OPEN:
            self.abort("closed by the service")
            return
        self.write(last)
        if self.is_open:
            self._linger_on()

    def _linger_on(self) -> None:
        self._holds.clear()
        self._state = _FINISHING
        self._linger = self._loop.call_later(LINGER_SECONDS, self._end, "closed by the service")
        self._watch_reading(True)
        if not self._buffer:
            self._half_close()

    def _half_close(self) -> None:
        try:
            if self._tls is not None:
                self._say_goodbye(self._tls)
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._end("closed by the service")

    @staticmethod
    def _say_goodbye(tls: ssl.SSLSocket) -> None:
        """Send TLS's close_notify; its answer is not waited for."""
        try:
            tls.unwrap()
        except (ssl.SSLError, OSError, ValueError):
            forget_tls_errors()

    def close(self, reason: str) -> None:
        """Close the TCP connection now, as the end of a process would: no farewell."""
        self._end(reason)

    def abort(self, reason: str) -> None:
        """Reset the TCP connection now; what is in flight is lost."""
        if self._state is not WireState.CLOSED:
            self._is_reset = True
        self._end(reason)

    def silence(self) -> None:
        """Neither read nor write ever again, and keep the TCP connection: a black hole."""
        self.hold(Hold.SILENT)
        self._watch_writing(False)

    def _end(self, reason: str) -> None:
        if self._state is WireState.CLOSED:
            return
        self._watch_reading(False)
        self._watch_writing(False)
        self._state = WireState.CLOSED
        for handle in (self._reread, self._linger):
            if handle is not None:
                handle.cancel()
        self._reread = self._linger = None
        self._buffer.clear()
        self._buffered_bytes = 0
        if self._is_reset:
            abort_quietly(self._socket)
        else:
            close_socket(self._socket)
        # Without what leads back here it goes at once, with all that TLS holds, and not when the
        # garbage collector comes by.
        user, self._user = self._user, _NOBODY
        user.ended(reason)

    # readiness

    def _watch_reading(self, wanted: bool) -> None:
        wanted = wanted and not (self._holds and self._state is _OPEN)
        if wanted == self._reading or self._state is WireState.CLOSED:
            return
        self._reading = wanted
        if wanted:
            self._loop.add_reader(self._fd, self._on_readable)
        else:
            self._loop.remove_reader(self._fd)

    def _watch_writing(self, wanted: bool) -> None:
        if wanted == self._writing or self._state is WireState.CLOSED:
            return
        self._writing = wanted
        if wanted:
            self._loop.add_writer(self._fd, self._on_writable)
        else:
            self._loop.remove_writer(self._fd)


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}"
    return error.strerror or type(error).__name__
