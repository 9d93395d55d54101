"""A gateway in a process of its own, and in this one the service, the devices and their servers.

Owns the fleet file and what it says: tunnels come and go, and the gateway is told to read again.
Nothing here grows with time: what it measures beside the gateway is the service and the devices.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from tests.soak.heap import PROGRAM_TEXT, heap, heap_of
from tests.soak.samples import ProcessSampler, scraped
from tests.support.backends import Backends
from tests.support.doors import door_answer, http_request
from tests.support.rig import FAST_LIMITS, connect
from tests.support.waiting import eventually
from tunnelfleet.runtime import (
    Endpoint,
    Mode,
    TcpAddress,
    Tunnel,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
    UnixAddress,
)
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from pathlib import Path

WAIT_SECONDS = 300.0
SERVICE_ID = "ECHO"
CLIENT_SECONDS = 60.0


@dataclass(frozen=True)
class SoakTunnel:
    """One tunnel: its entry in the file, and its device."""

    name: str
    entry: str
    listens: UnixAddress
    device: Tunnel


class SoakFleet:
    """A context manager; the gateway runs from `start` on.

    Args:
        folder: for files and sockets, with a short path.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._service = TunnelService(tls=True)
        self._backends = Backends()
        self._runtime: TunnelRuntime | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._log = folder / "gateway.log"
        self._heap = folder / "heap.sock"
        self.tunnels: dict[str, SoakTunnel] = {}
        """Those that the file names, by name."""
        self.door: TcpAddress | None = None
        self._metrics = ""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._backends)
            stack.enter_context(self._service)
            self._runtime = stack.enter_context(
                TunnelRuntime(
                    connect_rate_per_second=1_000.0, ssl_context=self._service.ssl_context()
                )
            )
            self._target = self._backends.echo().address
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        try:
            if self._process is not None:
                self._process.kill()
                self._process.wait(WAIT_SECONDS)
        finally:
            self._stack.close()

    # -- tunnels

    def add(self, count: int) -> None:
        """Open tunnels at the service and their devices; the gateway learns of them by `write`."""
        assert self._runtime is not None
        for _ in range(count):
            self._made += 1
            name = f"press-{self._made}"
            tokens = self._service.open_tunnel(name, [SERVICE_ID])
            listens = UnixAddress(str(self._folder / f"{name}.sock"))
            entry = (
                f'[[tunnel]]\nname = "{name}"\naccess_token = "{tokens.source_token}"\n'
                f'services = {{ {SERVICE_ID} = "{listens}" }}\n'
            )
            device = TunnelConfig(
                name=name,
                mode=Mode.DESTINATION,
                endpoint=Endpoint.parse(self._service.endpoint),
                access_token=tokens.destination_token,
                services={SERVICE_ID: self._target},
                limits=FAST_LIMITS,
            )
            opened = self._runtime.open_tunnel(device)
            self.tunnels[name] = SoakTunnel(name, entry, listens, opened)

    def remove(self, names: list[str]) -> None:
        """Take tunnels out of the file, and close them and their devices."""
        assert self._runtime is not None
        gone = [self.tunnels.pop(name) for name in names]
        self.write()
        self.reload()
        for each in gone:
            self._runtime.close_tunnel(each.name)
            self._service.close_tunnel(each.name)

    def drop(self, name: str, mode: Mode) -> None:
        """Break a link at the service."""
        self._service.drop(name, mode)

    # -- the gateway

    def write(self) -> None:
        """Write the fleet file, aside and renamed."""
        head = f"""
[gateway]
metrics = "127.0.0.1:0"
door = "127.0.0.1:0"
connect_rate = 500
drain_seconds = 5

[defaults]
mode = "source"
endpoint = "{self._service.endpoint}"
ca = "{self._service.ca_path}"
restart = {{ min_seconds = 0.05, max_seconds = 0.5 }}

"""
        aside = self._folder / "fleet.new"
        aside.touch(mode=0o600)
        entries = "\n".join(each.entry for each in list(self.tunnels.values()))
        aside.write_text(head + entries)
        aside.rename(self._folder / "fleet.toml")

    def start(self) -> None:
        """Run `tunnelfleet up` with the file."""
        self.write()
        folder = str(self._folder)
        program = [sys.executable, "-c", PROGRAM_TEXT, str(self._heap)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*program, "up", str(self._folder / "fleet.toml"), "--json"],
                env={**os.environ, "STATE_DIRECTORY": folder, "RUNTIME_DIRECTORY": folder},
                stderr=log,
            )
        address = self._told("door")["address"]
        host, _, port = address.rpartition(":")
        self.door = TcpAddress(host, int(port))
        self._metrics = self._told("metrics")["url"]

    def _told(self, event: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def look() -> bool:
            lines = self._log.read_text().splitlines()
            objects = [json.loads(line) for line in lines if line.endswith("}")]
            found.extend(each for each in objects if each["event"] == event)
            return bool(found)

        eventually(look, f"{event} in {self._log}", WAIT_SECONDS, pause_seconds=0.1)
        return found[0]

    def reload(self) -> None:
        """Have the gateway read the file again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def scrape(self) -> dict[str, float]:
        """The gateway's metrics, added up by name."""
        return scraped(f"{self._metrics}/metrics")

    def end(self) -> int:
        """Stop the gateway as an operator does; return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(WAIT_SECONDS)

    # -- looking at it

    def samplers(self) -> list[ProcessSampler]:
        """Those of the gateway and of this process."""
        assert self._process is not None
        gateway, here = self._process.pid, os.getpid()

        def of_gateway() -> tuple[float, float]:
            page = self.scrape()
            return page["tunnelfleet_actors_alive"], page["tunnelfleet_turns_total"]

        def of_service() -> tuple[float, float]:
            assert self._runtime is not None
            stats = [each.stats for each in self._runtime.dispatchers]
            return float(sum(each.actors_alive for each in stats)), 0.0

        return [
            ProcessSampler("gateway", gateway, of_gateway, lambda: heap_of(self._heap)),
            ProcessSampler("service", here, of_service, heap),
        ]

    def is_whole(self) -> bool:
        """Whether each tunnel of the file is connected at both ends, and none beside them."""
        devices = [each.device.stats.state for each in self.tunnels.values()]
        if any(state is not TunnelState.CONNECTED for state in devices):
            return False
        seen = {each.name: each for each in self._service.tunnels()}
        if set(seen) != set(self.tunnels):
            return False
        return self.scrape().get("tunnelfleet_tunnels:connected") == len(self.tunnels)

    def client(self, name: str, *, through_door: bool) -> socket.socket:
        """Connect as an application does.

        Raises:
            OSError: the tunnel is away.
        """
        if not through_door:
            return connect(self.tunnels[name].listens, CLIENT_SECONDS)
        assert self.door is not None
        sock = connect(self.door, CLIENT_SECONDS)
        try:
            sock.sendall(http_request(f"{name}:{SERVICE_ID}"))
            status, text = door_answer(sock)
        except BaseException:
            sock.close()
            raise
        if status != 200:
            sock.close()
            raise ConnectionRefusedError(text)
        return sock
