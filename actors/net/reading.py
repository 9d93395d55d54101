"""How much is read at once of a non-blocking socket, and whether there is more.

Owns the joining of records of TLS, and knows without the read that finds nothing that a socket has
no more. It knows no actor and no protocol; nothing is kept between two reads.
"""

from __future__ import annotations

import os
import socket
import ssl
from enum import Enum, auto
from typing import NamedTuple

from .socket_io import FEW_BYTES, NOTHING_YET


def is_drained(sock: socket.socket, read_bytes: int) -> bool:
    """Return whether another read would find nothing, as far as one knows without it.

    A read that finds nothing raises, which costs five times as much as this, or with TLS more than
    the read of a small message. What comes from now on makes the socket readable again; an error
    that stands behind the bytes does not where the event loop is libuv's, so it is looked for.

    Args:
        sock: on which no write has failed; the error would have been taken by that.
        read_bytes: what was read of it in this turn.

    Raises:
        OSError: the connection broke behind what was read.
    """
    if not 0 < read_bytes < FEW_BYTES or not isinstance(sock, socket.socket):
        # TLS in TLS has buffers of its own.
        return False
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return False
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    return True


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
    """Read what is there, up to about `limit_bytes`; records of TLS that are there are joined.

    A message of a tunnel takes four records, and what is done for each piece costs as much for a
    record as for all. A record is not cut: where each message begins one, as they do that are
    written at once, pieces end where messages do.

    Args:
        sock: plain, TLS, or TLS in TLS.
        limit_bytes: more than 0. With TLS a record is read for as long as a whole one has room.
    """
    is_tls = type(sock) is not socket.socket
    read_bytes = min(RECORD_BYTES, limit_bytes) if is_tls else limit_bytes
    # Without the checks of `recv`, which take as long as the rest of a small read.
    read = sock.read if isinstance(sock, ssl.SSLSocket) else sock.recv
    chunks: list[bytes] = []
    size, end, error = 0, ReadEnd.FULL, None
    try:
        while True:
            chunk = read(read_bytes)
            if not chunk:
                end = ReadEnd.CLOSED
                break
            chunks.append(chunk)
            size += len(chunk)
            if size < FEW_BYTES and is_drained(sock, size):
                end = ReadEnd.DRAINED
                break
            is_enough = size > limit_bytes - RECORD_BYTES or len(chunks) >= RECORDS_JOINED
            if is_enough or not is_tls:
                break
    except NOTHING_YET as refusal:
        is_for_output = isinstance(refusal, ssl.SSLWantWriteError)
        end = ReadEnd.WANTS_OUTPUT if is_for_output else ReadEnd.DRAINED
    except OSError as failure:
        # Without the frames that it came through, which would hold this function's in a circle.
        end, error = ReadEnd.BROKEN, failure.with_traceback(None)
    return ReadPiece(chunks[0] if len(chunks) == 1 else b"".join(chunks), len(chunks), end, error)
