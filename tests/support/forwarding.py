"""Gateways that forward to each other: their authority, and real ones that share a PostgreSQL.

The certificates are made by the commands of docs/fleet.md, so that those are tried by each test.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.commands import PROGRAM
from tests.support.gateway import GatewayRig, UpProcess
from tests.support.postgres import PostgresServer
from tests.support.programs import require_program
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import Mode, TcpAddress, TunnelState
from tunnelfleet.runtime.gateway.api.address import GatewayAddress
from tunnelfleet.runtime.gateway.api.client import FleetPage, GatewayClient
from tunnelfleet.runtime.gateway.placement import owner_of, shard_of

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCS = Path(__file__).parents[2] / "docs" / "fleet.md"
ONLY_DOOR = '{ SSH = "door" }'


def shell_block(mark: str) -> str:
    """The block of commands in docs/fleet.md that has a word."""
    blocks: list[str] = re.findall(r"^```sh\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [each for each in blocks if mark in each]
    return found


class Authority:
    """The authority of a fleet, and what it has issued.

    Args:
        folder: for the files; it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        require_program("openssl")
        self._run(shell_block("req -x509"))

    def issue(self, name: str, days: int = 825) -> None:
        """Issue a certificate to a gateway."""
        commands = shell_block("subjectAltName").replace("gw-1", name)
        self._run(commands.replace("-days 825", f"-days {days}"))

    def _run(self, commands: str) -> None:
        subprocess.run(
            ["sh", "-euc", commands], cwd=self.folder, check=True, capture_output=True, text=True
        )

    def keys(self, name: str) -> dict[str, str]:
        """The keys of `[gateway]` for a gateway."""
        return {
            "fleet_cert": str(self.folder / f"{name}.pem"),
            "fleet_key": str(self.folder / f"{name}.key"),
            "fleet_ca": str(self.folder / "fleet-ca.pem"),
        }


class ForwardingGateway(UpProcess):
    """A gateway of the fleet, with a front door."""

    def __init__(self, name: str, folder: Path, process: subprocess.Popen[str]) -> None:
        self.name = name
        self.folder = folder
        super().__init__(process)

    @property
    def door(self) -> str:
        """Where its front door is."""
        address: str = self.wait_event("door")["address"]
        return address

    @property
    def fleet_address(self) -> TcpAddress:
        """Where other gateways reach it."""
        host, _, port = self.wait_event("forward")["address"].rpartition(":")
        return TcpAddress(host, int(port))

    @property
    def environment(self) -> dict[str, str]:
        """Of commands that ask it."""
        return {**os.environ, "RUNTIME_DIRECTORY": str(self.folder)}

    def run(
        self, *arguments: str, stdin: bytes | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command of tunnelfleet that asks it."""
        program = [sys.executable, "-m", "tunnelfleet"] if arguments[0] == "connect" else PROGRAM
        return subprocess.run(
            [*program, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=WAIT_SECONDS,
            check=check,
        )

    def json(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def fleet(self) -> FleetPage:
        """The gateways and the tunnels of the fleet, as it tells them."""
        with GatewayClient(GatewayAddress.parse(f"unix:{self.folder}/admin.sock")) as client:
            return client.fleet()

    def metric(self, name: str, **labels: str) -> float:
        """One of its metrics."""
        for line in self.get("/metrics").splitlines():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] == f"tunnelfleet_{name}" and all(
                f'{key}="{each}"' in head for key, each in labels.items()
            ):
                return float(value)
        return 0.0


class ForwardingFleet:
    """A fleet of sources that are reached by front doors alone; a context manager.

    Args:
        folder: for files and state.
        lease_seconds: of the gateways.
    """

    def __init__(self, folder: Path, lease_seconds: float = 3.0) -> None:
        self._folder = folder
        self._lease_seconds = lease_seconds
        self._stack = contextlib.ExitStack()
        self.more = ""
        """More lines of the files, which all gateways have."""
        self.rig: GatewayRig
        self.authority: Authority

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # First, as it skips where there is no server, and nothing may be open then.
            self.postgres = stack.enter_context(PostgresServer.running())
            self.authority = Authority(self._folder / "ca")
            self.rig = stack.enter_context(GatewayRig(self._folder, Mode.SOURCE))
            self.rig.drain_seconds = 0.0
            secret = self._folder / "secret"
            secret.touch(mode=0o600)
            secret.write_text("s" * 40)
            self.rig.gateway = "\n".join(
                [
                    f'state = "{self.postgres.url(self.postgres.new_database())}"',
                    f'client_token_secret_file = "{secret}"',
                    f"lease_seconds = {self._lease_seconds}",
                    'placement = "postgres"',
                    'door = "127.0.0.1:0"',
                ]
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def add(self, name: str, target: TcpAddress | None = None) -> None:
        """Add a tunnel to the files that all gateways have."""
        self.rig.add(name, target or self.rig.echo_address(), services=ONLY_DOOR)

    def add_owned_by(self, owner: str, members: Sequence[str], count: int = 1) -> list[str]:
        """Add tunnels that will be this gateway's, of so many."""
        names = self.names_of(owner, members, count)
        for name in names:
            self.add(name)
        return names

    def names_of(
        self, owner: str, members: Sequence[str], count: int, word: str = "t"
    ) -> list[str]:
        """Names of tunnels that will be this gateway's, of so many."""
        numbers = (f"{word}-{number}" for number in range(1_000))
        found = [each for each in numbers if owner_of(shard_of(each), members) == owner]
        return found[:count]

    def start(self, name: str, *, forwards: bool = True, **more: str) -> ForwardingGateway:
        """Start a gateway.

        Args:
            name: of the gateway.
            forwards: whether others may reach it.
            more: keys of `[gateway]` of it alone.
        """
        own = self._folder / name
        own.mkdir(exist_ok=True)
        keys = {"name": name}
        if forwards:
            if not (self.authority.folder / f"{name}.pem").exists():
                self.authority.issue(name)
            keys |= {"fleet_listen": "127.0.0.1:0", **self.authority.keys(name)}
        lines = [f'{key} = "{value}"' for key, value in {**keys, **more}.items()]
        (own / "own.toml").write_text("\n".join(["[gateway]", *lines, self.more]))
        self.rig.write()
        process = subprocess.Popen(
            [*PROGRAM, "up", str(self.rig.folder), str(own / "own.toml"), "--json"],
            env={**os.environ, "STATE_DIRECTORY": str(own), "RUNTIME_DIRECTORY": str(own)},
            stderr=subprocess.PIPE,
            text=True,
        )
        gateway = ForwardingGateway(name, own, process)
        self._stack.callback(gateway.kill)
        return gateway

    def wait_shared(self, *gateways: ForwardingGateway) -> None:
        """Wait until each tunnel of the files is connected at the gateway that should have it."""
        names = [each.name for each in gateways]
        for tunnel in self.rig.entries:
            owner = owner_of(shard_of(tunnel), names)
            (gateway,) = [each for each in gateways if each.name == owner]
            gateway.wait_event("tunnel_state_changed", tunnel=tunnel, state="connected")
        for other in self.rig.others.values():
            other.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        eventually(lambda: all(self._knows(each, names) for each in gateways), "all know all")

    @staticmethod
    def _knows(gateway: ForwardingGateway, names: Sequence[str]) -> bool:
        gateways = gateway.fleet().gateways
        return [each["name"] for each in gateways if each["reached"]] == sorted(names)
