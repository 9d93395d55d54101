"""Waiting for what tells nobody when it happens: poll, with a deadline that fails the test."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_SECONDS = 30.0
"""Much longer than what works takes, on a machine that has ten times as much to do, too."""


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


def measured(
    measure: Callable[[], float], is_good: Callable[[float], bool], tries: int = 10
) -> float:
    """Measure until the result is good, and return the last one.

    For what other processes can only disturb: the machine is busy with them now and then, and not
    each time.
    """
    for _ in range(tries):
        result = measure()
        if is_good(result):
            break
    return result


async def until(true: Callable[[], bool], timeout_seconds: float = WAIT_SECONDS) -> None:
    """The same in a coroutine: the event loop runs on meanwhile."""
    async with asyncio.timeout(timeout_seconds):
        while not true():
            await asyncio.sleep(0.002)
