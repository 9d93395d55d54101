"""A shell stays live beside a copy: the wire of a throttled tunnel is shared fairly.

The service lets 100 kB/s through each way. One connection copies without end from source to
destination, one sends 64-byte echoes. Both ends run in a process of their own, whose memory is
measured; a tunnel that is told its bandwidth and one that is not are measured side by side.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.support.content import MIB
from tests.support.processes import RuntimeProcess
from tests.support.rig import Rig, connect, receive_exactly
from tests.support.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from tunnelfleet.runtime import TcpAddress

BYTES_PER_SECOND = 100_000.0
WARM_UP_SECONDS = 6.0
MEASURE_SECONDS = 4.0
MAX_MEASUREMENTS = 8
"""A machine that is busy with something else is measured again."""
ECHO_BYTES = 64
ECHO_PAUSE_SECONDS = 0.1
MAX_GROWTH_BYTES = 16 * MIB

MAX_MEDIAN_SECONDS = 1.5
MAX_PACED_MEDIAN_SECONDS = 0.15
MIN_PROGRESS = 0.7
MAX_PROGRESS = 1.05


class Copy:
    """Sends without end through a tunnel on a thread; a context manager.

    Args:
        rig: where to make the server that takes the copy.
    """

    def __init__(self, rig: Rig) -> None:
        self.arrived_bytes = 0
        self.server = rig.backends.serve(self._take)
        self._client: socket.socket | None = None
        self._thread = threading.Thread(target=self._send, name="copy")

    async def _take(self, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            self.arrived_bytes += len(data)

    def start(self, address: TcpAddress) -> None:
        """Begin to copy to a tunnel's source."""
        self._client = connect(address)
        self._thread.start()

    def _send(self) -> None:
        assert self._client is not None
        with contextlib.suppress(OSError):
            while True:
                self._client.sendall(bytes(65_536))

    def stop(self) -> None:
        """Break it off."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)
            self._thread.join(WAIT_SECONDS)
            self._client.close()


@dataclass
class Measured:
    """What was seen of one tunnel after its warm-up.

    Attributes:
        round_trips: of the echoes, in seconds.
        copied_bytes_per_second: that arrived of the copy.
        growth_bytes: by how much the process grew, at most, from before the copy began.
    """

    round_trips: list[float] = field(default_factory=list)
    copied_bytes_per_second: float = 0.0
    growth_bytes: int = 0

    @property
    def median(self) -> float:
        """Of the round trips."""
        return statistics.median(self.round_trips)

    def is_fair(self, max_median_seconds: float) -> bool:
        """Whether the copy went on, and echoes came back meanwhile."""
        progress = self.copied_bytes_per_second / BYTES_PER_SECOND
        return MIN_PROGRESS < progress < MAX_PROGRESS and self.median <= max_median_seconds


def measure_medians(
    rig: Rig, name: str, bandwidth: float | None, max_median_seconds: float
) -> Measured:
    """Copy and echo through one tunnel until it was fair, at most `MAX_MEASUREMENTS` times."""
    copy = Copy(rig)
    services = {"COPY": copy.server.address, "SHELL": rig.backends.echo().address}
    with (
        RuntimeProcess(rig, services, name=name, bandwidth_bytes_per_second=bandwidth) as process,
        connect(process.listening["SHELL"]) as shell,
        contextlib.ExitStack() as stack,
    ):
        round_trip(shell)
        begin_bytes = process.rss_bytes()
        stack.callback(copy.stop)
        copy.start(process.listening["COPY"])
        for _ in rounds(WARM_UP_SECONDS):
            round_trip(shell)
        growth_bytes = 0
        for _ in range(MAX_MEASUREMENTS):
            measured = Measured()
            started, before_bytes = time.monotonic(), copy.arrived_bytes
            for _ in rounds(MEASURE_SECONDS):
                measured.round_trips.append(round_trip(shell))
                growth_bytes = max(growth_bytes, process.rss_bytes() - begin_bytes)
            seconds = time.monotonic() - started
            measured.copied_bytes_per_second = (copy.arrived_bytes - before_bytes) / seconds
            measured.growth_bytes = growth_bytes
            if measured.is_fair(max_median_seconds):
                break
    return measured


def rounds(seconds: float) -> Iterator[None]:
    """One round after another, with a pause between them, for so long."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < end:
        yield
        pause.wait(ECHO_PAUSE_SECONDS)


def round_trip(shell: socket.socket) -> float:
    """Echo 64 bytes; returns the seconds that it took."""
    started = time.monotonic()
    shell.sendall(bytes(ECHO_BYTES))
    assert receive_exactly(shell, ECHO_BYTES) == bytes(ECHO_BYTES)
    return time.monotonic() - started


@pytest.mark.slow
def test_echoes_stay_live_beside_a_copy() -> None:
    with Rig(bandwidth_bytes_per_second=BYTES_PER_SECOND) as rig, ThreadPoolExecutor(2) as threads:
        both = [
            threads.submit(measure_medians, rig, "plain", None, MAX_MEDIAN_SECONDS),
            threads.submit(
                measure_medians, rig, "paced", BYTES_PER_SECOND, MAX_PACED_MEDIAN_SECONDS
            ),
        ]
        plain, paced = [each.result() for each in both]
    print(f"median round trip: {plain.median:.3f} s without bandwidth, {paced.median:.3f} s with")
    for name, seen in (("plain", plain), ("paced", paced)):
        rate = seen.copied_bytes_per_second
        print(f"{name}: {rate:.0f} bytes/s copied, {seen.growth_bytes / MIB:.1f} MiB more")
        assert MIN_PROGRESS < rate / BYTES_PER_SECOND < MAX_PROGRESS, (name, rate)
        assert seen.growth_bytes < MAX_GROWTH_BYTES, (name, seen.growth_bytes)
    assert plain.median <= MAX_MEDIAN_SECONDS
    assert paced.median <= MAX_PACED_MEDIAN_SECONDS
