"""Sums over fleets, for one scrape.

Owns how the counters of a few fleets become the numbers of the catalogue, by column. It reads
integers that other threads write, copies dicts before it looks into them, and takes no lock. It
knows neither tunnels nor Prometheus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.actors.counters import Counters, ServiceCounters
from tunnelfleet.actors.kernel.counting import declared

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnelfleet.actors.counters import FleetCounters, Histogram
    from tunnelfleet.actors.kernel.counting import Declared
    from tunnelfleet.actors.state import TunnelState

    from .tunnels import Fleet

__all__ = ["ENDS", "HISTOGRAMS", "REASONS", "SERVICE_COLUMNS", "TUNNEL_COLUMNS", "Totals"]


def _plain(found: tuple[Declared, ...]) -> tuple[str, ...]:
    return tuple(each.name for each in found if not each.label and not each.bounds)


def _by_reason(found: tuple[Declared, ...]) -> tuple[str, ...]:
    return tuple(each.name for each in found if each.label)


SERVICE_COLUMNS: Final = _plain(declared(ServiceCounters))
TUNNEL_COLUMNS: Final = _plain(declared(Counters))
ENDS: Final = _by_reason(declared(ServiceCounters))
REASONS: Final = _by_reason(declared(Counters))
HISTOGRAMS: Final = {each.name: each.bounds for each in declared(Counters) if each.bounds}


class HistogramSum:
    """The sum of many histograms with the same bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, values: Histogram) -> None:
        """Add one."""
        pairs = zip(self.counts, values.counts.copy(), strict=True)
        self.counts = [before + number for before, number in pairs]
        self.total += values.total

    @property
    def count(self) -> int:
        """How many values they have seen."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulated counts by upper bound, as Prometheus wants them."""
        found: list[tuple[str, float]] = []
        so_far = 0
        for bound, number in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += number
            found.append((bound, so_far))
        return found


class Totals:
    """What fleets come to.

    Args:
        fleets: whose counters to sum.

    Attributes:
        services: by mode and service id, the sums of `SERVICE_COLUMNS`.
        ends: for each of `ENDS`, by mode, service id and reason.
        columns: the sums of `TUNNEL_COLUMNS`, by name.
        reasons: for each of `REASONS`, by reason.
        histograms: the sums of `HISTOGRAMS`, by name.
        states: tunnels by state.
        since: the earliest entry into each state that a tunnel is in.
    """

    def __init__(self, fleets: Iterable[Fleet]) -> None:
        self.services: dict[tuple[str, str], list[int]] = {}
        self.ends: dict[str, dict[tuple[str, str, str], int]] = {name: {} for name in ENDS}
        self.columns: dict[str, float] = dict.fromkeys(TUNNEL_COLUMNS, 0)
        self.reasons: dict[str, dict[str, int]] = {name: {} for name in REASONS}
        self.histograms = {name: HistogramSum(bounds) for name, bounds in HISTOGRAMS.items()}
        self.states: dict[TunnelState, int] = {}
        self.since: dict[TunnelState, float] = {}
        for fleet in fleets:
            self._add_services(fleet.counters)
            self._add_tunnels(fleet.counters)
            self._add_states(fleet.states)

    def of(self, each: Declared) -> Any:
        """The sum of a counter of `Counters`: a number, numbers by reason, or a `HistogramSum`."""
        if each.bounds:
            return self.histograms[each.name]
        return self.reasons[each.name] if each.label else self.columns[each.name]

    def _add_services(self, fleet: FleetCounters) -> None:
        for label, service in fleet.services.copy().items():
            key = (fleet.mode, label)
            row = [getattr(service, name) for name in SERVICE_COLUMNS]
            before = self.services.get(key, [0] * len(row))
            self.services[key] = [a + b for a, b in zip(before, row, strict=True)]
            for name in ENDS:
                _add(self.ends[name], getattr(service, name), key)

    def _add_tunnels(self, fleet: FleetCounters) -> None:
        for name in TUNNEL_COLUMNS:
            self.columns[name] += getattr(fleet, name)
        for name in REASONS:
            _add(self.reasons[name], getattr(fleet, name))
        for name in HISTOGRAMS:
            self.histograms[name].add(getattr(fleet, name))

    def _add_states(self, states: dict[TunnelState, tuple[int, float]]) -> None:
        for state, (number, since) in states.items():
            self.states[state] = self.states.get(state, 0) + number
            self.since[state] = min(since, self.since.get(state, since))


def _add(sums: dict[Any, int], counts: dict[str, int], prefix: tuple[str, ...] = ()) -> None:
    for reason, number in counts.copy().items():
        key = (*prefix, reason) if prefix else reason
        sums[key] = sums.get(key, 0) + number
