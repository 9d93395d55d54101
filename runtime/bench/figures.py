"""The figures of a tunnel: the application at its far end, the measuring, the form for people.

`FarEnd` is a TCP server that does what the first byte of a connection asks for: take what comes,
give without end, or echo. Each figure is measured for a time, not for an amount, so that a tunnel
of 10 kB/s takes as long as one of 100 MB/s.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from tunnelfleet.actors.addresses import TcpAddress

TAKE: Final = b"T"
GIVE: Final = b"G"
ECHO: Final = b"E"
CHUNK: Final = bytes(range(256)) * 256
READ_BYTES: Final = 262_144
JOIN_SECONDS: Final = 5.0
BACKLOG: Final = 128


class FarEnd:
    """The server; a context manager.

    Attributes:
        port: on loopback.
        taken_bytes: what came on connections that only take.
    """

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.port: int = self._server.getsockname()[1]
        self.taken_bytes = 0
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._accepting = threading.Thread(target=self._accept, name="bench: far end", daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        # Closing alone would leave accept() waiting.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._accepting.join(JOIN_SECONDS)
        with self._lock:
            threads = list(self._open.values())
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(JOIN_SECONDS)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._server.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(
                    target=self._serve, args=(sock,), name="bench: a connection", daemon=True
                )
                with self._lock:
                    self._open[sock] = thread
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        actions = {TAKE: self._take, GIVE: self._give, ECHO: self._echo}
        try:
            with contextlib.suppress(OSError):
                asked = sock.recv(1)
                if asked in actions:
                    actions[asked](sock)
        finally:
            with self._lock:
                del self._open[sock]
                sock.close()

    def _take(self, sock: socket.socket) -> None:
        while data := sock.recv(READ_BYTES):
            self.taken_bytes += len(data)

    @staticmethod
    def _give(sock: socket.socket) -> None:
        while True:
            sock.sendall(CHUNK)

    @staticmethod
    def _echo(sock: socket.socket) -> None:
        while data := sock.recv(READ_BYTES):
            sock.sendall(data)


MESSAGE_BYTES: Final = 64
WARM_UP_SHARE: Final = 0.3
"""Of a figure's time: a transfer fills its buffers and finds its rate first."""
ROUND_TRIP_PAUSE_SECONDS: Final = 0.02
"""Between two round trips beside a transfer, as of somebody who types."""
LOOK_SECONDS: Final = 0.01
CLIENTS: Final = 8
"""That open connections beside each other."""
SILENCE_SECONDS: Final = 30.0
"""Without a byte for so long, a measurement is given up."""
ABORT: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Of messages of `MESSAGE_BYTES`, in seconds."""

    median_seconds: float
    p99_seconds: float
    count: int

    @classmethod
    def of(cls, seconds: list[float]) -> RoundTrips:
        """What these come to; there is at least one."""
        seconds = sorted(seconds)
        return cls(statistics.median(seconds), seconds[int(len(seconds) * 0.99)], len(seconds))

    def __str__(self) -> str:
        return f"{1e3 * self.median_seconds:.2f} ms median, {1e3 * self.p99_seconds:.2f} ms p99"


@dataclass(frozen=True, slots=True)
class TunnelFigures:
    """What was measured.

    Attributes:
        up_bytes_per_second: from source to destination, one connection.
        down_bytes_per_second: the other way.
        round_trip: of a tunnel at rest.
        loaded_round_trip: beside a transfer without end from source to destination.
        connections_per_second: opened, used once and closed, by `CLIENTS` clients.
    """

    up_bytes_per_second: float
    down_bytes_per_second: float
    round_trip: RoundTrips
    loaded_round_trip: RoundTrips
    connections_per_second: float

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people, at most 80 columns."""
        return [
            f"to the destination    {rate(self.up_bytes_per_second)}",
            f"to the source         {rate(self.down_bytes_per_second)}",
            f"round trip            {self.round_trip}",
            f"  beside a transfer   {self.loaded_round_trip}",
            f"connections           {self.connections_per_second:.0f} a second",
        ]


def rate(bytes_per_second: float) -> str:
    """A rate for people, such as `98.4 kB/s`."""
    for unit, factor in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if bytes_per_second >= factor:
            return f"{bytes_per_second / factor:.1f} {unit}"
    return f"{bytes_per_second:.0f} B/s"


def measure(address: TcpAddress, far_end: FarEnd, seconds: float) -> TunnelFigures:
    """Measure the tunnel whose source listens at `address`.

    Args:
        address: of the source.
        far_end: what its destination connects to.
        seconds: for each figure.

    Raises:
        OSError: a connection broke, or nothing came for `SILENCE_SECONDS`.
    """
    return TunnelFigures(
        round_trip=_round_trip(address, seconds),
        connections_per_second=_connections(address, seconds),
        up_bytes_per_second=_up(address, far_end, seconds),
        down_bytes_per_second=_down(address, seconds),
        loaded_round_trip=_loaded_round_trip(address, seconds),
    )


@contextlib.contextmanager
def _connected(address: TcpAddress, asks: bytes) -> Iterator[socket.socket]:
    with socket.create_connection((address.host, address.port), SILENCE_SECONDS) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(asks)
        yield sock


def _exchange(sock: socket.socket) -> float:
    """One round trip, in seconds."""
    begun = time.perf_counter()
    sock.sendall(CHUNK[:MESSAGE_BYTES])
    left = MESSAGE_BYTES
    while left:
        data = sock.recv(left)
        if not data:
            raise ConnectionError("the tunnel closed a connection that was measured")
        left -= len(data)
    return time.perf_counter() - begun


def _round_trip(address: TcpAddress, seconds: float) -> RoundTrips:
    with _connected(address, ECHO) as sock:
        _exchange(sock)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            times.append(_exchange(sock))
    return RoundTrips.of(times)


def _connections(address: TcpAddress, seconds: float) -> float:
    end = time.perf_counter() + seconds

    def client() -> int:
        count = 0
        while not count or time.perf_counter() < end:
            with _connected(address, ECHO) as sock:
                _exchange(sock)
            count += 1
        return count

    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS, "bench: client") as clients:
        counts = [each.result() for each in [clients.submit(client) for _ in range(CLIENTS)]]
    return sum(counts) / (time.perf_counter() - begun)


@contextlib.contextmanager
def _transfer(address: TcpAddress) -> Iterator[None]:
    """Send without end, until the end of the block; then the connection is cut."""

    def send(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(CHUNK)

    with _connected(address, TAKE) as sock:
        thread = threading.Thread(target=send, args=(sock,), name="bench: transfer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            # What waits in the tunnel by now is of no use to anybody.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            thread.join(SILENCE_SECONDS)


def _up(address: TcpAddress, far_end: FarEnd, seconds: float) -> float:
    with _transfer(address):
        time.sleep(seconds * WARM_UP_SHARE)
        begun, before = time.perf_counter(), far_end.taken_bytes
        time.sleep(seconds)
        # A slow tunnel, or a busy machine, may need longer for its first byte.
        while far_end.taken_bytes == before:
            if time.perf_counter() - begun > seconds + SILENCE_SECONDS:
                raise TimeoutError(f"no byte came through in {SILENCE_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)
        return (far_end.taken_bytes - before) / (time.perf_counter() - begun)


def _down(address: TcpAddress, seconds: float) -> float:
    with _connected(address, GIVE) as sock:
        _take_for(sock, seconds * WARM_UP_SHARE)
        begun = time.perf_counter()
        taken = _take_for(sock, seconds)
        took = time.perf_counter() - begun
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    return taken / took


def _take_for(sock: socket.socket, seconds: float) -> int:
    end, taken = time.perf_counter() + seconds, 0
    while not taken or time.perf_counter() < end:
        data = sock.recv(READ_BYTES)
        if not data:
            raise ConnectionError("the tunnel closed a connection that was measured")
        taken += len(data)
    return taken


def _loaded_round_trip(address: TcpAddress, seconds: float) -> RoundTrips:
    with _connected(address, ECHO) as sock, _transfer(address):
        times: list[float] = []
        end = time.perf_counter() + seconds * WARM_UP_SHARE
        while time.perf_counter() < end:
            _exchange(sock)
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            times.append(_exchange(sock))
            time.sleep(ROUND_TRIP_PAUSE_SECONDS)
    return RoundTrips.of(times)
