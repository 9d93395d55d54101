"""How long to wait before a restart.

Owns the arithmetic of delays and what counts as having recovered. Pure: must not know actors,
clocks or timers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays, capped first and then jittered over the full range.

    Args:
        min_seconds: ceiling of the first delay.
        max_seconds: ceiling of all delays, and the interval of retries in quarantine.
        factor: by which the ceiling grows from one failure to the next.
        stability_seconds: a child that stays up so long has recovered: its next failure is a first.

    Raises:
        TypeError: one is no number.
        ValueError: the numbers make no sense together.
    """

    min_seconds: float = 1.0
    max_seconds: float = 120.0
    factor: float = 2.0
    stability_seconds: float = 30.0

    def __post_init__(self) -> None:
        numbers = self.min_seconds, self.max_seconds, self.factor, self.stability_seconds
        if not all(math.isfinite(number) for number in numbers):
            msg = f"backoff needs finite numbers, not {numbers}"
            raise ValueError(msg)
        if not 0 < self.min_seconds <= self.max_seconds:
            msg = (
                "backoff needs 0 < min_seconds <= max_seconds, "
                f"not {self.min_seconds} and {self.max_seconds}"
            )
            raise ValueError(msg)
        if self.factor < 1 or self.stability_seconds < 0:
            msg = (
                "backoff needs factor >= 1 and stability_seconds >= 0, "
                f"not {self.factor} and {self.stability_seconds}"
            )
            raise ValueError(msg)

    def ceiling(self, attempt: int) -> float:
        """Return the longest delay, in seconds, before retry `attempt`; the first is 0."""
        try:
            return min(self.max_seconds, self.min_seconds * self.factor**attempt)
        except OverflowError:
            return self.max_seconds

    def delay(self, attempt: int, rng: random.Random) -> float:
        """Return the delay, in seconds, before retry number `attempt`: any up to its ceiling."""
        return rng.uniform(0.0, self.ceiling(attempt))


class BackoffState:
    """Where one child stands in its backoff.

    Args:
        policy: the delays.
    """

    __slots__ = ("failures", "policy")

    def __init__(self, policy: Backoff) -> None:
        self.policy = policy
        self.failures = 0
        """Consecutive failures without having been stable in between."""

    def record_failure(self, up_seconds: float) -> None:
        """Count a failure of a child that had been up for `up_seconds`, 0 if it never was."""
        if up_seconds >= self.policy.stability_seconds and up_seconds > 0:
            self.failures = 0
        self.failures += 1

    def next_delay(self, rng: random.Random) -> float:
        """Return the delay in seconds that follows the recorded failures."""
        return self.policy.delay(max(0, self.failures - 1), rng)

    def reset(self) -> None:
        """Forget all failures."""
        self.failures = 0
