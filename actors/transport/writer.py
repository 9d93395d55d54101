"""What waits to be written to a WebSocket's socket: whole frames, in order, small ones joined.

It writes what the kernel takes and keeps the rest; it knows no actor, and not what frames hold. How
many messages have left is counted, so that credit can be given.
"""

from __future__ import annotations

import socket
import ssl
from enum import Enum, auto
from typing import Final, NamedTuple

from tunnelfleet.actors.net.socket_io import NOTHING_YET


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
        return memoryview(b"".join(parts))

    def _take_pong(self) -> _Frame:
        assert self._pong is not None
        pong, self._pong = self._pong, None
        return _Frame(pong, 0)
