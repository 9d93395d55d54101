"""The collector that a runtime gives to a Prometheus registry.

Owns what a scrape reads: the sums of the fleet and, where they are asked for, rows of single
tunnels, capped, with an `other` row for the rest. Nothing is registered at import.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from tunnelfleet.actors.callbacks import CallbackCounts, CallbackTotals
from tunnelfleet.actors.counters import Counters, ServiceCounters
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel.counting import OTHER, Declared, DispatcherStats, Kind, declared
from tunnelfleet.actors.transport.connect_gate import BreakerState, ConnectStats
from tunnelfleet.runtime.metrics.families import Breather
from tunnelfleet.version import VERSION

from .catalogue import CATALOGUE, PER_TUNNEL
from .families import SERVICE_COLUMNS, Labelled, Totals, empty, histogram, info, numbers, table

if TYPE_CHECKING:
    from .meters import DispatcherMeter, DispatcherRow, Reading, Row, TunnelMeter


def per_tunnel_families(
    rows: Sequence[Row], rest: dict[str, Totals], breather: Breather
) -> Iterator[Family]:
    """Make the families of the optional group "One tunnel".

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


_Labels: TypeAlias = tuple[str, ...]
_SERVICE_ROWS: Final = tuple(each for each in declared(ServiceCounters) if each.row)
_TUNNEL_ROWS: Final = tuple(each for each in declared(Counters) if each.row)
_STATE: Final = "tunnel_state"
_SINCE: Final = "tunnel_state_since_timestamp_seconds"


class _Table:
    """A table of the series of single tunnels: labels by row, values by metric."""

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
        for each in _SERVICE_ROWS:
            name = each.name
            self._put(each.metric, sum([getattr(service, name) for service in services]))
        for each in _TUNNEL_ROWS:
            self._put_counter(each, getattr(stats, each.name))
        self._put("state_since_timestamp_seconds", stats.since)
        self._states.append((*labels, stats.state.value))
        self._in_state.append(1)

    def _put_counter(self, each: Declared, value: Any) -> None:
        if each.bounds:
            self._put(f"{each.metric}_count", value.count)
            self._put(f"{each.metric}_sum", value.total)
        else:
            self._put(each.metric, sum(value.copy().values()) if each.label else value)

    def add_rest(self, mode: str, totals: Totals) -> None:
        self._labels.append((OTHER, mode))
        for each in _SERVICE_ROWS:
            index = SERVICE_COLUMNS.index(each.name)
            self._put(each.metric, sum(row[index] for row in totals.services.values()))
        for each in _TUNNEL_ROWS:
            self._put_counter(each, totals.of(each))
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


class TunnelCollector(Collector):
    """A collector for any registry of prometheus_client.

    Args:
        meter: of the tunnels.
        kernel: the dispatchers.
        callbacks: what became of callbacks.
        callback_threads: tells how many threads run them now.
        name: of the runtime; if it has one, every sample has it as the label `runtime`, so that
            several runtimes can share a registry.
        connects: tells what the governor does.
    """

    def __init__(
        self,
        meter: TunnelMeter,
        kernel: DispatcherMeter,
        callbacks: CallbackTotals,
        callback_threads: Callable[[], int],
        name: str = "",
        connects: Callable[[], ConnectStats] = ConnectStats,
    ) -> None:
        self._name = name
        self._connects = connects
        self._meter = meter
        self._kernel = kernel
        self._callbacks = callbacks
        self._callback_threads = callback_threads

    def describe(self) -> Iterable[Family]:
        """Every family, without samples: a registry asks for it so as to refuse a second one.

        Runtimes with names have the same families, told apart by a label: of them a registry
        refuses the second of one name.
        """
        if self._name:
            return [Family(f"tunnelfleet_runtime:{self._name}", "", "unknown")]
        shown = CATALOGUE if self._meter.rows else CATALOGUE[: -len(PER_TUNNEL)]
        return [empty(each.name) for each in shown]

    def collect(self) -> Iterator[Family]:
        """Make all families from the counters."""
        for family in self._families():
            if self._name:
                samples = Labelled(family.samples, "runtime", self._name)
                family.samples = samples  # type: ignore[assignment]
            yield family

    def _families(self) -> Iterator[Family]:
        reading = self._meter.read()
        totals = Totals(reading.fleets)
        yield from _traffic(totals)
        yield from _states(totals, reading)
        yield from _governor(self._connects())
        yield from _tunnels(totals)
        for each in declared(CallbackCounts):
            yield numbers(each.metric, [((), getattr(self._callbacks, each.name))])
        yield numbers("callback_threads", [((), self._callback_threads())])
        yield from self._kernel_families()
        yield info("build", _versions())
        yield numbers("threads", [((), threading.active_count())])
        if self._meter.rows:
            yield from per_tunnel_families(reading.rows, _rest(reading), Breather())

    def _kernel_families(self) -> Iterator[Family]:
        rows = self._kernel.rows()
        for each in declared(DispatcherStats):
            if each.label:
                yield numbers(each.metric, _by_class(rows, each.name))
            else:
                values = [((row.name,), getattr(row.stats, each.name)) for row in rows]
                yield numbers(each.metric, values)
        yield numbers("mailbox_messages", [((row.name,), row.mailbox_messages) for row in rows])
        yield numbers("dispatcher_lag_seconds", [((row.name,), row.lag_seconds) for row in rows])


def _rest(reading: Reading) -> dict[str, Totals]:
    """Return the sums of the tunnels without a row, by mode."""
    without = [fleet for fleet in reading.fleets if not fleet.has_rows]
    return {
        mode: Totals(fleet for fleet in without if fleet.counters.mode == mode)
        for mode in {fleet.counters.mode for fleet in without}
    }


def _by_class(rows: list[DispatcherRow], field: str) -> list[tuple[tuple[str], float]]:
    # Both metrics show all classes that ever failed or were restarted.
    names = {"WebSocketActor", "TunnelActor", "StreamActor"}
    for row in rows:
        names |= row.stats.actor_failures.keys() | row.stats.restarts.keys()
    return [
        ((name,), sum(getattr(row.stats, field).get(name, 0) for row in rows))
        for name in sorted(names)
    ]


def _traffic(totals: Totals) -> Iterator[Family]:
    services = sorted(totals.services.items())
    for each in declared(ServiceCounters):
        if not each.label:
            index = SERVICE_COLUMNS.index(each.name)
            yield numbers(each.metric, [(key, row[index]) for key, row in services])
            continue
        none = {(*key, reason): 0 for key, _row in services for reason in each.known}
        yield numbers(each.metric, sorted((none | totals.ends[each.name]).items()))


def _states(totals: Totals, reading: Reading) -> Iterator[Family]:
    states = [((state.value,), totals.states.get(state, 0)) for state in TunnelState]
    yield numbers("tunnels", states)
    since = [((state.value,), moment) for state, moment in sorted(totals.since.items())]
    yield numbers("state_since_timestamp_seconds", since)
    yield numbers("tunnels_opened", [((), reading.opened)])
    yield numbers("tunnels_closed", [((), reading.closed)])


def _governor(stats: ConnectStats) -> Iterator[Family]:
    by_why = {"turn": stats.waiting, "endpoint_down": stats.held_back}
    yield numbers("connects_waiting", [((why,), number) for why, number in by_why.items()])
    yield numbers("connects_under_way", [((), stats.under_way)])
    yield numbers("connect_permits", [((), stats.granted)])
    called_back = dict.fromkeys(("hung", "suspended"), 0) | stats.called_back
    yield numbers(
        "connect_permits_called_back", [((why,), number) for why, number in called_back.items()]
    )
    yield numbers("connects_suspended", [((), bool(stats.suspended))])
    states = [each.state for each in stats.breakers]
    shown = (BreakerState.HALF_OPEN, BreakerState.OPEN)
    yield numbers("endpoint_breakers", [((state.value,), states.count(state)) for state in shown])
    yield numbers("endpoint_breaker_openings", [((), stats.breaker_openings)])


def _tunnels(totals: Totals) -> Iterator[Family]:
    for each in declared(Counters):
        value = totals.of(each)
        if each.bounds:
            yield histogram(each.metric, value)
        elif each.label:
            every = dict.fromkeys(each.known, 0) | value
            yield numbers(each.metric, [((key,), number) for key, number in sorted(every.items())])
        else:
            yield numbers(each.metric, [((), value)])


def _versions() -> dict[str, str]:
    return {
        "version": VERSION,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
    }
