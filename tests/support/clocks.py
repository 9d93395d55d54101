"""A clock of a machine that a test sets, as NTP does where a device wakes up in 1970."""

from __future__ import annotations

from tunnelfleet.actors.kernel.moments import Clock

NOW = 1_790_000_000.0


class SetClock(Clock):
    """Time passes, and the clock is set, when a test says so."""

    def __init__(self) -> None:
        self.passed_seconds = 1_000.0
        self.ahead_seconds = 0.0
        super().__init__(self.wall, lambda: self.passed_seconds)

    def wall(self) -> float:
        """What `time.time` says."""
        return NOW - 1_000.0 + self.passed_seconds + self.ahead_seconds

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.passed_seconds += seconds

    def steps(self, seconds: float) -> None:
        """Set the clock, back where it is below 0."""
        self.ahead_seconds += seconds
