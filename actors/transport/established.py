"""What an established WebSocket needs beside its codec: the frames that wait, and signs of life.

Owns the queue of frames in front of the socket, and counts the messages that have left, for credit;
and when to ping, and when silence means that the service is dead. The time is an argument. A
service need not answer pings (docs/protocol.md section 1), so any byte is as good as a pong.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from tunnelfleet.actors.net.socket_io import (
    FEW_BYTES,
    NOTHING_YET,
    forget_tls_errors,
    has_hung_up,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.actors.config import Limits


class Outcome(Enum):
    """Why writing came to an end."""

    DONE = auto()
    """Everything has left."""
    BLOCKED = auto()
    """The kernel takes no more for now."""
    WANTS_INPUT = auto()
    """TLS wants to hear something first, as for a key update."""


def outcome_of_refusal(error: OSError) -> Outcome:
    """Why a write was refused for now: one of `NOTHING_YET` was raised."""
    return Outcome.WANTS_INPUT if isinstance(error, ssl.SSLWantReadError) else Outcome.BLOCKED


RECORD_BYTES = 16_384
"""The most that a record of TLS holds (RFC 8446 section 5.1), and so that a read of it gives."""
RECORDS_JOINED = 8
"""So many reads at most make one piece: a service may send records of one byte."""


class ReadEnd(Enum):
    """Why reading stopped."""

    FULL = auto()
    """There may be more, and this was enough."""
    DRAINED = auto()
    """Nothing is there for now."""
    WANTS_OUTPUT = auto()
    """TLS wants to say something first, as for a key update."""
    CLOSED = auto()
    """The stream has ended."""
    BROKEN = auto()
    """The connection broke."""


# As plain names: Python 3.11 takes six times as long to look up the member of an enum.
_FULL, _DRAINED = ReadEnd.FULL, ReadEnd.DRAINED


class ReadPiece(NamedTuple):
    """What was read at once.

    Args:
        data: the bytes.
        reads: how many reads gave them.
        end: why it is no more.
        error: with which it broke, or None.
    """

    data: bytes
    reads: int
    end: ReadEnd
    error: OSError | None = None


def read_piece(sock: socket.socket, limit_bytes: int) -> ReadPiece:
    """Read what is there, up to `limit_bytes`; records of TLS that are there are joined.

    A message of a tunnel takes four records, and what is done for each piece costs as much for a
    record as for all. A piece ends at the limit, or in front of it where a record was not full:
    where each message begins one, as they do that are written at once, a message ends there.

    A read that finds nothing raises, which with TLS costs more than the read of a small message: it
    is not made where little was there. What comes from now on makes the socket readable again, and
    so does an error. TLS in TLS has buffers of its own: there may always be more.

    Args:
        sock: plain, TLS, or TLS in TLS.
        limit_bytes: more than 0.
    """
    if type(sock) is socket.socket:
        return _read_plain(sock, limit_bytes)
    read: Callable[[int], bytes] = sock.recv
    pending: Callable[[], int] | None = None
    room_bytes = limit_bytes
    if isinstance(sock, ssl.SSLSocket):
        # Without the checks of `recv`, which take as long as the rest of a small read.
        read, pending = sock.read, sock.pending
    chunks: list[bytes] = []
    end, error = _FULL, None
    try:
        while True:
            chunk = read(min(RECORD_BYTES, room_bytes))
            if not chunk:
                end = ReadEnd.CLOSED
                break
            chunks.append(chunk)
            room_bytes -= len(chunk)
            is_small = limit_bytes - room_bytes < FEW_BYTES
            if is_small and pending is not None and not pending():
                end = _DRAINED
                break
            is_end = room_bytes < RECORD_BYTES and len(chunk) < RECORD_BYTES
            if is_end or room_bytes == 0 or len(chunks) >= RECORDS_JOINED:
                break
    except NOTHING_YET as refusal:
        is_for_output = isinstance(refusal, ssl.SSLWantWriteError)
        end = ReadEnd.WANTS_OUTPUT if is_for_output else _DRAINED
    except OSError as failure:
        # Without the frames that it came through, which would hold this function's in a circle.
        end, error = ReadEnd.BROKEN, failure.with_traceback(None)
        forget_tls_errors()
        if isinstance(failure, BrokenPipeError):
            # OpenSSL came to the end, and could not tell the other side that it misses TLS's.
            end, error = ReadEnd.CLOSED, None
    return ReadPiece(chunks[0] if len(chunks) == 1 else b"".join(chunks), len(chunks), end, error)


def _read_plain(sock: socket.socket, limit_bytes: int) -> ReadPiece:
    try:
        data = sock.recv(limit_bytes)
    except NOTHING_YET:
        return ReadPiece(b"", 0, _DRAINED)
    except OSError as failure:
        # As above.
        return ReadPiece(b"", 0, ReadEnd.BROKEN, failure.with_traceback(None))
    if not data:
        return ReadPiece(data, 0, ReadEnd.CLOSED)
    return ReadPiece(data, 1, _FULL if len(data) == limit_bytes else _DRAINED)


def true_end(sock: socket.socket, piece: ReadPiece) -> ReadPiece:
    """Return what was read last, with the reset that looked like an end.

    Some releases of OpenSSL make an end of a reset, and a write may have met the error first. While
    we may still send, what has hung up was reset.

    Args:
        sock: on which this side has not ended its direction.
        piece: from `read_piece`.
    """
    if piece.end is not ReadEnd.CLOSED or not has_hung_up(sock):
        return piece
    error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return piece._replace(end=ReadEnd.BROKEN, error=error)


class _Frame(NamedTuple):
    data: bytes | bytearray
    messages: int


_PONG_PLACE: Final = _Frame(b"", 0)
"""Stands in the queue for the pong that waits, whatever it is by then."""


JOIN_WRITE_BYTES = 65_536
"""Small frames are handed to the kernel together up to this size."""


class FrameWriter:
    """A queue of frames in front of a non-blocking socket.

    It is a list, short enough to be popped from its front: empty it takes a tenth of a deque, and
    each idle tunnel has one.

    Attributes:
        is_empty: everything has left.
    """

    def __init__(self) -> None:
        self.is_empty = True
        self._frames: list[_Frame] = []
        self._sending: memoryview | None = None
        self._sending_messages = 0
        self._pong: bytes | bytearray | None = None

    def __len__(self) -> int:
        """The frames that wait, without the one that is on its way."""
        return len(self._frames)

    def add(self, frame: bytes | bytearray, messages: int = 0) -> None:
        """Put a frame behind the others; it carries so many messages of the tunnel."""
        self._frames.append(_Frame(frame, messages))
        self.is_empty = False

    def add_first(self, frame: bytes | bytearray) -> None:
        """Put a control frame in front of the others."""
        self._frames.insert(0, _Frame(frame, 0))
        self.is_empty = False

    def add_pong(self, frame: bytes | bytearray) -> None:
        """Put a pong in the place of one that waits: only the latest is due (RFC 6455 5.5.3).

        It takes over that one's place in the queue, so that pings without end do not keep it back,
        and a ping costs the same however much waits.
        """
        if self._pong is None:
            self._frames.append(_PONG_PLACE)
        self._pong = frame
        self.is_empty = False

    def keep(self, frame: bytearray, sent_bytes: int, messages: int) -> None:
        """Go on with a frame that was begun while nothing waited, and was not taken whole."""
        self._sending, self._sending_messages = memoryview(frame)[sent_bytes:], messages
        self.is_empty = False

    def write(self, sock: socket.socket) -> tuple[int, Outcome]:
        """Hand over as much as the kernel takes.

        Returns:
            The messages that have left whole, and why it stopped.

        Raises:
            OSError: the connection broke.
        """
        written = 0
        try:
            while self._sending is not None or self._frames:
                if self._sending is None:
                    self._sending = self._take_next()
                sent = sock.send(self._sending)
                if sent < len(self._sending):
                    self._sending = self._sending[sent:]
                    continue
                self._sending = None
                written += self._sending_messages
        except NOTHING_YET as error:
            return written, outcome_of_refusal(error)
        except OSError:
            forget_tls_errors()
            raise
        self.is_empty = True
        return written, Outcome.DONE

    def _take_next(self) -> memoryview:
        """Take the next frame, joined with the small ones behind it."""
        frames = self._frames
        frame = frames.pop(0)
        data, self._sending_messages = self._take_pong() if frame is _PONG_PLACE else frame
        if len(data) >= JOIN_WRITE_BYTES or not frames:
            return memoryview(data)
        parts = [data]
        size = len(data)
        while frames and size + len(frames[0].data) <= JOIN_WRITE_BYTES:
            frame = frames.pop(0)
            part, messages = self._take_pong() if frame is _PONG_PLACE else frame
            parts.append(part)
            size += len(part)
            self._sending_messages += messages
        return memoryview(data if len(parts) == 1 else b"".join(parts))

    def _take_pong(self) -> _Frame:
        assert self._pong is not None
        pong, self._pong = self._pong, None
        return _Frame(pong, 0)


class SendPing(NamedTuple):
    """Send a ping now."""


class GiveUp(NamedTuple):
    """The service is dead: nothing was heard of it for `timeout_seconds` after a ping."""

    timeout_seconds: float

    def __str__(self) -> str:
        return f"the service has not answered a ping for {self.timeout_seconds:g} s"


Command: TypeAlias = SendPing | GiveUp


RECHECK_SECONDS = 0.1
"""The least time between two looks at a ping that is overdue and may not be judged yet."""
MOST_SLACK_SECONDS = 0.1
"""Pings are late by up to this, so that those of many tunnels leave together: to wake up for each
of ten thousand idle tunnels costs more than their pings."""
SLACK_PARTS = 64
"""Where pings are frequent, by no more than such a part of their interval."""
MIN_WAIT_SECONDS = 0.001
"""Timers are this exact: one that fires early must not be set again and again for less."""


class KeepAlive:
    """The pings of one connection: one every interval, unless the last one is unanswered.

    Args:
        limits: of these `ping_interval_seconds`, `pong_timeout_seconds`, and
            `stall_timeout_seconds`, by which a service that reads nothing has longer to answer.
        now: monotonic seconds at which the connection was established.
    """

    __slots__ = ("_heard_at", "_judge_at", "_limits", "_ping_at", "_pinged_at")

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._heard_at = now
        self._ping_at = now + limits.ping_interval_seconds
        self._pinged_at: float | None = None
        self._judge_at = now

    def on_heard(self, now: float) -> None:
        """The service showed that it lives: it sent something, or the kernel took more for it.

        Also to be called when reading goes on after a rest: the silence before it proves nothing.
        """
        self._heard_at = now

    def on_pong(self, now: float) -> float | None:
        """A pong came.

        Returns:
            The seconds since its ping; None if there is no unanswered ping.
        """
        pinged_at, self._pinged_at = self._pinged_at, None
        return None if pinged_at is None else now - pinged_at

    def on_due(self, now: float, *, is_reading: bool, is_blocked: bool) -> Command | None:
        """Time has passed, as `wait_seconds` said.

        Args:
            now: monotonic seconds.
            is_reading: whether a pong would be heard; if not, silence is not held against anyone.
            is_blocked: whether the kernel refuses more bytes. The service may then not have got the
                ping, and whoever holds up the tunnel is given up first.
        """
        command = self._judge(now, is_reading, is_blocked)
        if now >= self._ping_at:
            self._ping_at = now + self._limits.ping_interval_seconds
            if self._pinged_at is None:
                self._pinged_at = now
                self._judge_at = now + self._limits.pong_timeout_seconds
                return SendPing()
        return command

    def wait_seconds(self, now: float) -> float:
        """Seconds until `on_due` wants to be called, or a little later, with other connections."""
        due_at = self._ping_at
        if self._pinged_at is not None:
            due_at = min(due_at, self._judge_at)
        slack = min(self._limits.ping_interval_seconds / SLACK_PARTS, MOST_SLACK_SECONDS)
        return max(math.ceil(due_at / slack) * slack - now, MIN_WAIT_SECONDS)

    def _judge(self, now: float, is_reading: bool, is_blocked: bool) -> GiveUp | None:
        if self._pinged_at is None or now < self._judge_at:
            return None
        timeout_seconds = self._limits.pong_timeout_seconds
        if is_blocked:
            timeout_seconds += self._limits.stall_timeout_seconds
        silent_seconds = now - self._heard_at
        if is_reading and silent_seconds >= timeout_seconds:
            return GiveUp(timeout_seconds)
        self._judge_at = now + max(timeout_seconds - silent_seconds, RECHECK_SECONDS)
        return None
