"""What all who speak MQTT by paho share: a turn of its connection, and what ends the wait for one.

The socket is waited for with `poll`, because paho's own loop uses `select`, which no process with
more than 1,024 open files can. Only paho's public names are used. What is said is its callers'.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from paho.mqtt.client import Client

WAKE_BYTES: Final = 4_096


class Wake:
    """Ends a `turn` early, from any thread. It has two descriptors, until it is closed."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        for each in (self._reader, self._writer):
            each.setblocking(False)

    def fileno(self) -> int:
        """Of what becomes readable."""
        return self._reader.fileno()

    def call(self) -> None:
        """End the turn, or the next one."""
        # A full buffer is as good, and a closed socket has nobody to wake.
        with contextlib.suppress(OSError):
            self._writer.send(b"w")

    def take(self) -> None:
        """Note that it was called."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(WAKE_BYTES)

    def close(self) -> None:
        """Close both sockets."""
        self._reader.close()
        self._writer.close()


def turn(client: Client, wake: Wake, timeout_seconds: float, *, may_read: bool = True) -> bool:
    """Wait for something to happen on a client's connection, and deal with it.

    Args:
        client: whose callbacks are called here.
        wake: ends the wait.
        timeout_seconds: at most so long.
        may_read: False leaves what arrives in the kernel, and so with the broker.

    Returns:
        Whether the connection stands.
    """
    sock: Any = client.socket()
    if sock is None:
        return False
    # TLS may have read what no poll can see any more.
    is_pending = may_read and isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
    wanted = select.POLLIN if may_read else 0
    if client.want_write():
        wanted |= select.POLLOUT
    ready = _poll(sock, wanted, wake, 0.0 if is_pending else timeout_seconds)
    if (is_pending or (may_read and ready & ~select.POLLOUT)) and client.loop_read():
        return False
    if ready & select.POLLOUT and client.loop_write():
        return False
    return not client.loop_misc()


def _poll(sock: Any, wanted: int, wake: Wake, timeout_seconds: float) -> int:
    poll = select.poll()
    poll.register(sock, wanted)
    poll.register(wake, select.POLLIN)
    found = dict(poll.poll(timeout_seconds * 1_000))
    if wake.fileno() in found:
        wake.take()
    return found.get(sock.fileno(), 0)


def close(client: Client) -> None:
    """Close what is left of a client's connection, however it has ended."""
    sock: Any = client.socket()
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.close()
