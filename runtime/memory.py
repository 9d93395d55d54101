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
KEPT_BYTES: Final = 2_097_152
"""So much that is free at the end of its heap glibc's malloc keeps; by itself 128 KiB."""
KEPT_VARIABLE: Final = "MALLOC_TRIM_THRESHOLD_"
MAPPED_BYTES: Final = 1_048_576
"""What is larger is mapped by itself, and goes back when it is freed."""
MAPPED_VARIABLE: Final = "MALLOC_MMAP_THRESHOLD_"
# Of malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def settle_malloc() -> None:
    """Set C's allocator for a process that carries bytes, unless the operator has set it.

    All threads share one heap. Each has one of its own otherwise, with holes in it that no other
    thread fills: where tunnels come and go, what the process holds grows for long above what is in
    use. Python runs one thread at a time, so they wait for each other rarely.

    What is free at the end of the heap stays there. A large message is freed when it has left, and
    where it was the last in the heap its pages go back to the kernel otherwise, which makes them
    anew for the next one: a third of the processor time of an end with TLS (docs/performance.md).

    Does nothing where malloc is not glibc's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for option, variable, value in (
        (_M_ARENA_MAX, ARENAS_VARIABLE, MALLOC_ARENAS),
        (_M_TRIM_THRESHOLD, KEPT_VARIABLE, KEPT_BYTES),
        (_M_MMAP_THRESHOLD, MAPPED_VARIABLE, MAPPED_BYTES),
    ):
        if variable not in os.environ:
            mallopt(option, value)
