"""What the metrics know of tunnels and of dispatchers, those that are gone included.

Owns the sums of closed tunnels and of dispatchers that have stopped, so that no counter goes back;
the bound on label values that come from outside; and the timer that tells how late a dispatcher is.
It knows no Prometheus.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from tunnelfleet.actors.counters import FleetCounters, TunnelStats
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.actors.kernel.counting import OTHER, DispatcherStats, Kind, declared
from tunnelfleet.proto import printable

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
        """Return the label for `value`."""
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


NO_SERVICE: Final = "(none)"
"""Stands for the service of a V1 tunnel, which has no id; an empty label is none to Prometheus."""
MAX_SERVICE_IDS: Final = 64
"""Distinct service ids in the metrics of a runtime."""


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


PROBE_SECONDS: Final = 0.5
"""The time between two beats of a lag probe."""
WINDOW_SECONDS: Final = 60.0
"""How long a lag is remembered."""


class LagProbe:
    """A timer on a dispatcher that notes how late it fires.

    Args:
        dispatcher: a running one.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._lags: deque[float] = deque(maxlen=int(WINDOW_SECONDS / PROBE_SECONDS))
        self._due = time.monotonic()

    def start(self) -> None:
        """Start the probe. It ends with the dispatcher's loop."""
        self._due = time.monotonic()
        self._dispatcher.call_soon(self._beat)

    def _beat(self) -> None:
        now = time.monotonic()
        self._lags.append(max(0.0, now - self._due))
        self._due = now + PROBE_SECONDS
        self._dispatcher.loop.call_later(PROBE_SECONDS, self._beat)

    @property
    def lag_seconds(self) -> float:
        """The longest lag of the last minute, or how overdue the present beat is."""
        overdue = time.monotonic() - self._due
        return max(overdue, 0.0, *self._lags.copy())


class DispatcherRow(NamedTuple):
    """One dispatcher."""

    name: str
    stats: DispatcherStats
    mailbox_messages: int
    lag_seconds: float


class DispatcherMeter:
    """The dispatchers of a runtime. Any thread."""

    def __init__(self) -> None:
        self._running: list[tuple[Dispatcher, LagProbe]] = []
        self._retired: dict[str, DispatcherStats] = {}
        self._lock = threading.Lock()

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """The dispatchers that run."""
        with self._lock:
            return [dispatcher for dispatcher, _probe in self._running]

    def attach(self, dispatcher: Dispatcher) -> None:
        """Watch a dispatcher that runs."""
        probe = LagProbe(dispatcher)
        probe.start()
        with self._lock:
            self._running.append((dispatcher, probe))

    def retire(self) -> None:
        """Keep the counts of all dispatchers, which have stopped."""
        with self._lock:
            for dispatcher, _probe in self._running:
                self._retired[dispatcher.name] = self._merged(dispatcher)
            self._running.clear()

    def _merged(self, dispatcher: Dispatcher) -> DispatcherStats:
        return merge(self._retired.get(dispatcher.name), dispatcher.stats.snapshot())

    def rows(self) -> list[DispatcherRow]:
        """Return a row for each dispatcher, added to its predecessors of the same name."""
        with self._lock:
            rows = [
                DispatcherRow(d.name, self._merged(d), d.mailbox_messages(), probe.lag_seconds)
                for d, probe in self._running
            ]
            names = {row.name for row in rows}
            for name, stats in self._retired.items():
                if name not in names:
                    rows.append(DispatcherRow(name, merge(None, stats), 0, 0.0))
        return rows


def merge(before: DispatcherStats | None, now: DispatcherStats) -> DispatcherStats:
    """Add the counts of a dispatcher to those of the one before it."""
    if before is None:
        return now
    merged = DispatcherStats()
    for each in declared(DispatcherStats):
        name = each.name
        old, new = getattr(before, name), getattr(now, name)
        if each.label:
            setattr(merged, name, {k: old.get(k, 0) + new.get(k, 0) for k in {**old, **new}})
        elif each.is_peak:
            setattr(merged, name, max(old, new))
        else:
            setattr(merged, name, new if each.kind is Kind.GAUGE else old + new)
    return merged
