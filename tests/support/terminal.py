"""A program in a terminal of its own: its size, what is typed, and what is on the screen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

WAIT_SECONDS = 120.0
_CONTROLLED = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
"""Ctrl-C reaches a program only by the terminal that controls it."""
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\([A-Z]|\][^\x07]*\x07|[=>])")
_HOME = "\x1b[H"


def unstyled(text: str) -> str:
    """The text without what colors it or moves the cursor."""
    return _ESCAPE.sub("", text)


class Terminal:
    """A running program and the terminal that it is in."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._output = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="terminal")
        self._reader.start()

    @classmethod
    @contextlib.contextmanager
    def start(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        columns: int = 80,
        rows: int = 24,
    ) -> Iterator[Terminal]:
        """Run a program in a terminal of this size while the block runs."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-c", _CONTROLLED, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", **(env or {})},
        )
        os.close(theirs)
        terminal = cls(process, ours)
        try:
            yield terminal
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(WAIT_SECONDS)
            terminal._reader.join(WAIT_SECONDS)
            os.close(ours)

    def _read(self) -> None:
        while True:
            try:
                received = os.read(self._descriptor, 65_536)
            except OSError:
                # EIO: nobody has the other side any more.
                received = b""
            with self._changed:
                self._output += received.decode("utf-8", "replace")
                self._changed.notify_all()
            if not received:
                return

    @property
    def output(self) -> str:
        """All that it has written."""
        with self._changed:
            return self._output

    @property
    def lines(self) -> list[str]:
        """The same without color, line by line."""
        return unstyled(self.output).replace("\r", "").splitlines()

    @property
    def screen(self) -> list[str]:
        """What a program that draws from the top left corner has drawn last."""
        return unstyled(self.output.rpartition(_HOME)[2]).replace("\r", "").splitlines()

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._descriptor, text.encode())

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something holds of what it has written."""
        with self._changed:
            found = self._changed.wait_for(condition, WAIT_SECONDS)
        assert found, f"not within {WAIT_SECONDS:g} s: {what}; there is:\n{self.output!r}"

    def picture(self, is_it: Callable[[list[str]], bool], what: str) -> list[str]:
        """Wait until what was drawn last is so; returns that, while it is being drawn anew."""
        found: list[str] = []

        def look() -> bool:
            lines = self.screen
            if is_it(lines):
                found[:] = lines
            return bool(found)

        self.wait(look, what)
        return found

    def wait_end(self) -> int:
        """Wait for its end; returns the exit status."""
        status = self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        return status

    def modes(self) -> list[object]:
        """How the terminal is set."""
        return list(termios.tcgetattr(self._descriptor)[:4])
