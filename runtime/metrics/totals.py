"""Sums over tunnels: of those that are open, at a scrape, and of those that are closed, for good.

Owns how the counters of many tunnels become few numbers, by column, so that ten thousand tunnels
take milliseconds. It reads integers that other threads write, copies dicts before it looks into
them, and takes no lock. It knows neither tunnels' names nor Prometheus.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.actors.stats import (
    CONNECT_SECONDS_BOUNDS,
    PING_SECONDS_BOUNDS,
    QUEUE_WAIT_SECONDS_BOUNDS,
    ServiceStats,
    TunnelState,
    TunnelStats,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["SERVICE_COLUMNS", "TUNNEL_COLUMNS", "HistogramSum", "Totals"]

SERVICE_COUNTERS: Final = (
    "sent_bytes",
    "received_bytes",
    "sent_messages",
    "received_messages",
    "streams_opened",
    "connections_opened",
)
SERVICE_GAUGES: Final = ("streams_active", "connections_active")
SERVICE_COLUMNS: Final = (*SERVICE_COUNTERS, *SERVICE_GAUGES)
TUNNEL_COUNTERS: Final = (
    "session_resets",
    "connect_attempts",
    "failed_sends",
    "stalled_connections",
    "throttled_seconds",
)
TUNNEL_COLUMNS: Final = (*TUNNEL_COUNTERS, "queue_bytes")

_COUNTS: Final = (
    "streams_ended",
    "connections_ended",
    "reconnects",
    "connect_failures",
    "dropped_messages",
    "states",
)
_HISTOGRAMS: Final = ("connect", "ping", "queue_wait")

_service_row = attrgetter(*SERVICE_COLUMNS)
_tunnel_row = attrgetter(*TUNNEL_COLUMNS)
_queue_wait = attrgetter("queue_wait.counts", "queue_wait.total")
_connect = attrgetter("connect_seconds.counts", "connect_seconds.total")
_ping = attrgetter("ping_seconds.counts", "ping_seconds.total")


class HistogramSum:
    """The sum of many histograms with the same bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, parts: Sequence[tuple[Sequence[int], float]]) -> None:
        """Add the counts and totals of histograms."""
        _add_columns(self.counts, [counts for counts, _total in parts])
        self.total += sum([total for _counts, total in parts])

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
    """What many tunnels come to.

    Attributes:
        services: by mode and service id, the sums of `SERVICE_COLUMNS`.
        streams_ended: by mode, service id and reason.
        connections_ended: the same.
        tunnel: the sums of `TUNNEL_COLUMNS`.
        states: tunnels by state.
        since: the earliest entry into each state that a tunnel is in.
    """

    def __init__(self) -> None:
        self.services: dict[tuple[str, str], list[int]] = {}
        self.streams_ended: dict[tuple[str, str, str], int] = {}
        self.connections_ended: dict[tuple[str, str, str], int] = {}
        self.tunnel: list[float] = [0] * len(TUNNEL_COLUMNS)
        self.reconnects: dict[str, int] = {}
        self.connect_failures: dict[str, int] = {}
        self.dropped_messages: dict[str, int] = {}
        self.connect = HistogramSum(CONNECT_SECONDS_BOUNDS)
        self.ping = HistogramSum(PING_SECONDS_BOUNDS)
        self.queue_wait = HistogramSum(QUEUE_WAIT_SECONDS_BOUNDS)
        self.states: dict[TunnelState, int] = {}
        self.since: dict[TunnelState, float] = {}

    def column(self, name: str) -> float:
        """The sum of a column of `TUNNEL_COLUMNS`."""
        return self.tunnel[TUNNEL_COLUMNS.index(name)]

    def add(
        self,
        tunnels: Sequence[tuple[str, TunnelStats]],
        service_label: Callable[[str], str],
        reason_label: Callable[[str], str],
    ) -> None:
        """Add tunnels.

        Args:
            tunnels: of each the mode and the counters.
            service_label: service id -> label.
            reason_label: reason -> label.
        """
        found = [stats for _mode, stats in tunnels]
        self._add_services(tunnels, service_label, reason_label)
        _add_columns(self.tunnel, [_tunnel_row(stats) for stats in found])
        self.connect.add([_connect(stats) for stats in found])
        self.ping.add([_ping(stats) for stats in found])
        self.queue_wait.add([_queue_wait(stats) for stats in found])
        _add_counts(self.reconnects, [s.reconnects for s in found], reason_label)
        _add_counts(self.connect_failures, [s.connect_failures for s in found], reason_label)
        _add_counts(self.dropped_messages, [s.dropped_messages for s in found], reason_label)
        for stats in found:
            self._note_state(stats)

    def _note_state(self, stats: TunnelStats) -> None:
        state, since = stats.state, stats.since
        self.states[state] = self.states.get(state, 0) + 1
        if since < self.since.get(state, float("inf")):
            self.since[state] = since

    def _add_services(
        self,
        tunnels: Iterable[tuple[str, TunnelStats]],
        service_label: Callable[[str], str],
        reason_label: Callable[[str], str],
    ) -> None:
        groups: dict[tuple[str, str], list[ServiceStats]] = {}
        for mode, stats in tunnels:
            for service_id, service in stats.services.copy().items():
                groups.setdefault((mode, service_label(service_id)), []).append(service)
        for key, group in groups.items():
            sums = self.services.setdefault(key, [0] * len(SERVICE_COLUMNS))
            _add_columns(sums, list(map(_service_row, group)))
            _add_counts(self.streams_ended, [s.streams_ended for s in group], reason_label, key)
            ended = [s.connections_ended for s in group]
            _add_counts(self.connections_ended, ended, reason_label, key)

    def drop_gauges(self) -> None:
        """Keep what only grows: for tunnels that are closed."""
        for row in self.services.values():
            row[len(SERVICE_COUNTERS) :] = [0] * len(SERVICE_GAUGES)
        self.tunnel[len(TUNNEL_COUNTERS) :] = [0]
        self.states.clear()
        self.since.clear()

    def merge(self, other: Totals) -> None:
        """Add what `other` has."""
        for key, row in other.services.items():
            _add_columns(self.services.setdefault(key, [0] * len(row)), [row])
        _add_columns(self.tunnel, [other.tunnel])
        for name in _COUNTS:
            sums = getattr(self, name)
            for key, number in getattr(other, name).items():
                sums[key] = sums.get(key, 0) + number
        for name in _HISTOGRAMS:
            values = getattr(other, name)
            getattr(self, name).add([(values.counts, values.total)])
        for state, since in other.since.items():
            self.since[state] = min(since, self.since.get(state, since))

    def copy(self) -> Totals:
        """A copy that does not change with this one."""
        other = Totals()
        other.merge(self)
        return other


def _add_columns(sums: list[Any], rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        columns = zip(*rows, strict=True)
        sums[:] = [before + sum(column) for before, column in zip(sums, columns, strict=True)]


def _add_counts(
    sums: dict[Any, int],
    counts: Iterable[dict[str, int]],
    label: Callable[[str], str],
    prefix: tuple[str, ...] | None = None,
) -> None:
    found: dict[str, int] = {}
    for each in counts:
        if each:
            for reason, number in each.copy().items():
                found[reason] = found.get(reason, 0) + number
    for reason, number in found.items():
        key = label(reason) if prefix is None else (*prefix, label(reason))
        sums[key] = sums.get(key, 0) + number
