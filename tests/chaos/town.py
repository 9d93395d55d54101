"""Real processes: a service, a gateway with workers, PostgreSQL as its store, and a broker.

Owns how each is started and found, and the destinations of this process behind them. What is done
to them is in `processes`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final, Self

from tests.support.commands import PROGRAM
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import PostgresServer
from tests.support.sockets import free_port
from tunnelfleet.proto import Endpoint, Mode
from tunnelfleet.runtime import TcpAddress, TunnelConfig, TunnelRuntime, make_ssl_context

from .outage import TUNNELS, WORKERS
from .tunnels import LIMITS

START_SECONDS: Final = 120.0


class Program:
    """A process that can be started again; its output goes into a file.

    Args:
        command: what is run.
        log: where its output goes.
        env: more of its environment.
    """

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self._command = command
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self.process is not None
        return self.process.pid

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log about an event."""
        lines = self.log.read_text(errors="replace").splitlines()
        # A line may be half written, and one of a process that was killed stays so.
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [each for each in found if isinstance(each, dict) and each.get("event") == name]

    def kill(self) -> None:
        """End it by SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """End it in good order; return its status."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(START_SECONDS)
        finally:
            self.kill()


def descriptors_of(pid: int) -> int:
    """How many a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


class Town:
    """All the processes, and the other ends; a context manager.

    Args:
        folder: for all files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.names = [f"press-{number}" for number in range(TUNNELS)]
        self.ports = [free_port() for _ in self.names]
        self.listeners = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in self.names]

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for listener in self.listeners:
                listener.setblocking(False)
                stack.callback(listener.close)
            self.postgres = stack.enter_context(PostgresServer.running())
            self._start_broker(stack)
            self._start_service(stack)
            self._start_destinations(stack)
            self._start_gateway(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def _start_broker(self, stack: contextlib.ExitStack) -> None:
        folder = self._folder / "mqtt"
        folder.mkdir()
        self.broker = Mosquitto(folder, keeps=True)
        self.broker.start()
        stack.callback(self.broker.stop)

    def _start_service(self, stack: contextlib.ExitStack) -> None:
        port, state = free_port(), self._folder / "service"
        state.mkdir()
        tunnels = [part for name in self.names for part in ("--tunnel", f"{name}=SSH")]
        listen = ["--listen", f"127.0.0.1:{port}", "--state", str(state)]
        command = [*PROGRAM, "service", "--json", *listen, *tunnels]
        self.service = Program(command, self._folder / "service.log")
        self.service.start()
        stack.callback(self.service.kill)
        deadline = time.monotonic() + START_SECONDS
        while not self.service.events("ready"):
            assert time.monotonic() < deadline, self.service.log.read_text()
            time.sleep(0.1)
        self.ready = self.service.events("ready")[0]

    def _start_destinations(self, stack: contextlib.ExitStack) -> None:
        context = make_ssl_context(Path(self.ready["ca"]))
        runtime = TunnelRuntime(connect_rate_per_second=1_000.0, ssl_context=context)
        self.runtime = stack.enter_context(runtime)
        for number, tunnel in enumerate(self.ready["tunnels"]):
            config = TunnelConfig(
                name=tunnel["name"],
                mode=Mode.DESTINATION,
                endpoint=Endpoint.parse(self.ready["endpoint"]),
                access_token=tunnel["destination_token"],
                services={"SSH": TcpAddress(*self.listeners[number].getsockname())},
                limits=LIMITS,
            )
            runtime.open_tunnel(config)

    def _start_gateway(self, stack: contextlib.ExitStack) -> None:
        files, own = self._folder / "fleet", self._folder / "gateway"
        files.mkdir()
        own.mkdir()
        lines = [
            "[gateway]",
            f'state = "{self.postgres.url(self.postgres.new_database())}"',
            f"workers = {WORKERS}",
            'metrics = "127.0.0.1:0"',
            "connect_rate = 500",
            "drain_seconds = 5",
            "[defaults]",
            'mode = "source"',
            f'endpoint = "{self.ready["endpoint"]}"',
            f'ca = "{self.ready["ca"]}"',
            "restart = { min_seconds = 0.05, max_seconds = 0.5 }",
            "limits = { offline_grace_seconds = 0.3, hello_seconds = 60.0 }",
            "[[notify]]",
            f'broker = "mqtt://127.0.0.1:{self.broker.port}"',
            'things = ["nobody"]',
            'services = { SSH = "127.0.0.1:9" }',
        ]
        for number, tunnel in enumerate(self.ready["tunnels"]):
            token = files / f"{tunnel['name']}.token"
            token.touch(mode=0o600)
            token.write_text(tunnel["source_token"])
            lines += [
                "[[tunnel]]",
                f'name = "{tunnel["name"]}"',
                f'access_token_file = "{token.name}"',
                f'services = {{ SSH = "127.0.0.1:{self.ports[number]}" }}',
            ]
        (files / "fleet.toml").write_text("\n".join([*lines, ""]))
        places = {"STATE_DIRECTORY": str(own), "RUNTIME_DIRECTORY": str(own)}
        command = [*PROGRAM, "up", str(files), "--json"]
        self.gateway = Program(command, self._folder / "gateway.log", places)
        self.gateway.start()
        stack.callback(self.gateway.kill)

    def worker_pid(self, worker: int) -> int:
        """The process of a worker; 0 if there is none."""
        found = [each["pid"] for each in self.gateway.events("worker") if each["worker"] == worker]
        pid = int(found[-1]) if found else 0
        return pid if pid and Path(f"/proc/{pid}").exists() else 0

    def pids(self) -> dict[str, int]:
        """The processes of ours by name."""
        workers = {f"worker {each}": self.worker_pid(each) for each in range(WORKERS)}
        return {"service": self.service.pid, "gateway": self.gateway.pid, **workers}
