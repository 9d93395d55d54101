"""Moments: kept by a clock that nobody sets, and told by the one that people read.

The clock of a machine is set while processes run: a device without a battery wakes up in 1970 and
hears of the time a minute later. Whoever keeps what that clock said, and compares it later, waits
for years or ends at once. So a moment is kept in seconds since the machine was started, and is told
in seconds of the Unix epoch by what the clock says now. What was kept by an earlier process has
only the time that the clock said then, and is compared with that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Self, overload

STEP_SECONDS: Final = 0.5
"""By so much the clock was set; less is the time between two looks. Slewing moves both clocks."""
_QUICK_SECONDS: Final = 0.001
_TRIES: Final = 8


def boot_seconds() -> float:
    """Seconds that go on while the process is frozen, and while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Turns moments into Unix time and back, by what the clock of the machine says now.

    Args:
        wall: seconds of the Unix epoch; somebody may set it.
        steady: seconds that nobody sets.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = boot_seconds
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = self._measure()

    @property
    def offset(self) -> float:
        """What the Unix time is ahead of a moment; another one when the clock was set."""
        if abs(self._wall() - self._steady() - self._offset) > STEP_SECONDS:
            found = self._measure()
            # Else the process stood still between the two looks.
            if abs(found - self._offset) > STEP_SECONDS:
                self._offset = found
        return self._offset

    def now(self) -> float:
        """The moment that is now."""
        return self._steady()

    def moment(self, unix_seconds: float) -> float:
        """Return the moment at which the clock said so, or will, as it goes now."""
        return unix_seconds - self.offset

    def unix(self, moment: float) -> float:
        """Return what the clock of now would have said at a moment, or will."""
        return moment + self.offset

    def _measure(self) -> float:
        found = 0.0
        for _ in range(_TRIES):
            before = self._steady()
            wall = self._wall()
            after = self._steady()
            found = wall - after
            if after - before < _QUICK_SECONDS:
                break
        return found


CLOCK: Final = Clock()
"""Of this machine."""


TRUST_SECONDS: Final = 3_600.0
"""So long a clock that was set forwards has to stay as it is, until it is believed."""


class TrustedClock:
    """The Unix time for what cannot be undone: set forwards, the clock is believed an hour later.

    Args:
        clock: that may be set.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._trusted = self._seen = clock.offset
        self._seen_at = clock.now()

    def moment(self) -> float:
        """Seconds that nobody sets."""
        return self._clock.now()

    def unix(self) -> float:
        """The time of the clock, or an earlier one as long as it is not believed."""
        now, offset = self._clock.now(), self._clock.offset
        if offset != self._seen:
            self._seen, self._seen_at = offset, now
        if now - self._seen_at >= TRUST_SECONDS:
            self._trusted = offset
        return now + min(self._trusted, offset)


class UnixTime:
    """An attribute that is a moment, read and set in seconds of the Unix epoch; 0.0 is none.

    A class with slots has one for it, of the same name with an underscore in front.
    """

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = f"_{name}"

    @overload
    def __get__(self, holder: None, _owner: type) -> Self: ...
    @overload
    def __get__(self, holder: object, _owner: type) -> float: ...
    def __get__(self, holder: object | None, _owner: type) -> Self | float:
        """Return what the clock of now says of it."""
        if holder is None:
            return self
        moment: float | None = getattr(holder, self._name)
        return 0.0 if moment is None else CLOCK.unix(moment)

    def __set__(self, holder: Any, unix_seconds: float) -> None:
        """Keep it."""
        setattr(holder, self._name, CLOCK.moment(unix_seconds) if unix_seconds else None)
