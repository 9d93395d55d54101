"""The project's own commands, run as processes whose JSON lines a test waits for.

Owns starting them and reading what they write. Tokens are given to them in the environment.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from tests.support.programs import running_program

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping
    from pathlib import Path

WAIT_SECONDS = 120.0
MAIN = "import sys; from tunnelfleet.runtime.cli import main; sys.exit(main())"
PROGRAM = [sys.executable, "-c", MAIN]
"""Works from a source tree as well as where the console script is installed."""


class Command:
    """A running `tunnelfleet` command."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="command output")
        self._reader.start()

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, folder: Path, *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> Iterator[Command]:
        """Run `tunnelfleet ARGUMENTS` in `folder` while the block runs."""
        env = {"HTTPS_PROXY": "", "https_proxy": "", **(env or {})}
        with running_program([*PROGRAM, *arguments], env=env, folder=folder) as process:
            command = cls(process)
            try:
                yield command
            finally:
                process.terminate()
                command._reader.join(WAIT_SECONDS)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    @property
    def output(self) -> str:
        """All that it has written, stdout and stderr."""
        with self._changed:
            return "\n".join(self._lines)

    def _events(self, name: str) -> list[dict[str, Any]]:
        objects = [json.loads(line) for line in self._lines if line.startswith("{")]
        return [each for each in objects if each["event"] == name]

    def wait_event(self, name: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for the `count`th JSON line of an event whose fields have these values."""

        def found() -> list[dict[str, Any]]:
            return [each for each in self._events(name) if fields.items() <= each.items()]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= count, WAIT_SECONDS)
            matching = found()
        wanted = f"{name} number {count} with {fields}"
        assert len(matching) >= count, f"no {wanted} in:\n{self.output}"
        return matching[count - 1]

    def wait_end(self) -> int:
        """Wait until it has ended by itself; returns its exit status."""
        status = self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        return status

    def stop(self) -> int:
        """Ask it to end as a service manager does; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait_end()

    def listening_port(self, service_id: str) -> int:
        """Wait until it listens for a service; returns the port."""
        event = self.wait_event("listener_opened", service_id=service_id)
        return int(event["address"].rpartition(":")[2])
