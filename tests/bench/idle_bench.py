"""Memory and threads of idle TLS tunnels in one process; the service is a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from tunnelfleet.runtime import (
    Endpoint,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
    make_ssl_context,
)
from tunnelfleet.runtime.service import TunnelService

CONNECT_RATE = 2_000.0
CONNECT_SECONDS = 180.0


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


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4_096


def run(*, tunnels: int) -> dict[str, dict[str, float]]:
    """Open `tunnels` destinations, wait until all are connected, and look."""
    code = f"from tests.bench import idle_bench; idle_bench.serve({tunnels + 1})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        context = make_ssl_context(Path(ready["ca"]))
        with TunnelRuntime(ssl_context=context, connect_rate_per_second=CONNECT_RATE) as runtime:
            measured = _measure(runtime, Endpoint.parse(ready["endpoint"]), ready["tokens"])
        process.stdin.close()
    return {f"{tunnels} idle TLS tunnels": measured}


def _measure(runtime: TunnelRuntime, endpoint: Endpoint, tokens: list[str]) -> dict[str, float]:
    _open(runtime, endpoint, "first", tokens.pop())
    _await_connected(runtime)
    before = _resident_bytes()
    started = time.perf_counter()
    for number, token in enumerate(tokens):
        _open(runtime, endpoint, f"idle {number}", token)
    _await_connected(runtime)
    seconds = time.perf_counter() - started
    return {
        "kb_per_tunnel": round((_resident_bytes() - before) / len(tokens) / 1024, 1),
        "rss_mb": round(_resident_bytes() / 1_048_576, 1),
        "threads": threading.active_count(),
        "connect_seconds": round(seconds, 2),
    }


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
