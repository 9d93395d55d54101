"""Memory and threads of idle TLS tunnels in one process, and what it takes to scrape them.

The service and the scraper are processes of their own.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from tests.bench.metrics_bench import Ticker
from tests.support.memory import rss_bytes
from tunnelfleet.runtime import (
    Endpoint,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
    make_ssl_context,
)
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.service import TunnelService

CONNECT_RATE = 2_000.0
CONNECT_SECONDS = 180.0
SCRAPES = 20
SCRAPE_PAUSE_SECONDS = 0.2


def serve(tunnels: int) -> None:
    """The service's process: prints what the other needs, runs until its input ends."""
    with TunnelService() as service:
        tokens = [service.open_tunnel(f"idle {n}", ["SSH"]) for n in range(tunnels)]
        ready = {
            "endpoint": service.endpoint,
            "ca": str(service.ca_path),
            "tokens": [token.destination_token for token in tokens],
        }
        print(json.dumps(ready), flush=True)
        sys.stdin.read()


def run(*, tunnels: int, rows: int = 0, scrapes: int = SCRAPES) -> dict[str, dict[str, float]]:
    """Open `tunnels` destinations, wait until all are connected, look, and scrape.

    Args:
        tunnels: how many.
        rows: how many of them have metrics of their own.
        scrapes: how many are measured.

    Returns:
        One entry: memory and threads, the time to connect, the time of a scrape over HTTP, and the
        longest that a timer of the dispatcher was late with and without scrapes, and a full
        garbage collection.
    """
    code = f"from tests.bench import idle_bench; idle_bench.serve({tunnels + 1})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        context = make_ssl_context(Path(ready["ca"]))
        with TunnelRuntime(
            ssl_context=context, connect_rate_per_second=CONNECT_RATE, per_tunnel_series=rows
        ) as runtime:
            endpoint = Endpoint.parse(ready["endpoint"])
            measured = _measure(runtime, endpoint, ready["tokens"], scrapes)
        process.stdin.close()
    return {f"{tunnels} idle TLS tunnels": measured}


def _measure(
    runtime: TunnelRuntime, endpoint: Endpoint, tokens: list[str], scrapes: int
) -> dict[str, float]:
    _open(runtime, endpoint, "first", tokens.pop())
    _await_connected(runtime)
    before = rss_bytes()
    started = time.perf_counter()
    for number, token in enumerate(tokens):
        _open(runtime, endpoint, f"idle {number}", token)
    _await_connected(runtime)
    seconds = time.perf_counter() - started
    scraped = _scrape(runtime, scrapes)
    collected = _collect()
    return {
        "kb_per_tunnel": round((rss_bytes() - before) / len(tokens) / 1024, 1),
        "rss_mb": round(rss_bytes() / 1_048_576, 1),
        "threads": threading.active_count(),
        "connect_seconds": round(seconds, 2),
        **scraped,
        **collected,
    }


def _scrape(runtime: TunnelRuntime, scrapes: int) -> dict[str, float]:
    """Scrape over HTTP from a process of its own, as Prometheus does; note how late the actors are.

    The tunnels go on pinging, so the dispatcher has work of its own meanwhile.
    """
    ticker = Ticker(runtime.dispatchers[0])
    runtime.dispatchers[0].call_soon(ticker.tick)
    quiet_seconds = ticker.worst_over(scrapes * SCRAPE_PAUSE_SECONDS)
    with AdminServer(runtime, AdminOptions(port=0)) as admin:
        ticker.reset()
        code = f"from tests.bench import idle_bench; idle_bench.scrape({admin.url!r}, {scrapes})"
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True
        )
    times = json.loads(done.stdout)
    return {
        "scrape_median_ms": round(1e3 * statistics.median(times), 1),
        "scrape_worst_ms": round(1e3 * max(times), 1),
        "dispatcher_late_worst_ms": round(1e3 * ticker.worst, 2),
        "dispatcher_late_without_scrape_ms": round(1e3 * quiet_seconds, 2),
    }


def _collect() -> dict[str, float]:
    """How long a full turn of the garbage collector stops everything, and that freezing helps."""

    def turn_ms() -> float:
        started = time.perf_counter()
        gc.collect()
        return round(1e3 * (time.perf_counter() - started), 1)

    turn_ms()
    full = turn_ms()
    gc.freeze()
    try:
        return {"full_collection_ms": full, "full_collection_after_freeze_ms": turn_ms()}
    finally:
        gc.unfreeze()


def scrape(url: str, scrapes: int) -> None:
    """Prometheus' process: prints the seconds that each scrape took."""
    times = []
    request = urllib.request.Request(f"{url}/metrics", headers={"Accept-Encoding": "gzip"})
    for _ in range(scrapes):
        started = time.perf_counter()
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
        times.append(time.perf_counter() - started)
        time.sleep(SCRAPE_PAUSE_SECONDS)
    print(json.dumps(times))


def _open(runtime: TunnelRuntime, endpoint: Endpoint, name: str, token: str) -> None:
    runtime.open_tunnel(
        TunnelConfig(
            name=name,
            mode=Mode.DESTINATION,
            endpoint=endpoint,
            access_token=token,
            services={"SSH": TcpAddress("127.0.0.1", 22)},
        )
    )


def _await_connected(runtime: TunnelRuntime) -> None:
    def all_connected() -> bool:
        return all(t.stats.state is TunnelState.CONNECTED for t in runtime.tunnels())

    if not runtime.wait_until(all_connected, CONNECT_SECONDS):
        raise TimeoutError("not all tunnels connected")
