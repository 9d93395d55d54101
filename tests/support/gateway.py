"""The rig of the gateway's end-to-end tests: a service, real servers, and `tunnelfleet up`.

Tunnels come in pairs: the gateway runs the sources or the destinations of a folder of TOML files,
and a runtime of the test runs the other ends. The gateway's log is read as JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tests.support.commands import PROGRAM
from tests.support.rig import FAST_LIMITS, Rig
from tests.support.waiting import eventually
from tunnelfleet.runtime import Mode, TcpAddress, Tunnel, TunnelConfig, TunnelState

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

WAIT_SECONDS = 120.0


@dataclass
class Entry:
    """A tunnel of the gateway's files."""

    name: str
    token: str
    keys: dict[str, str] = field(default_factory=dict)

    def toml(self) -> str:
        """Its `[[tunnel]]`."""
        lines = [f"{key} = {value}" for key, value in self.keys.items()]
        return "\n".join(
            [
                "[[tunnel]]",
                f'name = "{self.name}"',
                f'access_token_file = "{self.name}.token"',
                *lines,
            ]
        )


class UpProcess:
    """A running `tunnelfleet up`, its log read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="gateway log")
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    @property
    def output(self) -> str:
        """All that it has logged."""
        with self._changed:
            return "\n".join(self._lines)

    def events(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """The lines of an event whose fields have these values."""
        with self._changed:
            objects = [json.loads(line) for line in self._lines if line.startswith("{")]
        return [
            each for each in objects if each["event"] == name and fields.items() <= each.items()
        ]

    def wait_event(self, name: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for the `count`th such line."""
        deadline = time.monotonic() + WAIT_SECONDS
        while len(found := self.events(name, **fields)) < count:
            with self._changed:
                left = deadline - time.monotonic()
                assert left > 0, f"no {name} number {count} with {fields} in:\n{self._lines}"
                self._changed.wait(min(left, 0.5))
        return found[count - 1]

    def listening(self, name: str, count: int = 1) -> TcpAddress:
        """Where a source listens, the `count`th time, once it does."""
        address = self.wait_event("listener_opened", count, tunnel=name)["address"]
        return TcpAddress("127.0.0.1", int(address.rpartition(":")[2]))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait_end(self) -> int:
        """Wait for its end; returns the exit status."""
        status = self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        return status

    def get(self, path: str) -> str:
        """A page at its metrics address."""
        url = self.wait_event("metrics")["url"]
        with urllib.request.urlopen(url + path, timeout=WAIT_SECONDS) as answer:
            text: str = answer.read().decode()
        return text

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait_end()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextlib.contextmanager
def up(
    path: Path, state: Path, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[UpProcess]:
    """Run `tunnelfleet up PATH` while the block runs."""
    process = subprocess.Popen(
        [*PROGRAM, "up", str(path), "--json", *options],
        env={
            **os.environ,
            "STATE_DIRECTORY": str(state),
            "RUNTIME_DIRECTORY": str(state),
            **(env or {}),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    running = UpProcess(process)
    try:
        yield running
    finally:
        running.kill()


class GatewayRig:
    """A service, a folder of files, and the other ends of its tunnels.

    Args:
        folder: for files, tokens and state.
        mode: of the gateway's ends.
        gateway: more lines of `[gateway]`.
    """

    def __init__(self, folder: Path, mode: Mode = Mode.SOURCE, gateway: str = "") -> None:
        self.rig = Rig(tls=True)
        self.folder = folder / "fleet.d"
        self.mode = mode
        self.gateway = gateway
        self.drain_seconds = WAIT_SECONDS
        self.connect_rate = 500
        self.metrics = "127.0.0.1:0"
        self.entries: dict[str, Entry] = {}
        self.others: dict[str, Tunnel] = {}
        self._state = folder / "state"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        self._stack.enter_context(self.rig)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def echo_address(self) -> TcpAddress:
        """Where a new server listens that sends back what it gets."""
        address = self.rig.backends.echo().address
        assert isinstance(address, TcpAddress)
        return address

    @property
    def other_mode(self) -> Mode:
        """Of the ends that the test runs."""
        return Mode.DESTINATION if self.mode is Mode.SOURCE else Mode.SOURCE

    def add(self, name: str, target: TcpAddress | None = None, **keys: str) -> Entry:
        """Open a tunnel at the service, and its other end; its entry is written by `write`.

        Args:
            name: of the tunnel.
            target: what a destination connects to; needed where the other end is one.
            keys: more keys of the entry, as TOML.
        """
        tokens = self.rig.service.open_tunnel(name, ["SSH"])
        mine, other = tokens.source_token, tokens.destination_token
        if self.mode is Mode.DESTINATION:
            mine, other = other, mine
        entry = self.entries[name] = Entry(name, mine, dict(keys))
        token = self.folder / f"{name}.token"
        token.touch(mode=0o600)
        token.write_text(mine)
        services = {"SSH": TcpAddress("127.0.0.1", 0)}
        if self.other_mode is Mode.DESTINATION:
            assert target is not None
            services = {"SSH": target}
        config = TunnelConfig(
            name=f"{name} other",
            mode=self.other_mode,
            endpoint=self.rig.endpoint,
            access_token=other,
            services=services,
            limits=FAST_LIMITS,
        )
        self.others[name] = self.rig.runtime.open_tunnel(config)
        return entry

    def write(self) -> None:
        """Write all entries, each file aside and renamed, as editors do."""
        head = [
            "[gateway]",
            f'metrics = "{self.metrics}"',
            f"connect_rate = {self.connect_rate}",
            f"drain_seconds = {self.drain_seconds}",
            self.gateway,
            "[defaults]",
            f'mode = "{self.mode.value}"',
            f'endpoint = "{self.rig.service.endpoint}"',
            f'ca = "{self.rig.service.ca_path}"',
            "restart = { min_seconds = 0.05, max_seconds = 0.5 }",
        ]
        if self.mode is Mode.SOURCE:
            head.append('services = { SSH = "127.0.0.1:0" }')
        parts = ["\n".join(head), *(entry.toml() for entry in self.entries.values())]
        aside = self.folder / ".fleet.new"
        aside.write_text("\n\n".join(parts))
        aside.rename(self.folder / "fleet.toml")

    @contextlib.contextmanager
    def up(self, *options: str, env: Mapping[str, str] | None = None) -> Iterator[UpProcess]:
        """Run the gateway while the block runs."""
        self.write()
        with up(self.folder, self._state, *options, env=env) as running:
            yield running

    def wait_connected(self, gateway: UpProcess, count: int = 1) -> None:
        """Wait until each tunnel of the files has connected `count` times."""
        for name in self.entries:
            gateway.wait_event("tunnel_state_changed", count, tunnel=name, state="connected")
            self.others[name].wait_for(TunnelState.CONNECTED, WAIT_SECONDS)


def seen_in_time(
    condition: Callable[[], bool], what: str, timeout_seconds: float = WAIT_SECONDS
) -> None:
    """Wait until something holds that takes a moment to look at."""
    eventually(condition, what, timeout_seconds, pause_seconds=0.2)
