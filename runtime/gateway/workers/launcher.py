"""Launcher: starts the processes of workers, and waits for their end.

Owns the threads on which that may block, and every process until it has ended.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

__all__ = ["Launcher", "Started"]

PROGRAM: Final = (sys.executable, "-m", "tunnelfleet.runtime.gateway.workers")
EXIT_SECONDS: Final = 5.0
"""Until a worker that has lost the gateway is killed."""
_NOT_INHERITED: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables by which a process speaks for the gateway to its service manager."""


@dataclass(frozen=True)
class Started:
    """A process, and the gateway's end of the way to it."""

    process: subprocess.Popen[bytes]
    sock: socket.socket


class Launcher:
    """Starts processes.

    Args:
        count: how many there are at once.
    """

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="tunnelfleet-worker")
        self._running: set[subprocess.Popen[bytes]] = set()

    def start_process(self) -> Future[Started]:
        """Start a worker on a thread that may wait.

        Raises:
            RuntimeError: all has ended.
        """
        return self._threads.submit(self._start)

    def _start(self) -> Started:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(  # noqa: S603 - this program, and a number
                    [*PROGRAM, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={k: v for k, v in os.environ.items() if k not in _NOT_INHERITED},
                )
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        self._running.add(process)
        return Started(process, ours)

    def wait_process(self, process: subprocess.Popen[bytes]) -> Future[int] | None:
        """Wait for the end of a worker that has lost the gateway, on a thread that may.

        A worker that does not end in time is killed.

        Returns:
            Its exit status; None if all has ended, and it was killed.
        """
        try:
            return self._threads.submit(self._wait, process)
        except RuntimeError:
            process.kill()
            return None

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            status = process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._running.discard(process)
        return status

    def close(self) -> None:
        """End what still runs, when the actors are over. Safe to call twice."""
        self._threads.shutdown(wait=True)
        for process in list(self._running):
            process.kill()
            self._wait(process)
