"""The ledger of a runtime's tunnels: which fleet's counters each of them counts into.

Owns that no counter goes back, that nothing of a closed tunnel remains but its share in its
fleet's counters, and which tunnels have a row of their own: the first ones up to a limit, each for
as long as it is open; the others are shown in one row, for good. Fleets are kept by dispatcher,
mode and whether their tunnels have rows, so that each has one writer. It knows no Prometheus.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from tunnelfleet.actors.fleet_counters import FleetCounters
from tunnelfleet.actors.stats import TunnelState, TunnelStats

from .labels import MAX_SERVICE_IDS, NO_SERVICE, OTHER, LabelCap

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OTHER", "Ledger", "Reading", "Row"]


class Row(NamedTuple):
    """An open tunnel that per-tunnel series show by name.

    Attributes:
        name: its name.
        mode: source or destination.
        stats: its counters, which its actors go on writing.
    """

    name: str
    mode: str
    stats: TunnelStats


class Fleet(NamedTuple):
    """The counters of a fleet, and the states of its tunnels at the moment of a reading."""

    counters: FleetCounters
    states: dict[TunnelState, tuple[int, float]]
    has_rows: bool


class Reading(NamedTuple):
    """What a scrape begins with; states and numbers of tunnels are of one moment.

    Attributes:
        fleets: every tunnel that ever was has counted into one of them.
        rows: the open tunnels that have a row.
        opened: tunnels opened so far.
        closed: tunnels closed so far.
    """

    fleets: Sequence[Fleet]
    rows: Sequence[Row]
    opened: int
    closed: int


class Ledger:
    """Tunnels for metrics. Any thread.

    Args:
        rows: how many tunnels have per-tunnel series; 0 turns these off.
    """

    def __init__(self, rows: int = 0) -> None:
        self.rows = rows
        self.service_label = LabelCap(MAX_SERVICE_IDS, NO_SERVICE)
        self._fleets: dict[tuple[int, str, bool], FleetCounters] = {}
        self._open: dict[TunnelStats, FleetCounters] = {}
        self._rows: dict[TunnelStats, Row] = {}
        self._opened = 0
        self._closed = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of open tunnels."""
        return len(self._open)

    def open(self, name: str, mode: str, dispatcher: int = 0) -> TunnelStats:
        """Take a tunnel in.

        Args:
            name: its name.
            mode: source or destination.
            dispatcher: the number of the dispatcher on which it lives, from now to its end.

        Returns:
            Its counters, all zero.
        """
        with self._lock:
            has_row = len(self._rows) < self.rows and name != OTHER
            fleet = self._fleet(dispatcher, mode, has_row)
            stats = TunnelStats(fleet)
            fleet.join(stats)
            self._open[stats] = fleet
            self._opened += 1
            if has_row:
                self._rows[stats] = Row(name, mode, stats)
            return stats

    def _fleet(self, dispatcher: int, mode: str, has_row: bool) -> FleetCounters:
        key = (dispatcher, mode, has_row)
        fleet = self._fleets.get(key)
        if fleet is None:
            fleet = self._fleets[key] = FleetCounters(mode, self.service_label, self._lock)
        return fleet

    def close(self, stats: TunnelStats) -> None:
        """A tunnel will count no more: its actors are over. Closed twice is closed once."""
        with self._lock:
            fleet = self._open.pop(stats, None)
            if fleet is None:
                return
            self._rows.pop(stats, None)
            self._closed += 1
            fleet.leave(stats)
        stats.forget_active()

    def read(self) -> Reading:
        """Look at all of it."""
        with self._lock:
            fleets = [
                Fleet(fleet, fleet.states(), has_rows)
                for (_dispatcher, _mode, has_rows), fleet in self._fleets.items()
            ]
            return Reading(fleets, list(self._rows.values()), self._opened, self._closed)
