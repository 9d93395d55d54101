"""Tunnels as metrics see them: counters with something in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tunnelfleet.actors.callbacks import CallbackTotals
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.runtime.metrics import DispatcherMeter, TunnelCollector, TunnelMeter
from tunnelfleet.runtime.metrics.families import SERVICE_COLUMNS

if TYPE_CHECKING:
    from tunnelfleet.actors.counters import TunnelStats


def count_some(
    stats: TunnelStats,
    sent: int = 0,
    *,
    service_id: str = "SSH",
    state: TunnelState = TunnelState.CONNECTED,
) -> TunnelStats:
    """Count what happens in a tunnel that has sent so many bytes on one open stream."""
    stats.enter(state)
    service = stats.service(service_id)
    service.count_sent(sent)
    service.count_received(2 * sent)
    service.count_stream_opened()
    service.count_stream_opened()
    service.count_stream_ended("peer_reset")
    for _ in range(3):
        service.count_connection_opened()
    service.count_connection_ended("local")
    stats.count_session_reset()
    stats.set_queue_bytes(10)
    stats.count_throttled(0.5)
    for _ in range(4):
        stats.count_connect_attempt()
    stats.count_reconnect("lost")
    stats.count_connect_failure("http_503")
    stats.count_dropped("stale_stream")
    stats.observe_connect(0.02)
    stats.observe_ping(0.003)
    stats.observe_queue_wait(0.2)
    return stats


def open_tunnel(
    meter: TunnelMeter,
    name: str,
    mode: str = "source",
    sent: int = 0,
    *,
    service_id: str = "SSH",
    state: TunnelState = TunnelState.CONNECTED,
) -> TunnelStats:
    """A metered tunnel with something in its counters."""
    return count_some(meter.open(name, mode), sent, service_id=service_id, state=state)


class CountedFleet:
    """A meter, its collector and a registry."""

    def __init__(self, rows: int = 0) -> None:
        self.meter = TunnelMeter(rows)
        self.kernel = DispatcherMeter()
        self.callbacks = CallbackTotals()
        self.collector = TunnelCollector(self.meter, self.kernel, self.callbacks, lambda: 3)
        self.registry = CollectorRegistry()
        self.registry.register(self.collector)

    def value(self, sample: str, **labels: str) -> float | None:
        """The value of a sample; None if it is not there."""
        return self.registry.get_sample_value(f"tunnelfleet_{sample}", labels)

    def total(self, sample: str, **labels: str) -> float:
        """The sum of the samples that have the labels."""
        return sum(
            each.value
            for family in self.registry.collect()
            for each in family.samples
            if each.name == f"tunnelfleet_{sample}" and labels.items() <= each.labels.items()
        )

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], tuple[str, float]]:
        """Every sample as a scrape has it: its kind and its value."""
        text = generate_latest(self.registry).decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): (family.type, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def counted(row: Sequence[int]) -> dict[str, int]:
    """What a row of `Totals.services` counts, by column; what is 0 is left out."""
    return {name: value for name, value in zip(SERVICE_COLUMNS, row, strict=True) if value}
