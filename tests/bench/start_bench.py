"""How long the program takes to start, and what one idle tunnel of it takes.

The service is a process of its own, with TLS. Bytecode is written, as pip does when it installs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.memory import rss_bytes

IDLE_SECONDS = 2.0
"""How long a localproxy is left alone before its memory is looked at."""
_SERVE = "from tests.bench import idle_bench; idle_bench.serve({tunnels})"


def run(*, rounds: int) -> dict[str, dict[str, float]]:
    """Start each program in turn, `rounds` times; the first round does not count.

    Returns:
        One entry with the medians: what Python alone takes, `--version`, `localproxy` from its
        start to its link, and its memory when it was idle for `IDLE_SECONDS`.
    """
    times: dict[str, list[float]] = {}
    with _service(rounds + 1) as (endpoint, ca, tokens):
        contestants: dict[str, Callable[[], float]] = {
            "python_ms": lambda: _time(sys.executable, "-c", "pass"),
            "version_ms": lambda: _time(sys.executable, "-m", "tunnelfleet", "--version"),
        }
        for _ in range(rounds + 1):
            for name, measure in contestants.items():
                times.setdefault(name, []).append(measure())
            connect_ms, rss_mb = _localproxy(endpoint, ca, tokens.pop())
            times.setdefault("localproxy_connected_ms", []).append(connect_ms)
            times.setdefault("localproxy_idle_rss_mb", []).append(rss_mb)
    medians = {name: round(statistics.median(found[1:]), 1) for name, found in times.items()}
    return {"start of the program": medians}


def _environment() -> dict[str, str]:
    return {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def _time(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_environment())
    return 1e3 * (time.perf_counter() - started)


@contextmanager
def _service(tunnels: int) -> Iterator[tuple[str, str, list[str]]]:
    command = [sys.executable, "-c", _SERVE.format(tunnels=tunnels)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        try:
            yield ready["endpoint"], ready["ca"], ready["tokens"]
        finally:
            process.stdin.close()


def _localproxy(endpoint: str, ca: str, token: str) -> tuple[float, float]:
    """Start one, wait for its link and for `IDLE_SECONDS`; return milliseconds and megabytes."""
    command = [sys.executable, "-m", "tunnelfleet", "localproxy", "-e", endpoint, "-c", ca]
    environment = _environment() | {"AWSIOT_TUNNEL_ACCESS_TOKEN": token}
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "-d", "22"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        if not any(line.startswith("connected") for line in process.stdout):
            raise ChildProcessError("a localproxy ended before it was connected")
        connect_ms = 1e3 * (time.perf_counter() - started)
        time.sleep(IDLE_SECONDS)
        rss_mb = rss_bytes(process.pid) / 1_000_000
        process.terminate()
        # It has something to say at its end, and somebody has to read that.
        process.stdout.read()
    return connect_ms, rss_mb
