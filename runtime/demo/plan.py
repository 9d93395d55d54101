"""What the demo plans: how much traffic, how fast, and which tunnels are broken when.

Owns the plan of the traffic, the pace of each conversation, the meters of bytes, and the schedule
of strikes. It does not know the service that carries a strike out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tunnelfleet.proto import Mode, counted


@dataclass(slots=True)
class Meter:
    """The counters of all clients and servers of a demo.

    Attributes:
        sent_bytes: written by clients into the tunnels.
        received_bytes: read by clients from the tunnels.
        verified_bytes: compared with what they must be and found right, at either end.
        mismatched_bytes: wrong ones, and missing ones of connections that nothing had disturbed.
        exchanges_completed: requests, transfers and conversations that ran to their end.
        exchanges_broken: those that ended early because a tunnel was disturbed.
        exchanges_cut: those that were under way when the traffic was stopped at once.
        first_fault: which bytes were wrong first, for people; empty when none were.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    verified_bytes: int = 0
    mismatched_bytes: int = 0
    exchanges_completed: int = 0
    exchanges_broken: int = 0
    exchanges_cut: int = 0
    first_fault: str = ""

    def compared(self, total_bytes: int, wrong_bytes: int, where: str) -> None:
        """Count `total_bytes` that were compared, of which `wrong_bytes` were wrong."""
        self.verified_bytes += total_bytes - wrong_bytes
        if wrong_bytes:
            text = f"{where}: {wrong_bytes} of {counted(total_bytes, 'byte')} wrong"
            self.fault(wrong_bytes, text)

    def fault(self, wrong_bytes: int, text: str) -> None:
        """Count wrong or missing bytes; the first `text` is kept."""
        self.mismatched_bytes += wrong_bytes
        self.first_fault = self.first_fault or text


FLEET_BYTES_PER_SECOND: Final = 4_000_000.0
"""The rate of all clients together, both directions added."""
MAX_TUNNEL_BYTES_PER_SECOND: Final = 500_000.0
MIN_TUNNEL_BYTES_PER_SECOND: Final = 4_000.0
FLEET_ECHOES_PER_SECOND: Final = 150.0
MAX_TUNNEL_ECHOES_PER_SECOND: Final = 10.0


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """What the clients of one tunnel do.

    Attributes:
        bytes_per_second: of all its clients, both directions added.
        echo_pause_seconds: between two rounds of its echo client.
    """

    bytes_per_second: float
    echo_pause_seconds: float

    @classmethod
    def for_fleet(cls, tunnels: int) -> TrafficPlan:
        """Return the plan that is each tunnel's share of the fleet's traffic."""
        share = FLEET_BYTES_PER_SECOND / tunnels
        rate = max(MIN_TUNNEL_BYTES_PER_SECOND, min(MAX_TUNNEL_BYTES_PER_SECOND, share))
        echoes = min(MAX_TUNNEL_ECHOES_PER_SECOND, FLEET_ECHOES_PER_SECOND / tunnels)
        return cls(rate, 1.0 / echoes)

    @property
    def page_bytes(self) -> int:
        """Size of a usual HTTP response."""
        return max(512, int(self.bytes_per_second / 12))

    @property
    def bulk_bytes(self) -> int:
        """Size of a usual bulk transfer: about a second's worth."""
        return max(2_048, int(self.bytes_per_second * 0.7))


class Pacer:
    """Lets bytes pass at a rate, for any number of tasks of one event loop.

    Args:
        bytes_per_second: the rate.
        clock: seconds that only grow; the running loop's by default.
    """

    def __init__(self, bytes_per_second: float, clock: Callable[[], float] | None = None) -> None:
        self._rate = bytes_per_second
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._free_at = 0.0

    def reserve(self, count_bytes: int) -> float:
        """Count bytes that are sent, and return how many seconds to wait afterwards."""
        now = self._clock()
        self._free_at = max(now, self._free_at) + count_bytes / self._rate
        return self._free_at - now

    async def spend(self, count_bytes: int) -> None:
        """Count bytes that are sent, and wait as long as they take at the rate."""
        await asyncio.sleep(self.reserve(count_bytes))


STRIKES_PER_SECOND: Final = 0.8
MAX_STRIKES_PER_SECOND: Final = 4.0
START_FRACTION: Final = 0.15
"""Chaos begins after this part of the demo, so that undisturbed traffic is seen first."""


class StrikeKind(StrEnum):
    """What is done to a tunnel."""

    SESSION_RESET = "session reset"
    DROP_SOURCE = "source dropped"
    DROP_DESTINATION = "destination dropped"
    DROP_BOTH = "both ends dropped"

    @property
    def mode(self) -> Mode | None:
        """The side whose TCP connection is reset; None for both."""
        modes = {
            StrikeKind.DROP_SOURCE: Mode.SOURCE,
            StrikeKind.DROP_DESTINATION: Mode.DESTINATION,
        }
        return modes.get(self)


@dataclass(frozen=True, slots=True)
class Strike:
    """One break, due `at_seconds` after the traffic began."""

    at_seconds: float
    kind: StrikeKind
    tunnel: str


def plan_strikes(tunnels: Sequence[str], duration_seconds: float, seed: int = 0) -> list[Strike]:
    """Plan the strikes of a demo: at least one of every kind, spread over time and tunnels.

    Args:
        tunnels: names of those that may be struck; none, no strikes.
        duration_seconds: how long the traffic lasts.
        seed: of which tunnel is struck when.
    """
    if not tunnels:
        return []
    begin_seconds = duration_seconds * START_FRACTION
    window_seconds = _end_seconds(duration_seconds) - begin_seconds
    count = _count(len(tunnels), window_seconds)
    order = list(tunnels)
    random.Random(seed).shuffle(order)  # noqa: S311 (which tunnel comes first)
    kinds = list(StrikeKind)
    return [
        Strike(
            begin_seconds + window_seconds * number / count,
            kinds[number % len(kinds)],
            order[number % len(order)],
        )
        for number in range(count)
    ]


CALM_FRACTION: Final = 0.35
MIN_CALM_SECONDS: Final = 1.5
MAX_CALM_SECONDS: Final = 6.0
"""Chaos ends so long before the demo ends, so that every tunnel can come back."""


def _end_seconds(duration_seconds: float) -> float:
    calm_seconds = max(MIN_CALM_SECONDS, min(MAX_CALM_SECONDS, duration_seconds * CALM_FRACTION))
    # A demo that is too short for a calm end still has strikes; it waits for the tunnels.
    return max(duration_seconds - calm_seconds, duration_seconds * 0.5)


def _count(tunnels: int, window_seconds: float) -> int:
    wanted = max(window_seconds * STRIKES_PER_SECOND, float(tunnels))
    return max(len(StrikeKind), int(min(wanted, window_seconds * MAX_STRIKES_PER_SECOND)))


class Chaos:
    """Gives out the strikes of a plan when they are due.

    Args:
        strikes: the plan, in order of time.
    """

    def __init__(self, strikes: Sequence[Strike]) -> None:
        self._waiting = list(strikes)
        self._tunnels = list(dict.fromkeys(strike.tunnel for strike in strikes))
        self.done: list[Strike] = []

    def due(self, elapsed_seconds: float, is_whole: Callable[[str], bool]) -> list[Strike]:
        """Return what to do now.

        A tunnel that is not whole is not struck: another one is in its place, and while there is
        none the strike waits.

        Args:
            elapsed_seconds: since the traffic began.
            is_whole: whether a tunnel's both ends are connected.
        """
        now: list[Strike] = []
        while self._waiting and self._waiting[0].at_seconds <= elapsed_seconds:
            target = self._target(self._waiting[0], is_whole, {strike.tunnel for strike in now})
            if target is None:
                break
            strike = self._waiting.pop(0)
            now.append(Strike(strike.at_seconds, strike.kind, target))
        self.done += now
        return now

    def _target(
        self, strike: Strike, is_whole: Callable[[str], bool], taken: set[str]
    ) -> str | None:
        first = self._tunnels.index(strike.tunnel)
        for name in self._tunnels[first:] + self._tunnels[:first]:
            if name not in taken and is_whole(name):
                return name
        return None
