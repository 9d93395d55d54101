"""Waiting for what tells nobody when it happens: poll, with a deadline that fails the test."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_SECONDS = 30.0
"""Much longer than anything takes that works, also where the machine has ten times as much to do."""


def eventually(
    true: Callable[[], bool],
    what: str = "condition",
    timeout_seconds: float = WAIT_SECONDS,
    pause_seconds: float = 0.002,
) -> None:
    """Wait until something is so; fail when it is not so in time."""
    deadline, pause = time.monotonic() + timeout_seconds, threading.Event()
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_seconds:g} s: {what}"
        pause.wait(pause_seconds)


async def until(true: Callable[[], bool], timeout_seconds: float = WAIT_SECONDS) -> None:
    """The same in a coroutine: the event loop runs on meanwhile."""
    async with asyncio.timeout(timeout_seconds):
        while not true():
            await asyncio.sleep(0.002)
