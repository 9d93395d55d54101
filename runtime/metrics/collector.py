"""The collector of a runtime: makes fresh metric families of its counters at each scrape.

Owns what each metric of the catalogue is read from. It registers itself nowhere: give it to any
registry. A byte that passes a tunnel never meets it; it reads what the actors have counted, on the
thread that scrapes. Without per-tunnel series that costs the same for any number of tunnels.
"""

from __future__ import annotations

import importlib.metadata
import platform
import threading
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from tunnelfleet.actors.stats import TunnelState
from tunnelfleet.proto import DropReason, StopCause

from .breather import Breather
from .catalogue import CATALOGUE, PER_TUNNEL
from .families import empty, histogram, info, numbers
from .samples import Labelled
from .totals import SERVICE_COLUMNS, TUNNEL_COLUMNS, Totals
from .tunnel_rows import per_tunnel_families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tunnelfleet.actors.lane_stats import CallbackTotals

    from .kernel import KernelMeter, KernelRow
    from .ledger import Ledger, Reading

__all__ = ["KNOWN_REASONS", "TunnelCollector"]

KNOWN_REASONS: Final[dict[str, tuple[str, ...]]] = {
    "reconnects": (
        "announce_timeout",
        "closed",
        "crashed",
        "lost",
        "ping_timeout",
        "protocol_error",
        "token_replaced",
    ),
    "connect_failures": ("connect_failed", "connect_timeout", "crashed", "http_403"),
    "dropped_messages": (
        *(reason.value for reason in DropReason),
        "local_end_gone",
        "refused_start",
    ),
    "exhausted_operations": ("accept", "listen", "local_connect"),
}
"""Exposed as zero before the first of their kind: a rate needs the zero."""

_ENDS: Final[dict[str, tuple[str, ...]]] = {
    "streams_ended": tuple(cause.value for cause in StopCause),
    "connections_ended": ("disconnected", "local", "peer", "session_reset"),
}
_CALLBACK_NUMBERS: Final = {
    "callback_events": "events",
    "callback_errors": "errors",
    "slow_callbacks": "slow",
    "callback_stalls": "stalls",
    "dropped_events": "dropped",
}
_KERNEL_NUMBERS: Final = (
    "messages_handled",
    "turns",
    "slow_turns",
    "longest_turn_seconds",
    "actors_alive",
    "actors_started",
    "quarantines",
    "dead_letters",
    "abandoned_children",
)


class TunnelCollector(Collector):
    """A collector for any registry of prometheus_client.

    Args:
        ledger: the tunnels.
        kernel: the dispatchers.
        callbacks: what became of callbacks.
        callback_threads: tells how many threads run them now.
        name: of the runtime; if it has one, every sample has it as the label `runtime`, so that
            several runtimes can share a registry.
    """

    def __init__(
        self,
        ledger: Ledger,
        kernel: KernelMeter,
        callbacks: CallbackTotals,
        callback_threads: Callable[[], int],
        name: str = "",
    ) -> None:
        self._name = name
        self._ledger = ledger
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
        shown = CATALOGUE if self._ledger.rows else CATALOGUE[: -len(PER_TUNNEL)]
        return [empty(each.name) for each in shown]

    def collect(self) -> Iterator[Family]:
        """Sum up."""
        for family in self._families():
            if self._name:
                samples = Labelled(family.samples, "runtime", self._name)
                family.samples = samples  # type: ignore[assignment]
            yield family

    def _families(self) -> Iterator[Family]:
        reading = self._ledger.read()
        totals = Totals(reading.fleets)
        yield from _traffic(totals)
        yield from _tunnels(totals, reading)
        yield from _flow(totals)
        for name, attribute in _CALLBACK_NUMBERS.items():
            yield numbers(name, [((), getattr(self._callbacks, attribute))])
        yield numbers("callback_threads", [((), self._callback_threads())])
        yield from self._kernel_families()
        yield info("build", _versions())
        yield numbers("threads", [((), threading.active_count())])
        if self._ledger.rows:
            yield from per_tunnel_families(reading.rows, _rest(reading), Breather())

    def _kernel_families(self) -> Iterator[Family]:
        rows = self._kernel.rows()
        for name in _KERNEL_NUMBERS:
            yield numbers(name, [((row.name,), getattr(row.stats, name)) for row in rows])
        yield numbers("mailbox_messages", [((row.name,), row.mailbox_messages) for row in rows])
        yield numbers("dispatcher_lag_seconds", [((row.name,), row.lag_seconds) for row in rows])
        for name, field in (("actor_failures", "actor_failures"), ("actor_restarts", "restarts")):
            yield numbers(name, _by_class(rows, field))


def _rest(reading: Reading) -> dict[str, Totals]:
    """By mode, what the tunnels without a row come to."""
    without = [fleet for fleet in reading.fleets if not fleet.has_rows]
    return {
        mode: Totals(fleet for fleet in without if fleet.counters.mode == mode)
        for mode in {fleet.counters.mode for fleet in without}
    }


def _by_class(rows: list[KernelRow], field: str) -> list[tuple[tuple[str], float]]:
    # All classes that ever failed or were restarted, so that both have the same rows.
    names = {"WebSocketActor", "TunnelActor", "StreamActor"}
    for row in rows:
        names |= row.stats.actor_failures.keys() | row.stats.restarts.keys()
    return [
        ((name,), sum(getattr(row.stats, field).get(name, 0) for row in rows))
        for name in sorted(names)
    ]


def _traffic(totals: Totals) -> Iterator[Family]:
    services = sorted(totals.services.items())
    for index, name in enumerate(SERVICE_COLUMNS):
        yield numbers(name, [(key, row[index]) for key, row in services])
    for name, known in _ENDS.items():
        counts: dict[tuple[str, str, str], int] = getattr(totals, name)
        every = {(*key, reason): 0 for key, _row in services for reason in known} | counts
        yield numbers(name, sorted(every.items()))


def _tunnels(totals: Totals, reading: Reading) -> Iterator[Family]:
    states = [((state.value,), totals.states.get(state, 0)) for state in TunnelState]
    yield numbers("tunnels", states)
    since = [((state.value,), moment) for state, moment in sorted(totals.since.items())]
    yield numbers("state_since_timestamp_seconds", since)
    yield numbers("tunnels_opened", [((), reading.opened)])
    yield numbers("tunnels_closed", [((), reading.closed)])
    for name, known in KNOWN_REASONS.items():
        every = dict.fromkeys(known, 0) | getattr(totals, name)
        yield numbers(name, [((reason,), number) for reason, number in sorted(every.items())])
    yield histogram("connect_duration_seconds", totals.connect)
    yield histogram("ping_round_trip_seconds", totals.ping)


def _flow(totals: Totals) -> Iterator[Family]:
    for name in TUNNEL_COLUMNS:
        yield numbers(name, [((), totals.columns[name])])
    yield histogram("queue_wait_seconds", totals.queue_wait)


def _versions() -> dict[str, str]:
    try:
        version = importlib.metadata.version("tunnelfleet")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return {
        "version": version,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
    }
