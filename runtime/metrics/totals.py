"""Sums over fleets, for one scrape.

Owns how the counters of a few fleets become the numbers of the catalogue, by column. It reads
integers that other threads write, copies dicts before it looks into them, and takes no lock. It
knows neither tunnels nor Prometheus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.actors.counters import (
    CONNECT_SECONDS_BOUNDS,
    PING_SECONDS_BOUNDS,
    QUEUE_WAIT_SECONDS_BOUNDS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnelfleet.actors.counters import FleetCounters, Histogram
    from tunnelfleet.actors.state import TunnelState

    from .ledger import Fleet

__all__ = ["ENDS", "REASONS", "SERVICE_COLUMNS", "TUNNEL_COLUMNS", "HistogramSum", "Totals"]

SERVICE_COLUMNS: Final = (
    "sent_bytes",
    "received_bytes",
    "sent_messages",
    "received_messages",
    "streams_opened",
    "connections_opened",
    "streams_active",
    "connections_active",
)
TUNNEL_COLUMNS: Final = (
    "session_resets",
    "connect_attempts",
    "failed_sends",
    "stalled_connections",
    "throttled_seconds",
    "queue_bytes",
)
ENDS: Final = ("streams_ended", "connections_ended")
REASONS: Final = ("reconnects", "connect_failures", "dropped_messages", "exhausted_operations")


class HistogramSum:
    """The sum of many histograms with the same bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, values: Histogram) -> None:
        """Add one."""
        pairs = zip(self.counts, values.counts.copy(), strict=True)
        self.counts = [before + number for before, number in pairs]
        self.total += values.total

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
    """What fleets come to.

    Args:
        fleets: whose counters to sum.

    Attributes:
        services: by mode and service id, the sums of `SERVICE_COLUMNS`.
        streams_ended: by mode, service id and reason.
        connections_ended: the same.
        columns: the sums of `TUNNEL_COLUMNS`, by name.
        reconnects: by reason.
        connect_failures: by reason.
        dropped_messages: by kind.
        exhausted_operations: by operation.
        states: tunnels by state.
        since: the earliest entry into each state that a tunnel is in.
    """

    def __init__(self, fleets: Iterable[Fleet]) -> None:
        self.services: dict[tuple[str, str], list[int]] = {}
        self.streams_ended: dict[tuple[str, str, str], int] = {}
        self.connections_ended: dict[tuple[str, str, str], int] = {}
        self.columns: dict[str, float] = dict.fromkeys(TUNNEL_COLUMNS, 0)
        self.reconnects: dict[str, int] = {}
        self.connect_failures: dict[str, int] = {}
        self.dropped_messages: dict[str, int] = {}
        self.exhausted_operations: dict[str, int] = {}
        self.connect = HistogramSum(CONNECT_SECONDS_BOUNDS)
        self.ping = HistogramSum(PING_SECONDS_BOUNDS)
        self.queue_wait = HistogramSum(QUEUE_WAIT_SECONDS_BOUNDS)
        self.states: dict[TunnelState, int] = {}
        self.since: dict[TunnelState, float] = {}
        for fleet in fleets:
            self._add_services(fleet.counters)
            self._add_tunnels(fleet.counters)
            self._add_states(fleet.states)

    def _add_services(self, fleet: FleetCounters) -> None:
        for label, service in fleet.services.copy().items():
            key = (fleet.mode, label)
            row = [getattr(service, name) for name in SERVICE_COLUMNS]
            before = self.services.get(key, [0] * len(row))
            self.services[key] = [a + b for a, b in zip(before, row, strict=True)]
            for name in ENDS:
                _add(getattr(self, name), getattr(service, name), key)

    def _add_tunnels(self, fleet: FleetCounters) -> None:
        for name in TUNNEL_COLUMNS:
            self.columns[name] += getattr(fleet, name)
        for name in REASONS:
            _add(getattr(self, name), getattr(fleet, name))
        self.connect.add(fleet.connect_seconds)
        self.ping.add(fleet.ping_seconds)
        self.queue_wait.add(fleet.queue_wait)

    def _add_states(self, states: dict[TunnelState, tuple[int, float]]) -> None:
        for state, (number, since) in states.items():
            self.states[state] = self.states.get(state, 0) + number
            self.since[state] = min(since, self.since.get(state, since))


def _add(sums: dict[Any, int], counts: dict[str, int], prefix: tuple[str, ...] = ()) -> None:
    for reason, number in counts.copy().items():
        key = (*prefix, reason) if prefix else reason
        sums[key] = sums.get(key, 0) + number
