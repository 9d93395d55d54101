"""Several `tunnelfleet up` that share a fleet in a PostgreSQL of their own, with tunnels over TLS.

The gateways run the destinations; the test's own runtime runs the sources, which listen at the same
places whoever has the other end. Owns the processes, what their logs tell of each tunnel and when,
and connections with traffic that notice when they are cut.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import os
import subprocess
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.support.commands import PROGRAM
from tests.support.gateway import GatewayRig, UpProcess
from tests.support.postgres import PostgresServer
from tests.support.rig import connect
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import Mode, TunnelState
from tunnelfleet.runtime.gateway.placement import owner_of, shard_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence
    from pathlib import Path

CONNECTED = "connected"
ENDED = "ended"
PULSE_SECONDS = 0.2


class Seen(NamedTuple):
    """A line of a log about a tunnel: when, in seconds of the Unix epoch, and its state."""

    at: float
    state: str


class FleetProcess(UpProcess):
    """A gateway; its log is taken in as it comes, for there is much of it."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self.tunnels: dict[str, list[Seen]] = defaultdict(list)
        super().__init__(process)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found = json.loads(line) if line.startswith("{") else {}
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                if found.get("event") == "tunnel_state_changed":
                    self.tunnels[found["tunnel"]].append(Seen(found["time"], found["state"]))
                elif found.get("event") == "tunnel_ended":
                    self.tunnels[found["tunnel"]].append(Seen(found["time"], ENDED))
                self._changed.notify_all()

    def seen(self, tunnel: str) -> list[Seen]:
        """All that was logged of a tunnel."""
        with self._changed:
            return list(self.tunnels.get(tunnel, ()))

    def has(self, tunnel: str) -> bool:
        """Whether the tunnel is connected here."""
        seen = self.seen(tunnel)
        return bool(seen) and seen[-1].state == CONNECTED

    def connects(self, tunnel: str, since: float = 0.0) -> int:
        """How often the tunnel has become connected here."""
        return sum(each.state == CONNECTED and each.at >= since for each in self.seen(tunnel))


class SharedFleet:
    """A fleet without gateways; a context manager.

    Args:
        folder: for files and state.
        tunnels: how many.
        lease_seconds: of the gateways.
        connect_rate: of all gateways together.
    """

    def __init__(
        self, folder: Path, tunnels: int, lease_seconds: float, connect_rate: int = 500
    ) -> None:
        self._folder = folder
        self._count = tunnels
        self._lines = [f"lease_seconds = {lease_seconds}", 'placement = "postgres"']
        self._stack = contextlib.ExitStack()
        self._connect_rate = connect_rate
        self.rig: GatewayRig
        self.names: list[str] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # First, as it skips where there is no server, and nothing may be open then.
            self.postgres = stack.enter_context(PostgresServer.running())
            self.database = self.postgres.new_database()
            self.rig = stack.enter_context(GatewayRig(self._folder, Mode.DESTINATION))
            self.rig.connect_rate = self._connect_rate
            secret = self._folder / "secret"
            secret.touch(mode=0o600)
            secret.write_text("s" * 40)
            self.rig.gateway = "\n".join(
                [
                    f'state = "{self.postgres.url(self.database)}"',
                    f'client_token_secret_file = "{secret}"',
                    *self._lines,
                ]
            )
            target = self.rig.echo_address()
            for number in range(self._count):
                name = f"t{number:03}"
                self.names.append(name)
                self.rig.add(name, services=f'{{ SSH = "{target}" }}')
            self.rig.write()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def start(self, name: str) -> FleetProcess:
        """Start a gateway."""
        own = self._folder / name
        own.mkdir(exist_ok=True)
        (own / "own.toml").write_text(f'[gateway]\nname = "{name}"\n')
        places = {"STATE_DIRECTORY": str(own), "RUNTIME_DIRECTORY": str(own)}
        process = subprocess.Popen(
            [*PROGRAM, "up", str(self.rig.folder), str(own / "own.toml"), "--json"],
            env={**os.environ, **places},
            stderr=subprocess.PIPE,
            text=True,
        )
        gateway = FleetProcess(name, process)
        self._stack.callback(gateway.kill)
        return gateway

    def is_shared_by(self, gateways: Sequence[FleetProcess]) -> bool:
        """Whether each tunnel is connected where it belongs, and at none of the others."""
        members = [each.name for each in gateways]
        for name in self.names:
            owner = owner_of(shard_of(name), members)
            if any(each.has(name) is not (each.name == owner) for each in gateways):
                return False
        return True

    def wait_shared_by(
        self, gateways: Sequence[FleetProcess], timeout_seconds: float = 12 * WAIT_SECONDS
    ) -> float:
        """Wait until they share all tunnels; returns when that was."""
        names = ", ".join(each.name for each in gateways)
        what = f"all tunnels at one of {names}"
        eventually(lambda: self.is_shared_by(gateways), what, timeout_seconds, 0.05)
        return time.time()

    def of(self, gateway: FleetProcess) -> list[str]:
        """The tunnels that are connected at a gateway."""
        return [name for name in self.names if gateway.has(name)]

    def connects(self, gateways: Iterable[FleetProcess], name: str, since: float) -> int:
        """How often a tunnel has become connected at any of them."""
        return sum(each.connects(name, since) for each in gateways)

    def away_seconds(self, old: FleetProcess, new: Sequence[FleetProcess], name: str) -> float:
        """From the end of a tunnel at one gateway until it was connected at another."""
        ended = [each.at for each in old.seen(name) if each.state in (ENDED, "stopped")][-2:][0]
        arrivals = sorted(
            each.at for gateway in new for each in gateway.seen(name) if each.state == CONNECTED
        )
        return arrivals[bisect.bisect_left(arrivals, ended)] - ended

    def client(self, name: str) -> socket.socket:
        """A connection through a tunnel to the echo server behind it."""
        return connect(self.rig.others[name].wait_listening("SSH", WAIT_SECONDS))

    def wait_sources(self) -> None:
        """Wait until the other ends are connected."""
        for tunnel in self.rig.others.values():
            tunnel.wait_for(TunnelState.CONNECTED, 6 * WAIT_SECONDS)


class Pulse:
    """Connections through tunnels, each with a little traffic all the time; a context manager.

    Args:
        fleet: whose.
        names: of the tunnels.
    """

    def __init__(self, fleet: SharedFleet, names: Iterable[str]) -> None:
        self._socks = {name: fleet.client(name) for name in names}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse")
        self.cut: dict[str, str] = {}
        """The tunnels whose connection was cut, and how."""
        self.beats = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        for sock in self._socks.values():
            sock.close()

    def _run(self) -> None:
        while not self._stop.wait(PULSE_SECONDS):
            for name, sock in self._socks.items():
                if name not in self.cut:
                    self._beat(name, sock)
            self.beats += 1

    def _beat(self, name: str, sock: socket.socket) -> None:
        try:
            sock.settimeout(WAIT_SECONDS)
            sock.sendall(b"beat")
            received = b""
            while len(received) < 4:
                data = sock.recv(4 - len(received))
                if not data:
                    self.cut[name] = "end of file"
                    return
                received += data
        except OSError as error:
            self.cut[name] = repr(error)

    def wait_beats(self, count: int = 2) -> None:
        """Wait until all that is not cut has carried something again."""
        until = self.beats + count
        eventually(lambda: self.beats >= until, timeout_seconds=6 * WAIT_SECONDS)
