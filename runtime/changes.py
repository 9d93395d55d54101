"""Waiting for something that happens to a tunnel.

Owns the count of what has happened and the rhythm in which waiters look. It must not know what
happened, nor what they wait for.

Lock: the condition guards the count. It is taken last and held for an addition or a wait; a
waiter's condition is looked at without it, so that it may take any other.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Changes"]

WAIT_SLICE_SECONDS = 0.5
WAIT_REST = 4
"""`wait_until` rests so many times as long as its condition took."""


class Changes:
    """What has happened so far, as a number. Any thread.

    Args:
        check: raises where nothing can happen any more.
    """

    def __init__(self, check: Callable[[], object] = lambda: None) -> None:
        self._check = check
        self._changed = threading.Condition()
        self._count = 0
        """Events so far; `_changed` guards it."""

    def note(self, _event: object = None) -> None:
        """Something has happened: let those who wait look again. Does not block."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        """Wait until `condition()` holds, looking at it whenever something has happened.

        Returns:
            Whether it held within the time; it is looked at once even if there is none.
        """
        self._check()
        looked = time.monotonic()
        deadline = looked + timeout_seconds
        seen = self._count
        while not condition():
            now = time.monotonic()
            if now >= deadline:
                return False
            # Over thousands of tunnels it takes a while, and each of them brings several events.
            time.sleep(min((now - looked) * WAIT_REST, deadline - now, WAIT_SLICE_SECONDS))
            slice_seconds = min(max(deadline - time.monotonic(), 0.0), WAIT_SLICE_SECONDS)
            with self._changed:
                if self._count == seen:
                    self._changed.wait(slice_seconds)
                seen = self._count
            looked = time.monotonic()
        return True
