"""What becomes of callbacks: of one tunnel's, and of all together.

Owns the counts. A lane's are written by whoever works on it; those of the whole come from many
threads and have a lock, which is taken once a slice of work and at each mishap, not at each event.
"""

from __future__ import annotations

import threading

__all__ = ["CallbackTotals", "LaneStats"]


class CallbackTotals:
    """The sums over all lanes of a runtime, those that have ended too. Any thread.

    Attributes:
        events: that callbacks have taken.
        errors: exceptions that callbacks raised.
        slow: callbacks that took longer than a second.
        dropped: events that found their lane full and could not be held back.
        stalls: times a tunnel's reading was held back because callbacks did not keep up.
    """

    __slots__ = ("_lock", "dropped", "errors", "events", "slow", "stalls")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.events = 0
        self.errors = 0
        self.slow = 0
        self.dropped = 0
        self.stalls = 0

    def add(self, name: str, number: int = 1) -> None:
        """Add to the attribute of that name."""
        with self._lock:
            setattr(self, name, getattr(self, name) + number)


class LaneStats:
    """What happened to a tunnel's callbacks. Written by the lane, read by anyone.

    Args:
        totals: what counts the same for all lanes.

    Attributes:
        events: that callbacks have taken.
        errors: exceptions that callbacks raised.
        slow: callbacks that took longer than a second.
        dropped: events that found the lane full and could not be held back.
        stalls: times the tunnel's reading was held back because callbacks did not keep up.
    """

    __slots__ = ("_totals", "dropped", "errors", "events", "slow", "stalls")

    def __init__(self, totals: CallbackTotals | None = None) -> None:
        self._totals = totals or CallbackTotals()
        self.events = 0
        self.errors = 0
        self.slow = 0
        self.dropped = 0
        self.stalls = 0

    def settle(self, events: int) -> None:
        """So many of the counted `events` are new to the totals."""
        self._totals.add("events", events)

    def count_error(self) -> None:
        """A callback raised."""
        self.errors += 1
        self._totals.add("errors")

    def count_slow(self) -> None:
        """A callback took long."""
        self.slow += 1
        self._totals.add("slow")

    def count_dropped(self) -> None:
        """An event was dropped."""
        self.dropped += 1
        self._totals.add("dropped")

    def count_stall(self) -> None:
        """The tunnel's reading is held back."""
        self.stalls += 1
        self._totals.add("stalls")
