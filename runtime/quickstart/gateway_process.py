"""The gateway of a quickstart: `tunnelfleet up` as a process, its log read as it comes.

Owns the process and its end, the file that keeps the log, and what the log says of addresses.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime import TunnelState

from .owned import owned

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["GatewayProcess", "Try"]

STOP_SECONDS: Final = 15.0
"""More than the drain of the quickstart's fleet; then it is killed."""
MAX_ERROR_LINES: Final = 5


@dataclass(frozen=True, slots=True)
class Try:
    """A command to try, and what it shows."""

    command: str
    shows: str


class GatewayProcess:
    """Runs `tunnelfleet up`. Use it as a context manager.

    Args:
        fleet: its file.
        folder: for its log, its socket and its state.
    """

    def __init__(self, fleet: Path, folder: Path) -> None:
        self._fleet = fleet
        self._folder = folder
        self._changed = threading.Condition()
        self._listening: dict[tuple[str, str], str] = {}
        self._connected: set[str] = set()
        self._said: list[str] = []
        self._has_ended = False
        self.url = ""
        """Of its pages, without a path."""

    def __enter__(self) -> Self:
        environ = {
            **os.environ,
            "RUNTIME_DIRECTORY": str(self._folder),
            "STATE_DIRECTORY": str(self._folder),
        }
        # A group of its own: Ctrl-C in the terminal is for whoever started this.
        self._process = subprocess.Popen(  # noqa: S603 - this very program
            owned(
                [sys.executable, "-m", "tunnelfleet", "up", "--watch", "--json", str(self._fleet)]
            ),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="log of the gateway")
        self._reader.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, None)):
            if self._process.poll() is None:
                self._process.send_signal(number)
            try:
                self._process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                continue
        self._reader.join(STOP_SECONDS)

    def wait(self, seconds: float) -> bool:
        """Wait for its end; return whether it has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self._has_ended, seconds)

    def wait_ready(
        self, wanted: set[tuple[str, str]], seconds: float
    ) -> dict[tuple[str, str], str]:
        """Wait until it listens for these services of these tunnels, which are connected.

        Returns:
            The addresses.

        Raises:
            TunnelError: it has ended, or is not ready in time.
        """
        names = {name for name, _service_id in wanted}

        def is_ready() -> bool:
            return bool(self.url) and wanted <= self._listening.keys() and names <= self._connected

        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or is_ready(), seconds)
            if is_ready() and not self._has_ended:
                return dict(self._listening)
            said = "; ".join(self._said[-MAX_ERROR_LINES:])
        raise TunnelError(f"the gateway does not come up: {said or 'it says nothing'}")

    def command(self, *arguments: str, by_path: bool = False) -> str:
        """A command of this very program that asks this gateway, for a shell.

        Args:
            arguments: of the program, without the gateway.
            by_path: name the program by its path also where PATH leads to it.
        """
        beside = Path(sys.executable).with_name("tunnelfleet")
        words = [str(beside)] if beside.exists() else [sys.executable, "-m", "tunnelfleet"]
        found = shutil.which("tunnelfleet")
        if found is not None and Path(found) == beside and not by_path:
            words = ["tunnelfleet"]
        gateway = f"unix:{self._folder / 'admin.sock'}"
        return shlex.join([*words, *arguments, "--gateway", gateway])

    def tries(self) -> list[Try]:
        """Commands that show what it does."""
        return [Try(self.command("ls"), "its tunnels; also: top, show press-1, connections, audit")]

    def _read(self) -> None:
        assert self._process.stderr is not None
        with (self._folder / "gateway.log").open("wb") as log, self._process.stderr as lines:
            for line in lines:
                log.write(line)
                log.flush()
                try:
                    found = json.loads(line)
                except ValueError:
                    found = {"event": "log", "message": line.decode(errors="replace").strip()}
                self._take(found)
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _take(self, found: dict[str, Any]) -> None:
        with self._changed:
            match found.get("event"):
                case "metrics":
                    self.url = found["url"]
                case "listener_opened":
                    key = found["tunnel"], found["service_id"]
                    self._listening[key] = found["address"]
                case "tunnel_state_changed" if found["state"] == TunnelState.CONNECTED:
                    self._connected.add(found["tunnel"])
                case _:
                    self._said = [*self._said[-MAX_ERROR_LINES:], str(found.get("message", ""))]
            self._changed.notify_all()
