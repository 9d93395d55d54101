"""Long work on one thread that leaves the interpreter to the others now and then.

Owns the pause. A thread that computes keeps the interpreter's lock for 5 ms before it must give it
up; a dispatcher that has mail would wait as long. So whoever sums over thousands of tunnels calls
`breathe` in its loop.
"""

from __future__ import annotations

import time
from typing import Final

__all__ = ["Breather"]

WORK_SECONDS: Final = 0.000_5
"""How long to work between two pauses."""
PAUSE_SECONDS: Final = 0.000_1
"""Long enough that a waiting thread takes over."""


class Breather:
    """Counts the time since the last pause."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def breathe(self) -> None:
        """Pause if it is time to."""
        if time.perf_counter() - self._since >= WORK_SECONDS:
            time.sleep(PAUSE_SECONDS)
            self._since = time.perf_counter()
