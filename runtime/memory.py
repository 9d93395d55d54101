"""What a process with many tunnels does about its memory: Python's collector, and C's allocator.

It is for whoever owns the process, as `tunnelfleet up`, its workers and `tunnelfleet service` do; a
library leaves it alone.
"""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Final


def freeze_garbage() -> None:
    """Put what is alive out of the garbage collector's sight: the fleet is up and stays.

    A full turn over thousands of tunnels stops every thread for half a second otherwise.
    """
    gc.collect()
    gc.freeze()


GROWTH_SHARE: Final = 0.1
GROWTH_TUNNELS: Final = 50
"""By so many, and by that share, a fleet has to grow until it is frozen again."""


class GrowingFleet:
    """Keeps the garbage collector's full turns short while thousands of tunnels start.

    What is alive is put out of its sight whenever the fleet has grown by `GROWTH_SHARE`, so the
    next full turn looks at what came since. It happens some dozens of times at the most: cyclic
    garbage that is frozen with the rest is never freed.
    """

    def __init__(self) -> None:
        self._frozen = 0

    def note(self, tunnels: int) -> bool:
        """The fleet has so many tunnels by now; return whether it was frozen."""
        if tunnels < self._frozen * (1 + GROWTH_SHARE) + GROWTH_TUNNELS:
            return False
        self._frozen = tunnels
        # The two young generations take a moment, and what of them is garbage is freed.
        gc.collect(1)
        gc.freeze()
        return True


MALLOC_ARENAS: Final = 1
"""How many arenas glibc's malloc may have; by itself it takes up to eight for each core."""
ARENAS_VARIABLE: Final = "MALLOC_ARENA_MAX"
"""The environment variable by which an operator decides: see mallopt(3)."""
_M_ARENA_MAX: Final = -8


def limit_arenas() -> None:
    """Have all threads of the process share one heap of C's allocator, unless the operator decides.

    Each thread has one of its own otherwise, with holes in it that no other thread fills: where
    tunnels come and go, what the process holds grows for long above what is in use. Python runs
    one thread at a time, so they wait for each other rarely. Does nothing where malloc is not
    glibc's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and ARENAS_VARIABLE not in os.environ:
        mallopt(_M_ARENA_MAX, MALLOC_ARENAS)
