"""An echo beside a copy without end, behind a service of another make that lets 100 kB/s pass.

Nothing is configured; the same without pacing, and with a bandwidth given, for comparison. The
service is `tests.support.websockets_relay`, in a process of its own, as both ends of the tunnel are
in one.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from tunnelfleet.runtime import (
    Endpoint,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
)
from tunnelfleet.runtime.bench import FarEnd
from tunnelfleet.runtime.bench.figures import CHUNK, ECHO, TAKE

if TYPE_CHECKING:
    from collections.abc import Iterator

BYTES_PER_SECOND = 100_000
WARM_UP_SECONDS = 5.0
PAUSE_SECONDS = 0.05
MESSAGE_BYTES = 64
CONNECT_SECONDS = 20.0
SETTINGS: dict[str, dict[str, Any]] = {
    "paced by pings": {},
    "not paced": {"pacing": False},
    "paced by a bandwidth": {"bandwidth_bytes_per_second": float(BYTES_PER_SECOND)},
}
QUEUES = {"one message ahead": 1, "as by default": None}


def run(*, seconds: float) -> dict[str, dict[str, float]]:
    """Measure each setting behind each relay."""
    return {
        f"{setting}, relay {queue}": _measure(max_queue, seconds, options)
        for queue, max_queue in QUEUES.items()
        for setting, options in SETTINGS.items()
    }


@contextlib.contextmanager
def _relay(max_queue: int | None) -> Iterator[Endpoint]:
    command = [sys.executable, "-m", "tests.support.websockets_relay"]
    command += ["--services", "BENCH", "--rate", str(BYTES_PER_SECOND)]
    command += [] if max_queue is None else ["--max-queue", str(max_queue)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Endpoint.parse(json.loads(process.stdout.readline())["endpoint"])
        process.stdin.close()


@contextlib.contextmanager
def _tunnel(endpoint: Endpoint, far_end: FarEnd, options: dict[str, Any]) -> Iterator[int]:
    addresses = {
        Mode.DESTINATION: TcpAddress("127.0.0.1", far_end.port),
        Mode.SOURCE: TcpAddress("127.0.0.1", 0),
    }
    with TunnelRuntime() as runtime:
        ends = [
            runtime.open_tunnel(
                TunnelConfig(
                    name=mode,
                    mode=mode,
                    endpoint=endpoint,
                    access_token=mode,
                    services={"BENCH": address},
                    **options,
                )
            )
            for mode, address in addresses.items()
        ]
        for end in ends:
            end.wait_for(TunnelState.CONNECTED, CONNECT_SECONDS)
        listening = ends[1].wait_listening("BENCH", CONNECT_SECONDS)
        assert isinstance(listening, TcpAddress)
        yield listening.port


def _measure(max_queue: int | None, seconds: float, options: dict[str, Any]) -> dict[str, float]:
    with (
        _relay(max_queue) as endpoint,
        FarEnd() as far_end,
        _tunnel(endpoint, far_end, options) as port,
        socket.create_connection(("127.0.0.1", port)) as shell,
        socket.create_connection(("127.0.0.1", port)) as copy,
    ):
        shell.sendall(ECHO)
        copy.sendall(TAKE)
        thread = threading.Thread(target=_send, args=(copy,), name="copy", daemon=True)
        thread.start()
        _round_trips(shell, WARM_UP_SECONDS)
        begun, before = time.monotonic(), far_end.taken_bytes
        times = sorted(_round_trips(shell, seconds))
        rate = (far_end.taken_bytes - before) / (time.monotonic() - begun)
        copy.shutdown(socket.SHUT_RDWR)
        thread.join()
    return {
        "echo_median_ms": round(1e3 * statistics.median(times), 1),
        "echo_p99_ms": round(1e3 * times[int(len(times) * 0.99)], 1),
        "copy_share_of_rate": round(rate / BYTES_PER_SECOND, 3),
        "echoes": len(times),
    }


def _send(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            sock.sendall(CHUNK)


def _round_trips(shell: socket.socket, seconds: float) -> list[float]:
    end, times = time.monotonic() + seconds, list[float]()
    while time.monotonic() < end:
        begun = time.monotonic()
        shell.sendall(CHUNK[:MESSAGE_BYTES])
        left = MESSAGE_BYTES
        while left:
            left -= len(shell.recv(left)) or left
        times.append(time.monotonic() - begun)
        time.sleep(PAUSE_SECONDS)
    return times
