"""How many may begin now, so that the other side never sees more than the rate in any second.

Pure: the time is an argument.

A permit is one thing, its arrival at the service another: between the two are dials, threads and
networks, which bring permits of different moments together. So what is counted is not when permits
were given but where attempts may be. One that is under way may arrive at any moment; one that is
over arrived before its end. If those under way and those that were over less than a second ago are
fewer than the rate, one more cannot make any second hold more than the rate.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

LATE_SECONDS: Final = 3.0
"""An attempt that takes longer counts as over: whoever says nothing must not slow down others."""
MARGIN_SECONDS: Final = 0.05
"""Added to the second: the other side may look at its clock a little after it has answered."""
MAX_PER_SECOND: Final = 1_000_000

Key = TypeVar("Key")


class RateWindow(Generic[Key]):
    """Counts those under way, and those that have ended in the last second.

    Args:
        rate_per_second: more than 0. Of a rate of at least 1 the whole part counts; below that it
            is one in `1 / rate` seconds.
    """

    def __init__(self, rate_per_second: float) -> None:
        self.change_rate(rate_per_second)
        self._under_way: dict[Key, float] = {}
        """Since when, in the order of their begin."""
        self._over: deque[float] = deque()
        """When those that count still have ended, in order."""

    def change_rate(self, rate_per_second: float) -> None:
        """Keep to another rate from now on; what counts goes on to count."""
        self._most = max(1, int(min(rate_per_second, MAX_PER_SECOND)))
        self._window_seconds = max(1.0, 1.0 / rate_per_second) + MARGIN_SECONDS

    def __len__(self) -> int:
        """How many count, as of the last call that had the time."""
        return len(self._under_way) + len(self._over)

    def fill(self, now: float) -> None:
        """Count as many as may be: nobody knows what was under way before."""
        self._over.extend([now] * (self._most - len(self)))

    def begin(self, key: Key, now: float) -> None:
        """`key` is under way."""
        self._under_way[key] = now

    def end(self, key: Key, now: float) -> None:
        """It is no more. Harmless for one that counts as over already."""
        if self._under_way.pop(key, None) is not None:
            self._over.append(now)

    def wait_seconds(self, now: float) -> float:
        """Return how long to wait until one more may begin; 0 if it may now."""
        self._forget(now)
        if len(self) < self._most:
            return 0.0
        waits = []
        if self._over:
            waits.append(self._over[0] + self._window_seconds - now)
        if self._under_way:
            began = next(iter(self._under_way.values()))
            waits.append(began + LATE_SECONDS + self._window_seconds - now)
        return max(min(waits), 0.001)

    def _forget(self, now: float) -> None:
        while self._under_way:
            key, began = next(iter(self._under_way.items()))
            if now - began < LATE_SECONDS:
                break
            # From now on, though it may have been late for longer: nobody looked.
            self.end(key, now)
        while self._over and now - self._over[0] >= self._window_seconds:
            self._over.popleft()
