"""How often OpenTunnel may be called: the rate, the limit of an hour, the pause after a throttling.

Owns the counting. Pure: the time is an argument.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

from tunnelfleet.actors.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnelfleet.runtime.gateway.config import DemandLimits


HOUR_SECONDS = 3_600.0
FIRST_PAUSE_SECONDS = 1.0
LAST_PAUSE_SECONDS = 30.0
"""Of all calls after one was throttled: it doubles from the first to the last."""


class OpenBudget:
    """What may be spent.

    Args:
        limits: the rate and the limit of an hour.
        now: the time.
    """

    def __init__(self, limits: DemandLimits, now: float) -> None:
        self._limits = limits
        self._bucket = TokenBucket(limits.opens_per_second, 1.0, now)
        self._opens: deque[float] = deque()
        self._paused_until = now
        self._pause_seconds = FIRST_PAUSE_SECONDS

    def replace_limits(self, limits: DemandLimits, now: float) -> None:
        """Go by others from now on; what was spent stays spent."""
        if limits.opens_per_second != self._limits.opens_per_second:
            level = 0.0 if self._bucket.wait_seconds(now) > 0 else 1.0
            self._bucket = TokenBucket(limits.opens_per_second, 1.0, now, level)
        self._limits = limits

    def remember(self, times: Iterable[float]) -> None:
        """Calls of an earlier life count, too."""
        self._opens = deque(sorted([*self._opens, *times]))

    def has_left(self, promised: int, now: float) -> bool:
        """Whether one more call is within the limit of an hour, beside those that are promised."""
        while self._opens and self._opens[0] <= now - HOUR_SECONDS:
            self._opens.popleft()
        return len(self._opens) + promised < self._limits.max_opens_per_hour

    def is_open(self, now: float) -> bool:
        """Whether a call may be made right now."""
        return now >= self._paused_until and self._bucket.wait_seconds(now) <= 0

    def spend(self, now: float) -> None:
        """A call is made."""
        self._bucket.take(1, now)
        self._opens.append(now)

    def give_back(self, spent_at: float) -> None:
        """The call of that time has opened nothing; what it took of the rate is gone."""
        with contextlib.suppress(ValueError):
            self._opens.remove(spent_at)

    def throttled(self, now: float) -> None:
        """The service wants fewer calls: none for a while, longer each time."""
        self._paused_until = now + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, LAST_PAUSE_SECONDS)

    def worked(self) -> None:
        """A call has opened a tunnel."""
        self._pause_seconds = FIRST_PAUSE_SECONDS
