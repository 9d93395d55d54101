"""Which event loop a dispatcher runs. Must not know dispatchers."""

from __future__ import annotations

import asyncio
import os

LOOP_DESCRIPTORS = 8
"""What a loop opens for itself, with some room: uvloop's has six."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new uvloop event loop if uvloop is installed, else asyncio's own.

    Raises:
        OSError: the process has too few file descriptors left for one.
    """
    _require_descriptors()
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _require_descriptors() -> None:
    """Raise OSError now: uvloop aborts the process when it gets only some of those it needs."""
    opened: list[int] = []
    try:
        for _ in range(LOOP_DESCRIPTORS):
            # One by one, so that those before a failure are closed.
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401
    finally:
        for descriptor in opened:
            os.close(descriptor)
