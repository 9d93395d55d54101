"""What a gateway keeps of its workers: the table of them, and what their tunnels have counted.

A worker reports what a tunnel has counted since the worker opened it. `Tally` adds the difference
between two reports to the gateway's own counters, so that no sum goes back when a worker dies.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final, NamedTuple

import pykka
from pykka import ActorRef

from tunnelfleet.actors.counters import Counters, Histogram, ServiceCounters
from tunnelfleet.actors.kernel.counting import MAX_KEYS, OTHER, declared
from tunnelfleet.actors.net.socket_io import ExhaustionLog
from tunnelfleet.actors.transport.connect_gate import ConnectGate, ConnectStats

from .messages import ToWorker


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


@dataclass(eq=False)
class WorkerEntry:
    """What is known of one worker.

    Attributes:
        number: from 0.
        ref: its actor, while the process can be told things.
        pid: of its process; 0 while there is none.
        beat_at: when it last gave a sign of life, in seconds of `time.monotonic`.
        starts: how often it was started.
        tunnels: the actors of its tunnels, by serial.
    """

    number: int
    ref: ActorRef[Any] | None = None
    pid: int = 0
    beat_at: float = 0.0
    starts: int = 0
    tunnels: dict[int, ActorRef[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people."""
        return f"worker {self.number}"

    def tell(self, message: dict[str, Any], sock: socket.socket | None = None) -> None:
        """Tell the process, if it is there."""
        if self.ref is not None:
            with contextlib.suppress(pykka.ActorDeadError):
                self.ref.tell(ToWorker(message, sock))

    def tell_tunnels(self, message: Any) -> None:
        """Tell the actors of all its tunnels."""
        for ref in list(self.tunnels.values()):
            with contextlib.suppress(pykka.ActorDeadError):
                ref.tell(message)


class WorkerTable:
    """All workers, and what the actors that run them need to know.

    Args:
        count: how many workers.
    """

    def __init__(self, count: int) -> None:
        self.workers = [WorkerEntry(number) for number in range(count)]
        self.gate: ConnectGate | None = None
        """Whether tunnels may connect; its counts are written here, for each worker has its own."""
        self.rate_per_second = 0.0
        """A worker's share of the connects."""
        self.concurrency = 1
        """The same of those that may be under way at once."""
        self.supervisor: ActorRef[Any] | None = None
        """Of the workers' actors."""
        self.exhaustion = ExhaustionLog()
        """Writes the log line about descriptors that are missing."""
        self._connects = ConnectSums()

    def gate_fields(self) -> dict[str, Any]:
        """Return what a worker is told of the gate."""
        assert self.gate is not None
        rate = self.gate.rate_per_second
        return {
            "suspended": self.gate.closed_because,
            "left_seconds": self.gate.left_seconds,
            "gate_rate": None if rate is None else rate / len(self.workers),
        }

    def take_connects(self, number: int, stats: ConnectStats) -> None:
        """A worker tells what its governor has done."""
        self._connects.take(number, stats)
        self._publish_connects()

    def lose_connects(self, number: int) -> None:
        """A worker has ended."""
        self._connects.begin_anew(number)
        self._publish_connects()

    def _publish_connects(self) -> None:
        if self.gate is not None:
            # In the place of the governor, which writes it otherwise.
            self.gate.stats = self._connects.total()
