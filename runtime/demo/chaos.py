"""Breaking tunnels on purpose: what, when, and which tunnel.

Owns the schedule. Pure: must not know the service that carries a strike out, nor any clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tunnelfleet.proto import Mode

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
