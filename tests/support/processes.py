"""A runtime in a process of its own, so that its memory can be measured.

As a program it reads one JSON object from standard input, opens the tunnels in it, writes where
they listen as one JSON line once all are connected, and stops at the end of its input. As a module
it owns starting that program and looking at its memory. Must not know what the tunnels are for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.memory import rss_bytes
from tests.support.witness import FAULT_LIMITS
from tunnelfleet.runtime import (
    Address,
    Endpoint,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
    make_ssl_context,
    parse_address,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.rig import Rig

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 60.0
KIB = 1_024


class RuntimeProcess:
    """Both ends of a rig's tunnel in another process; a context manager.

    Args:
        rig: whose service to use.
        services: what the destination connects to.
        name: of the tunnel.
        bandwidth_bytes_per_second: what both ends pace to.
        limits: which limits are other than `FAULT_LIMITS`.

    Attributes:
        listening: where the source listens, by service id.
    """

    def __init__(
        self,
        rig: Rig,
        services: Mapping[str, Address],
        *,
        name: str = "elsewhere",
        bandwidth_bytes_per_second: float | None = None,
        **limits: float,
    ) -> None:
        tokens = rig.service.open_tunnel(name, list(services))
        self._order = {
            "endpoint": rig.service.endpoint,
            "ca": str(rig.service.ca_path) if rig.service.ca_path else None,
            "services": {service_id: str(address) for service_id, address in services.items()},
            "source_token": tokens.source_token,
            "destination_token": tokens.destination_token,
            "bandwidth": bandwidth_bytes_per_second,
            "limits": limits,
        }
        self.listening: dict[str, TcpAddress] = {}
        self._process: subprocess.Popen[str] | None = None
        self._status = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.processes"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(self._order) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
            stack.pop_all()
        self.listening = {name: _tcp(text) for name, text in answer.items()}
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stop()

    def _stop(self) -> None:
        assert self._process is not None
        try:
            self._process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        assert self._process.returncode == self._status

    def kill(self) -> None:
        """End it by SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._status = -signal.SIGKILL

    def rss_bytes(self) -> int:
        """How much memory it has now."""
        assert self._process is not None
        return rss_bytes(self._process.pid)


def _tcp(text: str) -> TcpAddress:
    address = parse_address(text)
    assert isinstance(address, TcpAddress)
    return address


def hold_tunnel(order: dict[str, Any]) -> None:
    """Hold both ends of a tunnel until standard input ends."""
    ca = Path(order["ca"]) if order["ca"] else None
    services = {name: parse_address(text) for name, text in order["services"].items()}
    destination = TunnelConfig(
        name="destination",
        mode=Mode.DESTINATION,
        endpoint=Endpoint.parse(order["endpoint"]),
        access_token=order["destination_token"],
        services=services,
        bandwidth_bytes_per_second=order["bandwidth"],
        limits=dataclasses.replace(FAULT_LIMITS, **order["limits"]),
    )
    source = dataclasses.replace(
        destination,
        name="source",
        mode=Mode.SOURCE,
        access_token=order["source_token"],
        services={name: TcpAddress("127.0.0.1", 0) for name in services},
    )
    with TunnelRuntime(ssl_context=make_ssl_context(ca) if ca else None) as runtime:
        ends = [runtime.open_tunnel(destination), runtime.open_tunnel(source)]
        for end in ends:
            end.wait_for(TunnelState.CONNECTED, START_SECONDS)
        bound = {name: str(ends[1].wait_listening(name, START_SECONDS)) for name in services}
        print(json.dumps(bound), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    hold_tunnel(json.loads(sys.stdin.readline()))
