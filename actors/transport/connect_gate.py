"""Whether a runtime may connect at all, and what its governor has done.

Owns what must outlive the governor: a suspension, which holds although the actor crashed, and the
counts, which never go back. A suspension is written by any thread, and holds for each permit that
is granted after that; the counts are written by the governor alone. All are read by any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from tunnelfleet.proto import MAX_REASON_CHARACTERS, printable

if TYPE_CHECKING:
    from .breaker import BreakerState


SHOWN_ENDPOINTS = 5
EXPIRED = "the time for which connects were allowed is over, and nobody has renewed it"


def boot_seconds() -> float:
    """Seconds that go on while the process is frozen, and while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class BreakerStatus(NamedTuple):
    """An endpoint to which tunnels may not connect freely.

    `openings` is how often in a row its breaker has opened, `due_at` when the next tunnel may try,
    in seconds of `time.monotonic`.
    """

    endpoint: str
    state: BreakerState
    openings: int
    due_at: float


class _Opening(NamedTuple):
    """What holds at present: an empty reason allows connects, until a time or for good."""

    reason: str = ""
    until: float | None = None


@dataclass(slots=True)
class ConnectStats:
    """How the connects of a runtime are.

    Attributes:
        waiting: how many tunnels wait for their turn.
        held_back: how many wait because their endpoint is down.
        under_way: how many have a permit.
        granted: permits so far.
        called_back: permits that were called back, by cause: hung, suspended.
        breaker_openings: how often the breaker of an endpoint has opened.
        breakers: the endpoints that are down.
        suspended: why nobody may connect; empty if they may.
    """

    waiting: int = 0
    held_back: int = 0
    under_way: int = 0
    granted: int = 0
    called_back: dict[str, int] = field(default_factory=dict)
    breaker_openings: int = 0
    breakers: tuple[BreakerStatus, ...] = ()
    suspended: str = ""

    def __str__(self) -> str:
        parts = [f"connects: {self.waiting} wait, {self.under_way} under way"]
        if self.suspended:
            parts.append(f"suspended: {self.suspended}")
        if self.breakers:
            names = [each.endpoint for each in self.breakers[:SHOWN_ENDPOINTS]]
            more = "" if len(self.breakers) <= SHOWN_ENDPOINTS else " and others"
            parts.append(f"down: {', '.join(names)}{more} ({self.held_back} held back)")
        return "; ".join(parts)


class ConnectGate:
    """Open, closed, or open until a time.

    Args:
        clock: seconds; one that goes on while the process is frozen.
    """

    def __init__(self, clock: Callable[[], float] = boot_seconds) -> None:
        self._clock = clock
        self._opening = _Opening()
        self.stats = ConnectStats()
        """What the governor counts; only it writes this."""
        self.rate_per_second: float | None = None
        """Of connects, in place of the one that the governor was given; None for that one."""
        self.had_governor = False
        """Whether one has been started, which may have granted permits that the next knows not."""

    def snapshot(self) -> ConnectStats:
        """A copy of it, with the suspension of this moment."""
        stats = self.stats
        return replace(stats, called_back=stats.called_back.copy(), suspended=self.closed_because)

    def why_waiting(self, endpoint: str) -> str:
        """Why a tunnel that has not tried yet waits: for people; empty if it is only not its turn.

        Args:
            endpoint: where it connects to.
        """
        if reason := self.closed_because:
            return f"connects are suspended: {reason}"
        if any(each.endpoint == endpoint for each in self.stats.breakers):
            return f"{endpoint} is down: its tunnels wait, and one at a time tries it"
        return ""

    def suspend(self, reason: str) -> None:
        """Allow no connect.

        Args:
            reason: for people.
        """
        self._opening = _Opening(printable(reason, MAX_REASON_CHARACTERS) or "suspended")

    def resume(self, valid_seconds: float | None = None) -> None:
        """Allow connects.

        Args:
            valid_seconds: for how long; None for good.
        """
        until = None if valid_seconds is None else self._clock() + valid_seconds
        self._opening = _Opening(until=until)

    @property
    def closed_because(self) -> str:
        """Why no connect is allowed at this moment; empty if they are."""
        opening = self._opening
        if opening.until is not None and self._clock() >= opening.until:
            return EXPIRED
        return opening.reason

    @property
    def left_seconds(self) -> float | None:
        """For how long connects are still allowed; None if no time is set."""
        until = self._opening.until
        return None if until is None else max(0.0, until - self._clock())
