"""A token bucket: what may pass at a rate, with a bounded burst.

Pure: the time is an argument, and whoever asks does the waiting. What a token is (a byte, a
permit), how large the burst is, and how many tokens have to be there before something passes is up
to the users: pacing, the throttle of a service, the connect governor.
"""

from __future__ import annotations

from typing import Final

_ROUNDING: Final = 1e-3
"""A part of what is wanted that may be missing: who has waited as told must not have to wait again
because a time was rounded. It is taken from the level all the same, so the rate is kept."""


class TokenBucket:
    """A level that rises at a rate up to a capacity, and may be overdrawn.

    Args:
        rate_per_second: tokens that it gains; more than 0.
        capacity: the most that it holds.
        now: seconds on the clock that later calls use.
        level: what it starts with; `capacity` when None.
    """

    __slots__ = ("_level", "_updated", "capacity", "rate_per_second")

    def __init__(
        self, rate_per_second: float, capacity: float, now: float, level: float | None = None
    ) -> None:
        self.rate_per_second = rate_per_second
        self.capacity = capacity
        self._level = capacity if level is None else level
        self._updated = now

    def wait_seconds(self, now: float, wanted: float = 1.0) -> float:
        """Return how long to wait until `wanted` tokens are there; 0 when they are."""
        self._refill(now)
        missing = wanted - self._level
        return missing / self.rate_per_second if missing > wanted * _ROUNDING else 0.0

    def take(self, tokens: float, now: float) -> None:
        """Take tokens. The level may fall below 0: then the debt is waited out first."""
        self._refill(now)
        self._level -= tokens

    def _refill(self, now: float) -> None:
        gained = (now - self._updated) * self.rate_per_second
        self._level = min(self.capacity, self._level + gained)
        self._updated = now
