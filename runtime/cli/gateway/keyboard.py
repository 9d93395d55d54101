"""Waiting for a key, a signal or the time, in a terminal that is put back as it was.

Owns how a terminal is set while single keys are read, and what it sends for them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import Final

from tunnelfleet.runtime.cli.errors import STOP_SIGNALS, deliver_signals
from tunnelfleet.runtime.cli.output import SIGNAL_SECONDS

_ESCAPES: Final = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[5~": "pageup",
    "\x1b[6~": "pagedown",
    "\x1b[H": "home",
    "\x1b[1~": "home",
    "\x1b[F": "end",
    "\x1b[4~": "end",
}


def read_keys(typed: str) -> list[str]:
    """Return the keys in what a terminal sent; sequences that mean nothing here are left out."""
    keys: list[str] = []
    while typed:
        found = next((each for each in _ESCAPES if typed.startswith(each)), None)
        if found is not None:
            keys.append(_ESCAPES[found])
            typed = typed[len(found) :]
        elif typed.startswith("\x1b"):
            # The rest of a sequence that is not known: up to its last byte, a letter or a tilde.
            length = next(
                (at for at, c in enumerate(typed[2:], 3) if c.isalpha() or c == "~"), len(typed)
            )
            typed = typed[length:]
        else:
            keys.append(typed[0])
            typed = typed[1:]
    return keys


KEY_BYTES: Final = 64


class Waiting:
    """Waits for keys, for a signal, or for the time; puts the terminal back as it was."""

    def __init__(self, *, reads_keys: bool) -> None:
        self._reads_keys = reads_keys and sys.stdin is not None and sys.stdin.isatty()
        self._stack = contextlib.ExitStack()
        self.is_over = False

    def __enter__(self) -> Waiting:
        self._wakes, self._wake = os.pipe()
        self._stack.callback(os.close, self._wakes)
        self._stack.callback(os.close, self._wake)
        self._stack.enter_context(
            deliver_signals([*STOP_SIGNALS, signal.SIGWINCH], self._on_signal)
        )
        if self._reads_keys:
            self._stack.enter_context(_single_keys(sys.stdin.fileno()))
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def _on_signal(self, number: signal.Signals) -> None:
        if number in STOP_SIGNALS:
            if self.is_over:
                # The gateway holds up its answer; whoever asks twice does not wait for it.
                raise KeyboardInterrupt
            self.is_over = True
        os.write(self._wake, b"x")

    def keys(self, seconds: float) -> list[str]:
        """Wait; returns the keys that were pressed."""
        watched = [self._wakes, *([sys.stdin.fileno()] if self._reads_keys else [])]
        ends_at = time.monotonic() + seconds
        ready: list[int] = []
        while not self.is_over and not ready:
            left = ends_at - time.monotonic()
            # A signal that comes just before the wait wakes nobody.
            ready, _, _ = select.select(watched, [], [], max(0.0, min(left, SIGNAL_SECONDS)))
            if left <= 0:
                break
        if self.is_over:
            return []
        if self._wakes in ready:
            os.read(self._wakes, KEY_BYTES)
        if not self._reads_keys or sys.stdin.fileno() not in ready:
            return []
        typed = os.read(sys.stdin.fileno(), KEY_BYTES)
        if not typed:
            # The terminal has gone.
            self.is_over = True
        return read_keys(typed.decode("utf-8", "replace"))


@contextlib.contextmanager
def _single_keys(descriptor: int) -> Iterator[None]:
    """A terminal that gives each key at once and does not show it."""
    import termios  # noqa: PLC0415
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
