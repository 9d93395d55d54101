"""Per-tunnel series: a row for each tunnel that has one, and one for all others together.

Owns what a row shows. Which tunnels have one is decided by the ledger. Counters of the row
`other` are of the tunnels that were never shown by name, closed ones too: a tunnel with a row of
its own does not move there at its end, which would look like a burst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from .catalogue import PER_TUNNEL, Kind
from .families import table
from .labels import OTHER
from .totals import SERVICE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from .breather import Breather
    from .ledger import Row
    from .totals import Totals

__all__ = ["per_tunnel_families"]

_Labels: TypeAlias = tuple[str, ...]

_SERVICE_SUMS: Final = (
    "sent_bytes",
    "received_bytes",
    "streams_active",
    "connections_active",
    "connections_opened",
)
_SCALARS: Final = ("session_resets", "queue_bytes", "throttled_seconds")
_STATE: Final = "tunnel_state"
_SINCE: Final = "tunnel_state_since_timestamp_seconds"


def per_tunnel_families(
    rows: Sequence[Row], rest: dict[str, Totals], breather: Breather
) -> Iterator[Family]:
    """The families of the group.

    Args:
        rows: the open tunnels that have one.
        rest: by mode, the totals of the tunnels that have none.
        breather: lets others work.
    """
    found = _Table()
    for row in rows:
        found.add_tunnel(row)
        breather.breathe()
    for mode, totals in sorted(rest.items()):
        found.add_rest(mode, totals)
    yield from found.families()


class _Table:
    """Labels of the rows, and the columns by metric."""

    def __init__(self) -> None:
        self._labels: list[_Labels] = []
        self._columns: dict[str, list[float]] = {}
        self._states: list[_Labels] = []
        self._in_state: list[float] = []
        self._shown = 0

    def _put(self, name: str, value: float) -> None:
        self._columns.setdefault(f"tunnel_{name}", []).append(value)

    def add_tunnel(self, row: Row) -> None:
        stats = row.stats
        labels = row.name, row.mode
        self._labels.append(labels)
        self._shown += 1
        services = tuple(stats.services.copy().values())
        for name in _SERVICE_SUMS:
            self._put(name, sum([getattr(service, name) for service in services]))
        for name in _SCALARS:
            self._put(name, getattr(stats, name))
        self._put("reconnects", sum(stats.reconnects.copy().values()))
        self._put("state_since_timestamp_seconds", stats.since)
        waits, pings = stats.queue_wait, stats.ping_seconds
        self._put_summaries(waits.count, waits.total, pings.count, pings.total)
        self._states.append((*labels, stats.state.value))
        self._in_state.append(1)

    def _put_summaries(
        self, waits: int, wait_seconds: float, pings: int, ping_seconds: float
    ) -> None:
        self._put("queue_wait_seconds_count", waits)
        self._put("queue_wait_seconds_sum", wait_seconds)
        self._put("ping_round_trip_seconds_count", pings)
        self._put("ping_round_trip_seconds_sum", ping_seconds)

    def add_rest(self, mode: str, totals: Totals) -> None:
        self._labels.append((OTHER, mode))
        for name in _SERVICE_SUMS:
            index = SERVICE_COLUMNS.index(name)
            self._put(name, sum(row[index] for row in totals.services.values()))
        for name in _SCALARS:
            self._put(name, totals.columns[name])
        self._put("reconnects", sum(totals.reconnects.values()))
        waits, pings = totals.queue_wait, totals.ping
        self._put_summaries(waits.count, waits.total, pings.count, pings.total)
        for state, number in sorted(totals.states.items()):
            self._states.append((OTHER, mode, state.value))
            self._in_state.append(number)

    def families(self) -> Iterator[Family]:
        for each in PER_TUNNEL:
            name = each.name
            if name == _STATE:
                yield table(name, self._states, self._in_state)
            elif name == _SINCE:
                yield table(name, self._labels[: self._shown], self._column(name))
            elif each.kind is Kind.SUMMARY:
                columns = self._column(f"{name}_count"), self._column(f"{name}_sum")
                yield table(name, self._labels, *columns)
            else:
                yield table(name, self._labels, self._column(name))

    def _column(self, name: str) -> list[float]:
        return self._columns.get(name, [])
