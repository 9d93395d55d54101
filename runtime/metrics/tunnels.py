"""What the metrics remember of tunnels that are gone, and the label values they use.

Owns the sums of closed tunnels, so that no counter goes back, and the bound on label values that
come from outside. Must not know how it is shown.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from tunnelfleet.actors.counters import FleetCounters, TunnelStats
from tunnelfleet.actors.kernel.counting import OTHER
from tunnelfleet.proto import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnelfleet.actors.state import TunnelState

__all__ = [
    "MAX_LABEL_LENGTH",
    "MAX_SERVICE_IDS",
    "NO_SERVICE",
    "OTHER",
    "LabelCap",
    "Reading",
    "Row",
    "TunnelMeter",
]


NO_SERVICE: Final = "(none)"
"""Stands for the service of a V1 tunnel, which has no id; an empty label is none to Prometheus."""
MAX_SERVICE_IDS: Final = 64
"""Distinct service ids in the metrics of a runtime."""
MAX_LABEL_LENGTH: Final = 64


class LabelCap:
    """Admits the first `limit` distinct values; all others become `OTHER`. Any thread.

    Args:
        limit: how many.
        empty: what an empty value becomes.
    """

    def __init__(self, limit: int, empty: str = OTHER) -> None:
        self._limit = limit
        self._empty = empty
        self._labels: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, value: str) -> str:
        """The label for `value`."""
        label = self._labels.get(value)
        return label if label is not None else self._admit(value)

    def _admit(self, value: str) -> str:
        with self._lock:
            if value in self._labels:
                return self._labels[value]
            if len(self._labels) >= self._limit:
                return OTHER
            self._labels[value] = label = self._clean(value)
            return label

    def _clean(self, value: str) -> str:
        return printable(value[:MAX_LABEL_LENGTH], MAX_LABEL_LENGTH, mark="?") or self._empty


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


class TunnelMeter:
    """The counters of all tunnels, for the metrics. Any thread.

    Args:
        rows: how many tunnels have per-tunnel series; 0 turns these off.
        with_buckets: whether each tunnel counts its distributions by size, as the fleet does.
    """

    def __init__(self, rows: int = 0, *, with_buckets: bool = False) -> None:
        self.rows = rows
        self._with_buckets = with_buckets
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
        """Add a tunnel.

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
            if self._with_buckets:
                stats.keep_buckets()
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
        """Note that the actors of a tunnel have ended. A second call does nothing."""
        with self._lock:
            fleet = self._open.pop(stats, None)
            if fleet is None:
                return
            self._rows.pop(stats, None)
            self._closed += 1
            fleet.leave(stats)
        stats.forget_active()

    def read(self) -> Reading:
        """Return what a scrape needs, of one moment."""
        with self._lock:
            fleets = [
                Fleet(fleet, fleet.states(), has_rows)
                for (_dispatcher, _mode, has_rows), fleet in self._fleets.items()
            ]
            return Reading(fleets, list(self._rows.values()), self._opened, self._closed)
