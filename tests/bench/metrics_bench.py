"""What metrics cost: throughput with a scrape every second and with none, and the time of a scrape.

Owns the two measurements. `run` returns both; the machine's other work is in both halves of the
first, which take turns.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from tests.support.counted import open_tunnel
from tests.support.rig import Rig, receive_exactly
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.callbacks import CallbackTotals
from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.metrics import DispatcherMeter, TunnelCollector, TunnelMeter
from tunnelfleet.runtime.metrics.families import expose

if TYPE_CHECKING:
    import socket

SLICE_SECONDS = 2.5
ROUNDS = 6
CHUNK = bytes(65_536)
SCRAPE_SECONDS = 1.0
IDLE_TUNNELS = 10_000
SCRAPES = 10
TICK_SECONDS = 0.000_5


def run() -> dict[str, Any]:
    """Measure.

    Returns:
        Throughput off and on and what metrics cost, in percent; for ten thousand idle tunnels,
        without and with a thousand rows, the time of a scrape and the longest that a dispatcher
        waited meanwhile.
    """
    return {
        "throughput": throughput(),
        "idle_tunnels": IDLE_TUNNELS,
        "scrape": scrape(rows=0),
        "scrape_1000_rows": scrape(rows=1_000),
    }


def throughput() -> dict[str, float]:
    """Copy through one tunnel, the scrapes on and off in turns."""
    speeds: dict[bool, list[float]] = {False: [], True: []}
    with Rig(tls=True) as rig, AdminServer(rig.runtime, AdminOptions(port=0)) as admin:
        pair = rig.pair({"COPY": rig.backends.echo().address})
        with pair.connect("COPY") as client:
            _copy(client, 1.0)
            for turn in range(ROUNDS):
                for scraped in (False, True) if turn % 2 else (True, False):
                    speeds[scraped].append(
                        _slice(client, f"{admin.url}/metrics" if scraped else None)
                    )
    off, on = statistics.median(speeds[False]), statistics.median(speeds[True])
    # Neighbours in time shared the machine's other work.
    costs = [100 * (1 - b / a) for a, b in zip(speeds[False], speeds[True], strict=True)]
    return {
        "off_megabytes_per_second": round(off / 1e6, 2),
        "on_megabytes_per_second": round(on / 1e6, 2),
        "cost_percent": round(statistics.median(costs), 2),
    }


def _slice(client: socket.socket, url: str | None) -> float:
    stop = threading.Event()
    scraper = threading.Thread(target=_scrape_every_second, args=(url, stop))
    if url is not None:
        scraper.start()
    try:
        return _copy(client, SLICE_SECONDS)
    finally:
        stop.set()
        if url is not None:
            scraper.join()


def _scrape_every_second(url: str, stop: threading.Event) -> None:
    while not stop.wait(SCRAPE_SECONDS):
        with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
            answer.read()


def _copy(client: socket.socket, seconds: float) -> float:
    """Echo for so long; returns bytes a second, both ways."""
    started = time.perf_counter()
    moved = 0
    while (elapsed := time.perf_counter() - started) < seconds:
        client.sendall(CHUNK)
        receive_exactly(client, len(CHUNK))
        moved += 2 * len(CHUNK)
    return moved / elapsed


def scrape(rows: int) -> dict[str, float]:
    """Scrape idle tunnels while a dispatcher ticks, and note how late its ticks become."""
    meter, kernel = TunnelMeter(rows), DispatcherMeter()
    for number in range(IDLE_TUNNELS):
        open_tunnel(meter, f"tunnel-{number}", sent=number)
    registry = CollectorRegistry()
    registry.register(TunnelCollector(meter, kernel, CallbackTotals(), lambda: 0))
    times = []
    with Dispatcher("bench") as dispatcher:
        kernel.attach(dispatcher)
        ticker = Ticker(dispatcher)
        dispatcher.call_soon(ticker.tick)
        quiet_seconds = ticker.worst_over(1.0)
        late = []
        for _ in range(SCRAPES):
            ticker.reset()
            started = time.perf_counter()
            expose(registry, "", "gzip")
            times.append(time.perf_counter() - started)
            late.append(ticker.worst)
            time.sleep(0.05)
    return {
        "median_ms": round(1e3 * statistics.median(times), 1),
        "worst_ms": round(1e3 * max(times), 1),
        "dispatcher_late_median_ms": round(1e3 * statistics.median(late), 2),
        "dispatcher_late_worst_ms": round(1e3 * max(late), 2),
        "dispatcher_late_without_scrape_ms": round(1e3 * quiet_seconds, 2),
    }


class Ticker:
    """A timer on a dispatcher, and the longest time by which it was late."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._due = time.perf_counter()
        self.worst = 0.0

    def tick(self) -> None:
        now = time.perf_counter()
        self.worst = max(self.worst, now - self._due)
        # uvloop's timers have whole milliseconds.
        self._due = now + 0.001
        self._dispatcher.loop.call_later(TICK_SECONDS, self.tick)

    def reset(self) -> None:
        self.worst = 0.0

    def worst_over(self, seconds: float) -> float:
        """The worst in a time without a scrape."""
        time.sleep(0.1)
        self.reset()
        time.sleep(seconds)
        return self.worst


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
