"""Small shared pieces of non-blocking socket input and output.

Owns how much is read at a time and how sockets end. Nothing is kept between two reads: an idle
connection holds no buffer. It knows no actor and no protocol.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Limits

__all__ = [
    "READ_BYTES",
    "abort_quietly",
    "close_quietly",
    "discard_some",
    "is_would_block",
    "prepare_local",
    "read_some",
    "set_notsent_low_water",
]

READ_BYTES = 65_536
"""Bytes read at a time."""
TCP_NOTSENT_LOWAT = 25
"""linux/tcp.h; the socket module has no name for it."""
_LINGER_ABORT = struct.pack("ii", 1, 0)


def read_some(sock: socket.socket, limit_bytes: int = READ_BYTES) -> bytes | None:
    """Read what is there, at most `limit_bytes` of it.

    Returns:
        The bytes, `b""` at the end of the stream, None when nothing is there yet.

    Raises:
        OSError: the connection broke.
    """
    try:
        return sock.recv(limit_bytes)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None


def discard_some(sock: socket.socket, limit_bytes: int) -> bool:
    """Read and throw away what is there, at most about `limit_bytes` of it.

    Returns:
        Whether nothing more can come: the stream has ended, or the connection broke.
    """
    try:
        for _ in range(limit_bytes // READ_BYTES):
            data = read_some(sock)
            if not data:
                return data is not None
    except OSError:
        return True
    return False


def is_would_block(error: OSError) -> bool:
    """Whether `error` only says that the kernel takes no more for now."""
    return isinstance(error, BlockingIOError | ssl.SSLWantWriteError | ssl.SSLWantReadError)


def set_notsent_low_water(sock: socket.socket, size_bytes: int) -> None:
    """Keep at most about `size_bytes` of unsent bytes in the kernel, where the platform can."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, size_bytes)


def prepare_local(sock: socket.socket, limits: Limits) -> None:
    """Set what every local connection has, accepted or connected. Nothing for a Unix socket.

    Bytes leave at once, and a host that is gone without a word (unplugged, switched off) is
    noticed: without keepalive a connection that only waits would stay for ever.
    """
    if sock.family == socket.AF_UNIX:
        return
    # A connection that is broken already may refuse: reading it tells.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        idle, interval = limits.keepalive_idle_seconds, limits.keepalive_interval_seconds
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, math.ceil(idle))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, math.ceil(interval))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, limits.keepalive_count)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def close_quietly(sock: socket.socket) -> None:
    """Close; a socket that is broken already is closed, too."""
    with contextlib.suppress(OSError):
        sock.close()


def abort_quietly(sock: socket.socket) -> None:
    """Close so that the other side sees a reset, not an ordinary end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ABORT)
    close_quietly(sock)
