"""Storms: many tunnels connect with TLS at once, and come back when the service has dropped all.

The service is a process of its own, so the CPU time of each side is known. The rate is not limited
by the runtime, and both sides share the machine's cores.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.memory import rss_bytes
from tunnelfleet.runtime import (
    Endpoint,
    Limits,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
    make_ssl_context,
)
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONNECT_RATE = 1_000_000.0
"""Of the runtime: as good as none, so that the machine is what limits."""
STORM_SECONDS = 900.0
"""The longest that a storm may take."""
LOOK_SECONDS = 0.1
"""How often one looks whether a storm is over."""
SPARE_DESCRIPTORS = 200
"""What a process needs beside its tunnels."""
PING_SECONDS = 30.0
"""How often each tunnel pings."""
IDLE_SECONDS = 60.0
"""How long the pings of idle tunnels are watched: twice their interval."""


def most_tunnels(wanted: int) -> int:
    """How many of `wanted` the limit of open files allows; it is raised as far as may be."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - SPARE_DESCRIPTORS)


def cpu_seconds() -> float:
    """What this process has used, in all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def serve(tunnels: int) -> None:
    """The service's process: does what it is told, a line each, until its input ends."""
    most_tunnels(tunnels)
    with TunnelService() as service:
        tokens = [service.open_tunnel(f"storm {n}", ["SSH"]) for n in range(tunnels)]
        ready = {
            "endpoint": service.endpoint,
            "ca": str(service.ca_path),
            "tokens": [token.destination_token for token in tokens],
        }
        print(json.dumps(ready), flush=True)
        for line in sys.stdin:
            if line.strip() == "drop":
                service.restart()
            print(json.dumps({"cpu": cpu_seconds(), "rss": rss_bytes()}), flush=True)


class Peer:
    """The service's process, as this one sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout
        self.ready = self._answer()

    def _answer(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._output.readline())
        return found

    def tell(self, command: str) -> dict[str, Any]:
        """Have it do something; return its CPU seconds and memory afterwards."""
        self._input.write(f"{command}\n")
        self._input.flush()
        return self._answer()


@contextmanager
def _service(tunnels: int) -> Iterator[Peer]:
    code = f"from tests.bench import storm_bench; storm_bench.serve({tunnels})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        try:
            yield Peer(process)
        finally:
            process.stdin.close()


def run(*, tunnels: int, idle_seconds: float = IDLE_SECONDS) -> dict[str, dict[str, float]]:
    """Connect `tunnels` at once, leave them alone, have the service drop all of them.

    Args:
        tunnels: how many, if as many descriptors may be open.
        idle_seconds: how long their pings are watched; 0 leaves that out.

    Returns:
        An entry for each storm: connects a second, CPU milliseconds of each side for one, and the
        longest turn of the dispatcher; and one of the idle tunnels between them.
    """
    tunnels = most_tunnels(tunnels)
    results: dict[str, dict[str, float]] = {}
    with _service(tunnels + 1) as peer:
        endpoint = Endpoint.parse(peer.ready["endpoint"])
        configs = [
            TunnelConfig(
                name=f"storm {number}",
                mode=Mode.DESTINATION,
                endpoint=endpoint,
                access_token=token,
                services={"SSH": TcpAddress("127.0.0.1", 22)},
                limits=Limits(ping_interval_seconds=PING_SECONDS),
            )
            for number, token in enumerate(peer.ready["tokens"])
        ]
        with TunnelRuntime(
            ssl_context=make_ssl_context(Path(peer.ready["ca"])),
            connect_rate_per_second=CONNECT_RATE,
        ) as runtime:
            storms = _Storms(runtime, peer)
            # What is loaded with the first tunnel is not the memory of one.
            storms.open([configs.pop()])
            before = rss_bytes()
            results[f"storm of {tunnels} connects"] = storms.measure(
                tunnels, lambda: storms.open(configs)
            )
            results[f"{tunnels} idle tunnels"] = {
                "kib_per_tunnel": round((rss_bytes() - before) / tunnels / 1024, 1),
                **_idle(idle_seconds),
            }
            results[f"storm of {tunnels} when all are dropped"] = storms.measure(
                tunnels, storms.drop
            )
    return results


class _Storms:
    """Starts storms, waits until all tunnels are connected, and measures meanwhile."""

    def __init__(self, runtime: TunnelRuntime, peer: Peer) -> None:
        self._runtime = runtime
        self._peer = peer
        self._links = 0
        """How many there have been when the present storm is over."""

    def open(self, configs: list[TunnelConfig]) -> None:
        """Open so many tunnels and wait for them."""
        for config in configs:
            self._runtime.open_tunnel(config)
        self._links += len(configs)
        self._await_links()

    def drop(self) -> None:
        """Have the service drop all, and wait until they are back."""
        self._peer.tell("drop")
        self._links += len(self._runtime.tunnels())
        self._await_links()

    def _await_links(self) -> None:
        """Wait until each tunnel has had its link so often. It looks seldom: that costs, too."""
        deadline = time.monotonic() + STORM_SECONDS
        while not self._has_all():
            if time.monotonic() > deadline:
                raise TimeoutError("not all tunnels connected")
            time.sleep(LOOK_SECONDS)

    def _has_all(self) -> bool:
        tunnels = self._runtime.tunnels()
        links = sum(tunnel.stats.connect_seconds.count for tunnel in tunnels)
        return links >= self._links and all(
            tunnel.stats.state is TunnelState.CONNECTED for tunnel in tunnels
        )

    def measure(self, tunnels: int, storm: Callable[[], None]) -> dict[str, float]:
        """Run a storm; return what it took."""
        stats = self._runtime.dispatchers[0].stats
        stats.longest_turn_seconds = 0.0
        slow_turns, turns = stats.slow_turns, stats.turns
        peer_before = self._peer.tell("say")["cpu"]
        before, started = cpu_seconds(), time.perf_counter()
        storm()
        seconds = time.perf_counter() - started
        used = cpu_seconds() - before
        peer_used = self._peer.tell("say")["cpu"] - peer_before
        return {
            "connects_per_second": round(tunnels / seconds, 1),
            "client_cpu_ms": round(1e3 * used / tunnels, 3),
            "service_cpu_ms": round(1e3 * peer_used / tunnels, 3),
            "turns_per_connect": round((stats.turns - turns) / tunnels, 1),
            "longest_turn_ms": round(1e3 * stats.longest_turn_seconds, 1),
            "slow_turns": stats.slow_turns - slow_turns,
        }


def _idle(seconds: float) -> dict[str, float]:
    if seconds <= 0:
        return {}
    before, started = cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    share = (cpu_seconds() - before) / (time.perf_counter() - started)
    return {"percent_of_a_core_with_pings": round(100 * share, 2)}
