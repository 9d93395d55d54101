"""A Ray cluster of several nodes on this machine, and a fleet on it whose tunnels carry traffic.

Runs in a process of its own, in a network that has only loopback: see `ray_scenarios`. Owns the
nodes, the service with the other ends of the tunnels, and the commands.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
import ray
from ray.cluster_utils import Cluster

from tests.support.commands import PROGRAM
from tests.support.gateway import GatewayRig
from tests.support.rig import connect, echo
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import Mode
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.gateway.placement import SHARDS, owner_of
from tunnelfleet.runtime.ray_fleet import cluster
from tunnelfleet.runtime.ray_fleet.keeper import group_names
from tunnelfleet.runtime.service.events import ServiceEventKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
COMMAND_SECONDS = 240.0
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "ray_actors.py"
LONG_WAIT_SECONDS = 6 * WAIT_SECONDS


class RayWorld:
    """A cluster and a fleet that is not up yet; a context manager.

    Args:
        folder: for files and Ray's own.
        tunnels: how many.
        nodes: how many, besides the head, on which groups may be too.
        connect_rate: of the fleet.
        lease_seconds: of the groups.
    """

    def __init__(
        self,
        folder: Path,
        tunnels: int = 6,
        nodes: int = 1,
        connect_rate: int = 100,
        lease_seconds: float = 10.0,
    ) -> None:
        self._folder = folder
        self._count = tunnels
        self._nodes = nodes
        self._connect_rate = connect_rate
        self._lease_seconds = lease_seconds
        self._stack = contextlib.ExitStack()
        self.cluster: Cluster
        self.rig: GatewayRig

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.cluster = Cluster(
                initialize_head=True, head_node_args={"include_dashboard": False, **NODE}
            )
            stack.callback(self.cluster.shutdown)
            for _ in range(self._nodes):
                self.add_node()
            ray.init(address=self.cluster.address, namespace="tunnelfleet", log_to_driver=False)
            stack.callback(ray.shutdown)
            for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
                os.environ[name] = str(self._folder / "state")
            self.rig = stack.enter_context(GatewayRig(self._folder, Mode.DESTINATION))
            self.rig.connect_rate = self._connect_rate
            self.rig.drain_seconds = 5.0
            self.rig.gateway = f'placement = "ray"\nlease_seconds = {self._lease_seconds}'
            self._target = self.rig.echo_address()
            for number in range(self._count):
                self.add_tunnel(f"t{number:03}")
            self.rig.write()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def add_node(self) -> None:
        """Start another node."""
        self.cluster.add_node(**NODE)

    def add_tunnel(self, name: str) -> None:
        """Add a tunnel to the files; `rig.write` writes them."""
        self.rig.add(name, services=f'{{ SSH = "{self._target}" }}')

    # -- commands

    def run(self, *arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `tunnelfleet ray ...` to its end."""
        done = subprocess.run(
            [*PROGRAM, "ray", *map(str, arguments), "--address", self.cluster.address],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == status, f"{arguments}: {done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def refused(self, environment: Mapping[str, str]) -> str:
        """What `ray ls` says in another environment, where it must come to nothing."""
        done = subprocess.run(
            [*PROGRAM, "ray", "ls", "--address", self.cluster.address],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return f"{done.returncode} {done.stdout}{done.stderr}"

    def call(self, *arguments: str | float | Path) -> Any:
        """Run a command in this process, which is a driver; what it prints as JSON."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            status = main(["ray", *map(str, arguments), "--address", self.cluster.address])
        assert status == 0, f"{arguments}: {status}: {output.getvalue()}"
        return json.loads(output.getvalue())

    def up(self, *options: str) -> dict[str, Any]:
        """Write the files, and say `ray up`."""
        self.rig.write()
        found: dict[str, Any] = self.call(
            "up", self.rig.folder, "--json", "--wait", LONG_WAIT_SECONDS, *options
        )
        return found

    def ls(self, *options: str) -> list[dict[str, Any]]:
        """What `ray ls --json` says."""
        found: list[dict[str, Any]] = self.call("ls", "--json", *options)
        return found

    def settled(self, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Wait until so many groups have their shares, and each tunnel is connected.

        Returns:
            The tunnels and the groups, as they were seen then.
        """
        names = group_names(count)
        shares = Counter(owner_of(shard, names) for shard in range(SHARDS))
        seen: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = []

        def is_settled() -> bool:
            tunnels, groups = self.ls(), self.ls("--fleet")
            seen[:] = [(tunnels, groups)]
            return (
                {each["group"]: each["shards"] for each in groups} == shares
                and all(each["state"] == "running" for each in groups)
                and all(each["state"] == "connected" for each in tunnels)
            )

        eventually(is_settled, f"{count} groups have their shares", LONG_WAIT_SECONDS, 0.1)
        return seen[0]

    @staticmethod
    def scrape(targets: Sequence[dict[str, Any]]) -> list[str]:
        """The metrics of each target."""
        found = []
        for each in targets:
            (address,) = each["targets"]
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=WAIT_SECONDS) as page:
                found.append(page.read().decode())
        return found

    def file_with(self, line: str) -> Path:
        """The files of the fleet with another line of `[gateway]`, in a folder of their own."""
        folder = self._folder / "other.d"
        shutil.copytree(self.rig.folder, folder)
        path = folder / "fleet.toml"
        path.write_text(path.read_text().replace("[gateway]", f"[gateway]\n{line}", 1))
        return folder

    def example(self) -> str:
        """What examples/ray_actors.py prints on this cluster."""
        done = subprocess.run(
            [sys.executable, str(EXAMPLE)],
            env={**os.environ, "RAY_ADDRESS": self.cluster.address},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    # -- what the service has seen

    def connects(self, since: float = 0.0) -> Counter[str]:
        """How often each tunnel's end of the fleet has connected since then."""
        return Counter(
            each.tunnel
            for each in self.rig.rig.service_events.all()
            if each.kind is ServiceEventKind.CLIENT_CONNECTED
            and each.mode is Mode.DESTINATION
            and each.time_seconds >= since
        )

    def away_seconds(self, name: str, since: float) -> float:
        """For how long the fleet's end of a tunnel was away, from its first end since then."""
        found = [
            each
            for each in self.rig.rig.service_events.all()
            if each.tunnel == name and each.mode is Mode.DESTINATION and each.time_seconds >= since
        ]
        gone = [
            each.time_seconds for each in found if each.kind is ServiceEventKind.CLIENT_DISCONNECTED
        ]
        back = [
            each.time_seconds for each in found if each.kind is ServiceEventKind.CLIENT_CONNECTED
        ]
        return back[0] - gone[0]

    def replaced(self) -> int:
        """How often one end has thrown another out of its tunnel."""
        return sum(
            each.kind is ServiceEventKind.CLIENT_REPLACED
            for each in self.rig.rig.service_events.all()
        )

    def wait_connects(self, names: Sequence[str], since: float) -> float:
        """Wait until each of these has connected since then; returns when the last one had."""
        eventually(
            lambda: set(names) <= set(self.connects(since)),
            f"{names} connected again",
            LONG_WAIT_SECONDS,
            0.02,
        )
        firsts: dict[str, float] = {}
        for each in self.rig.rig.service_events.all():
            is_one = each.kind is ServiceEventKind.CLIENT_CONNECTED
            if is_one and each.mode is Mode.DESTINATION and each.time_seconds >= since:
                firsts.setdefault(each.tunnel, each.time_seconds)
        return max(firsts[name] for name in names)

    def carry(self, names: Sequence[str] = ()) -> None:
        """Send something through tunnels, all of them without names."""
        for name in names or list(self.rig.entries):
            eventually(lambda name=name: self._carries(name), f"{name} carries", LONG_WAIT_SECONDS)

    def _carries(self, name: str) -> bool:
        address = self.rig.others[name].wait_listening("SSH", WAIT_SECONDS)
        try:
            with connect(address) as client:
                return echo(client, b"hello") == b"hello"
        except (OSError, AssertionError):
            return False

    # -- what happens to nodes

    def other_node(self) -> str:
        """The id of the node that is not the head."""
        (found,) = (each.id for each in cluster.nodes() if each.id != cluster.head())
        return found

    def processes(self) -> list[psutil.Process]:
        """The raylet of the node that is not the head, and all its workers."""
        (node,) = self.cluster.worker_nodes
        (raylet,) = node.all_processes["raylet"]
        found = psutil.Process(raylet.process.pid)
        return [found, *found.children(recursive=True)]

    @staticmethod
    def worker(kind: str) -> psutil.Process:
        """The process of the only actor of a class."""
        found = []
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if " ".join(each.cmdline()).startswith(f"ray::{kind}"):
                    found.append(each)
        (only,) = found
        return only

    @staticmethod
    def send(processes: Sequence[psutil.Process], number: signal.Signals) -> float:
        """Send processes a signal; returns when."""
        at = time.time()
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        return at

    def of_node(self, node_id: str) -> list[str]:
        """The tunnels of the groups on a node."""
        groups = {each["group"] for each in self.ls("--fleet") if each["node"] == node_id}
        return [each["name"] for each in self.ls() if each["group"] in groups]

    def logs(self) -> str:
        """All that Ray has written about this cluster."""
        folder = self._folder / "ray"
        return "\n".join(
            path.read_text(errors="replace")
            for path in folder.rglob("*")
            if path.is_file() and path.suffix in (".log", ".out", ".err", ".txt")
        )
