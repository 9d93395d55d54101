"""What a tunnel in a worker process has counted, added up in the gateway so that no sum goes back.

A worker reports what a tunnel has counted since the worker opened it. Owns the form of a report,
and `Tally`, which adds the difference between two reports to the gateway's own counters: when a
worker dies, the gateway keeps what was reported, and the next worker begins at zero. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Final, NamedTuple

from tunnelfleet.actors.counters import Counters, Histogram, ServiceCounters
from tunnelfleet.actors.kernel.counting import MAX_KEYS, OTHER, declared
from tunnelfleet.actors.transport.connect_gate import ConnectStats


class _Fields(NamedTuple):
    """The names of what a class counts, by how it is added."""

    plain: tuple[str, ...]
    by_reason: tuple[str, ...]
    distributions: tuple[str, ...]


_PLAIN: Final = "plain"
_REASONS: Final = "reasons"
_DISTRIBUTIONS: Final = "distributions"
_SERVICES: Final = "services"


@cache
def _fields(counting: type) -> _Fields:
    every = declared(counting)
    return _Fields(
        tuple(each.name for each in every if not each.label and not each.bounds),
        tuple(each.name for each in every if each.label),
        tuple(each.name for each in every if each.bounds),
    )


def numbers_of(counters: Counters) -> dict[str, Any]:
    """Return a report of what was counted so far; whatever is zero is left out."""
    found = _own_numbers(counters, _fields(Counters))
    found[_DISTRIBUTIONS] = {
        name: [summary.count, summary.total, list(getattr(summary, "counts", ()))]
        for name in _fields(Counters).distributions
        if (summary := getattr(counters, name)).count
    }
    found[_SERVICES] = {
        service_id: _own_numbers(service, _fields(ServiceCounters))
        for service_id, service in counters.services.copy().items()
    }
    return found


def _own_numbers(counters: Any, names: _Fields) -> dict[str, Any]:
    return {
        _PLAIN: {name: value for name in names.plain if (value := getattr(counters, name))},
        _REASONS: {
            name: value.copy() for name in names.by_reason if (value := getattr(counters, name))
        },
    }


class Tally:
    """Adds the reports of one tunnel after the other to its counters in the gateway.

    Args:
        counters: of the tunnel, in the gateway; what it is part of counts the same.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._last: Mapping[str, Any] = {}

    def take(self, report: Mapping[str, Any]) -> None:
        """Add what is new in a report of the present worker."""
        last, self._last = self._last, report
        counters = self._counters
        _add_own(counters, report, last)
        before = last.get(_DISTRIBUTIONS, {})
        for name, (count, total, buckets) in report.get(_DISTRIBUTIONS, {}).items():
            old_count, old_total, old = before.get(name, (0, 0.0, []))
            old = old or [0] * len(buckets)
            news = [now - then for now, then in zip(buckets, old, strict=True)]
            _add_distribution(counters, name, count - old_count, total - old_total, news)
        services = last.get(_SERVICES, {})
        for service_id, found in report.get(_SERVICES, {}).items():
            _add_own(counters.service(service_id), found, services.get(service_id, {}))

    def begin_anew(self) -> None:
        """Another worker will report, from zero. What is open was the last one's, and is not."""
        self._last = {}
        self._counters.forget_active()


def _add_own(counters: Any, report: Mapping[str, Any], last: Mapping[str, Any]) -> None:
    now, before = report.get(_PLAIN, {}), last.get(_PLAIN, {})
    # A gauge that has become zero is missing in the report.
    for name in now.keys() | before.keys():
        change = now.get(name, 0) - before.get(name, 0)
        if change:
            _add(counters, name, change)
    for name, counts in report.get(_REASONS, {}).items():
        old = last.get(_REASONS, {}).get(name, {})
        for reason, number in counts.items():
            if number != old.get(reason, 0):
                _add_by(counters, name, reason, number - old.get(reason, 0))


def _add(counters: Any, name: str, change: float) -> None:
    while counters is not None:
        setattr(counters, name, getattr(counters, name) + change)
        counters = counters.whole


def _add_by(counters: Any, name: str, reason: str, change: int) -> None:
    while counters is not None:
        counts = getattr(counters, name)
        key = reason if reason in counts or len(counts) < MAX_KEYS else OTHER
        counts[key] = counts.get(key, 0) + change
        counters = counters.whole


def _add_distribution(
    counters: Any, name: str, count: int, total: float, buckets: list[int]
) -> None:
    while counters is not None:
        summary = getattr(counters, name)
        summary.count += count
        summary.total += total
        if isinstance(summary, Histogram) and len(buckets) == len(summary.counts):
            summary.counts[:] = [a + b for a, b in zip(summary.counts, buckets, strict=True)]
        counters = counters.whole


class ConnectSums:
    """What the governors of all workers have done, together and over restarts."""

    def __init__(self) -> None:
        self._present: dict[int, ConnectStats] = {}
        self._gone = ConnectStats()

    def take(self, worker: int, stats: ConnectStats) -> None:
        """What a worker's governor has done since that worker began."""
        self._present[worker] = stats

    def begin_anew(self, worker: int) -> None:
        """The worker has ended: what it had counted stays, who waited there waits no more."""
        stats = self._present.pop(worker, None)
        if stats is not None:
            stats = replace(stats, waiting=0, held_back=0, under_way=0, breakers=())
            self._gone = _added(self._gone, stats)

    def total(self) -> ConnectStats:
        """Return the sums."""
        found = self._gone
        for stats in self._present.values():
            found = _added(found, stats)
        return found


def _added(one: ConnectStats, other: ConnectStats) -> ConnectStats:
    causes = one.called_back.keys() | other.called_back.keys()
    return ConnectStats(
        waiting=one.waiting + other.waiting,
        held_back=one.held_back + other.held_back,
        under_way=one.under_way + other.under_way,
        granted=one.granted + other.granted,
        called_back={
            each: one.called_back.get(each, 0) + other.called_back.get(each, 0) for each in causes
        },
        breaker_openings=one.breaker_openings + other.breaker_openings,
        breakers=(*one.breakers, *other.breakers),
    )
