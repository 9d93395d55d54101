"""Per-tunnel series: a row for each tunnel that has one, and one for all others together.

Owns what a row shows. Which tunnels have one is decided by the ledger. Counters of the row
`other` are of the tunnels that were never shown by name, closed ones too: a tunnel with a row of
its own does not move there at its end, which would look like a burst.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

from .catalogue import PER_TUNNEL, Kind
from .families import numbers, summary
from .labels import OTHER
from .ledger import chunks
from .totals import SERVICE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from tunnelfleet.actors.stats import Histogram, TunnelStats

    from .breather import Breather
    from .ledger import Entry
    from .totals import HistogramSum, Totals

__all__ = ["per_tunnel_families"]

_Labels: TypeAlias = tuple[str, ...]
_Numbers: TypeAlias = "defaultdict[str, list[tuple[_Labels, float]]]"
_Summaries: TypeAlias = "defaultdict[str, list[tuple[_Labels, int, float]]]"

_SERVICE_SUMS = (
    "sent_bytes",
    "received_bytes",
    "streams_active",
    "connections_active",
    "connections_opened",
)


def per_tunnel_families(
    entries: Sequence[Entry], rest: dict[str, Totals], breather: Breather
) -> Iterator[Family]:
    """The families of the group.

    Args:
        entries: the open tunnels.
        rest: by mode, the totals of the tunnels that have no row.
        breather: lets others work.
    """
    rows: _Numbers = defaultdict(list)
    summaries: _Summaries = defaultdict(list)
    for chunk in chunks([entry for entry in entries if entry.has_row]):
        for entry in chunk:
            _add_tunnel(rows, summaries, entry)
        breather.breathe()
    for mode, totals in sorted(rest.items()):
        _add_rest(rows, summaries, mode, totals)
    for each in PER_TUNNEL:
        if each.kind is Kind.SUMMARY:
            yield summary(each.name, summaries[each.name])
        else:
            yield numbers(each.name, rows[each.name])
        breather.breathe()


def _add_tunnel(rows: _Numbers, summaries: _Summaries, entry: Entry) -> None:
    stats = entry.stats
    labels = entry.name, entry.mode
    services = tuple(stats.services.copy().values())
    for name in _SERVICE_SUMS:
        value = sum([getattr(service, name) for service in services])
        rows[f"tunnel_{name}"].append((labels, value))
    rows["tunnel_state"].append(((*labels, stats.state.value), 1))
    rows["tunnel_state_since_timestamp_seconds"].append((labels, stats.since))
    rows["tunnel_reconnects"].append((labels, sum(stats.reconnects.copy().values())))
    _add_scalars(rows, labels, stats)
    _add_summary(summaries, "queue_wait_seconds", labels, stats.queue_wait)
    _add_summary(summaries, "ping_round_trip_seconds", labels, stats.ping_seconds)


def _add_scalars(rows: _Numbers, labels: _Labels, stats: TunnelStats) -> None:
    for name in ("session_resets", "queue_bytes", "throttled_seconds"):
        rows[f"tunnel_{name}"].append((labels, getattr(stats, name)))


def _add_summary(
    summaries: _Summaries, name: str, labels: _Labels, values: Histogram | HistogramSum
) -> None:
    summaries[f"tunnel_{name}"].append((labels, sum(values.counts), values.total))


def _add_rest(rows: _Numbers, summaries: _Summaries, mode: str, totals: Totals) -> None:
    labels = OTHER, mode
    for name in _SERVICE_SUMS:
        index = SERVICE_COLUMNS.index(name)
        value = sum(row[index] for row in totals.services.values())
        rows[f"tunnel_{name}"].append((labels, value))
    for state, number in sorted(totals.states.items()):
        rows["tunnel_state"].append(((*labels, state.value), number))
    rows["tunnel_reconnects"].append((labels, sum(totals.reconnects.values())))
    for name in ("session_resets", "queue_bytes", "throttled_seconds"):
        rows[f"tunnel_{name}"].append((labels, totals.column(name)))
    _add_summary(summaries, "queue_wait_seconds", labels, totals.queue_wait)
    _add_summary(summaries, "ping_round_trip_seconds", labels, totals.ping)
