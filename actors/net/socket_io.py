"""What every user of a non-blocking socket needs: reading, ending, and running out of sockets.

Owns how much is read at a time, how sockets end, and which errors say that the system has no
descriptor or memory left. Nothing is kept between two reads: an idle connection holds no buffer.
It knows no actor and no protocol.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import math
import os
import select
import socket
import ssl
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.kernel.context import has_forked
from tunnelfleet.actors.kernel.log import get_logger

if TYPE_CHECKING:
    from tunnelfleet.actors.config import Limits

logger = get_logger(__name__)


READ_BYTES = 65_536
"""Bytes read at a time."""
NOTHING_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a read or a write raises that has only to be tried again later."""


class Closable(Protocol):
    """What can be ended as a socket can: a plain one, TLS, or TLS in TLS."""

    def shutdown(self, how: int, /) -> None:
        """End one direction or both, whoever else holds the descriptor."""

    def close(self) -> None:
        """Close this descriptor."""


def forget_tls_errors() -> None:
    """Empty the list of OpenSSL's errors of this thread; to be called when TLS has failed.

    Newer releases of Python leave in it what a connection broke by, as the alert that cannot be
    sent any more. Whatever other connection of the thread is read or written next then fails by
    that, however sound it is (https://github.com/python/cpython/issues/148594). A new TLS object
    begins with an empty list.
    """
    _tls_of_nobody().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)


@functools.cache
def _tls_of_nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def read_some(sock: socket.socket, limit_bytes: int = READ_BYTES) -> bytes | None:
    """Read what is there, at most `limit_bytes` of it.

    Returns:
        The bytes, `b""` at the end of the stream, None when nothing is there yet.

    Raises:
        OSError: the connection broke.
    """
    try:
        return sock.recv(limit_bytes)
    except NOTHING_YET:
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
        if isinstance(sock, ssl.SSLSocket):
            forget_tls_errors()
        return True
    return False


FEW_BYTES = 4_096
"""Behind so much more may well have come meanwhile: a read costs less than another turn."""


def is_would_block(error: OSError) -> bool:
    """Return whether `error` only says that the kernel takes no more for now."""
    return isinstance(error, NOTHING_YET)


_CREDENTIALS = struct.Struct("iii")
"""struct ucred of unix(7): process, user, group."""


def peer_of(sock: socket.socket, address: Any) -> tuple[str, str]:
    """Return who is at the other side of an accepted socket: where, and who if the kernel knows.

    Args:
        sock: the socket.
        address: of its other side, as `accept` returns it.

    Returns:
        `HOST:PORT` and an empty text; of a Unix socket `pid=N` and `uid=N`, as they were when it
        connected. Numbers: a look-up of names could block.
    """
    if sock.family != socket.AF_UNIX:
        return str(TcpAddress(address[0], address[1])), ""
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return "", ""
    process, user, _group = _CREDENTIALS.unpack(found)
    return f"pid={process}", f"uid={user}"


_TCP_CLOSE = 7
"""The state in linux/tcp_states.h that a reset leads to."""


def undelivered_bytes(sock: socket.socket) -> int:
    """Return how many written bytes the other side of a TCP socket has not acknowledged yet.

    A reset would throw them away. 0 for a Unix socket, which delivers at once, and for a socket
    that broke.
    """
    if sock.family == socket.AF_UNIX:
        return 0
    try:
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            # The socket broke. Its bytes were thrown away and are still counted.
            return 0
        # SIOCOUTQ of tcp(7) is the same request as TIOCOUTQ.
        answer = fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])


_TCP_INFO_BYTES = 60
_RETRANSMITS_AT, _LAST_ACK_AT = 2, 56
"""Where `struct tcp_info` of linux/tcp.h has tcpi_retransmits and tcpi_last_ack_recv."""


def is_unanswered(sock: socket.socket, seconds: float) -> bool:
    """Return whether the kernel sends again what was sent, and has had no answer for so long.

    The other machine, or the way to it, is gone then. One whose application only does not read
    acknowledges all the same. False for a socket that is not TCP's, or broke.
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return False
    if len(info) < _TCP_INFO_BYTES or not info[_RETRANSMITS_AT]:
        return False
    (last_ack_ms,) = struct.unpack_from("I", info, _LAST_ACK_AT)
    return bool(last_ack_ms >= seconds * 1_000)


def has_hung_up(sock: socket.socket) -> bool:
    """Return whether the other side has gone altogether: a reset, or both directions closed.

    An end of its sending alone is not that.
    """
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


TCP_NOTSENT_LOWAT = 25
"""linux/tcp.h; the socket module has no name for it."""


def set_notsent_low_water(sock: socket.socket, size_bytes: int) -> None:
    """Keep at most about `size_bytes` of unsent bytes in the kernel, where the platform can."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, size_bytes)


def prepare_local(sock: socket.socket, limits: Limits) -> None:
    """Set what every local connection has, accepted or connected. A Unix socket is left as it is.

    Bytes leave at once, and a host that is gone without a word (unplugged, switched off) is
    noticed: without keepalive a connection that only waits would stay for ever. From here on a
    close is a reset, until `close_in_order`: so it is one, too, if the process is killed.
    """
    if sock.family == socket.AF_UNIX:
        return
    # A broken connection may refuse this; the next read will tell.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ABORT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        idle, interval = limits.keepalive_idle_seconds, limits.keepalive_interval_seconds
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, math.ceil(idle))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, math.ceil(interval))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, limits.keepalive_count)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def close_socket(sock: Closable, how: int = socket.SHUT_RDWR) -> None:
    """Shut down, then close; a socket that is broken already is closed, too.

    A close alone does nothing while a forked child holds the descriptor: the other side sees no
    end, and a listener goes on accepting. A shutdown is of the connection, whoever holds it.

    Args:
        sock: a connection or a listener, plain or TLS.
        how: `SHUT_WR` if the other side may still be sending: what it sends is then ignored,
            without a reset.
    """
    with contextlib.suppress(OSError):
        sock.shutdown(how)
    close_quietly(sock)


def wrap_tls(
    context: ssl.SSLContext,
    sock: socket.socket,
    *,
    server_side: bool = False,
    server_hostname: str | bytes | None = None,
) -> ssl.SSLSocket:
    """Begin TLS on a connected socket, which is the result's then; the handshake is to be done.

    Raises:
        OSError: the other side has gone; `sock` is still to be closed.
    """
    sock.getpeername()
    try:
        return context.wrap_socket(
            sock,
            server_side=server_side,
            server_hostname=server_hostname,
            do_handshake_on_connect=False,
        )
    except OSError as error:
        _close_half_made(error)
        raise


def _close_half_made(error: OSError) -> None:
    """Close what `wrap_socket` had made by the time that it met a reset.

    That of Python 3.11 to 3.13 has taken the descriptor by then, and leaves it to the garbage
    collector in an SSLSocket that only its frame knows.
    """
    traceback = error.__traceback__
    while traceback is not None:
        made = traceback.tb_frame.f_locals.get("self")
        if isinstance(made, ssl.SSLSocket):
            close_quietly(made)
        traceback = traceback.tb_next


def close_quietly(sock: Closable) -> None:
    """Close this descriptor and no other of the same socket."""
    with contextlib.suppress(OSError):
        sock.close()


def close_in_order(sock: socket.socket) -> None:
    """Close a local connection so that its application sees an ordinary end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
    close_socket(sock)


_LINGER_ABORT = struct.pack("ii", 1, 0)
_LINGER_OFF = struct.pack("ii", 0, 0)


def abort_quietly(sock: socket.socket) -> None:
    """Close so that the other side sees a reset, not an ordinary end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ABORT)
    if has_forked():
        reset_connection(sock)
    close_quietly(sock)


class AcceptedSocket(socket.socket):
    """The socket of an application, which is reset if it is dropped before anybody closes it.

    It travels in messages: one that is never handled must not look like an ordinary end.

    Args:
        accepted: the socket; this one takes its place.
    """

    __slots__ = ("_process",)

    def __init__(self, accepted: socket.socket) -> None:
        family, kind, protocol = accepted.family, accepted.type, accepted.proto
        super().__init__(family, kind, protocol, fileno=accepted.detach())
        self._process = os.getpid()

    def __del__(self) -> None:
        """Reset it; in a child that was forked, where it is the parent's, let go of it alone."""
        if self.fileno() < 0:
            return
        if self._process == os.getpid():
            abort_quietly(self)
        else:
            close_quietly(self)


_SOCKADDR_BYTES = 16


def reset_connection(sock: socket.socket) -> None:
    """Reset a connection, whoever holds descriptors of it; this one stays open.

    For one that a forked child or somebody else may have, so that a close alone would not end it.
    connect(2) to AF_UNSPEC does that, and Python's sockets cannot express it. A Unix socket knows
    no reset, and is shut down.
    """
    import ctypes  # noqa: PLC0415 - 0.6 MB, which few processes need

    with contextlib.suppress(OSError, AttributeError):
        if sock.family == socket.AF_UNIX:
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        elif ctypes.CDLL(None).connect(sock.fileno(), bytes(_SOCKADDR_BYTES), _SOCKADDR_BYTES):
            # If the reset fails, at least end the connection in good order.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
LOG_INTERVAL_SECONDS = 30.0


def is_exhausted(error: BaseException | None) -> bool:
    """Whether `error`, or its cause, says that the system has no descriptor or memory left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            return True
        error = error.__cause__
    return False


class ExhaustionLog:
    """Writes a runtime's one log line about exhaustion. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged_at: float | None = None
        self._count = 0

    def note(self, what: str, error: BaseException) -> None:
        """Say that `what` failed because of `error`, unless that was said a moment ago."""
        now = time.monotonic()
        with self._lock:
            self._count += 1
            if self._logged_at is not None and now - self._logged_at < LOG_INTERVAL_SECONDS:
                return
            self._logged_at = now
            count, self._count = self._count, 0
        logger.warning(
            "%s failed: %s (%d such failure(s) since the last line; the next line comes in %g s at "
            "the earliest): raise the limit of open files, or take fewer connections",
            what,
            getattr(error, "strerror", None) or error,
            count,
            LOG_INTERVAL_SECONDS,
        )
