"""Stand-ins for tunnels: counters with something in them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tunnelfleet.actors.stats import TunnelState, TunnelStats, count
from tunnelfleet.runtime.metrics import KernelMeter, Ledger, TunnelCollector


def make_stats(
    sent: int = 0, *, service_id: str = "SSH", state: TunnelState = TunnelState.CONNECTED
) -> TunnelStats:
    """The counters of a tunnel that has sent so many bytes on one open stream."""
    stats = TunnelStats()
    stats.enter(state)
    service = stats.service(service_id)
    service.sent_bytes = sent
    service.received_bytes = 2 * sent
    service.sent_messages = service.received_messages = 1
    service.streams_opened = 2
    service.streams_active = 1
    count(service.streams_ended, "peer_reset")
    service.connections_opened = 3
    service.connections_active = 2
    count(service.connections_ended, "local")
    stats.session_resets = 1
    stats.queue_bytes = 10
    stats.throttled_seconds = 0.5
    stats.connect_attempts = 4
    count(stats.reconnects, "lost")
    count(stats.connect_failures, "http_503")
    count(stats.dropped_messages, "stale_stream")
    stats.connect_seconds.observe(0.02)
    stats.ping_seconds.observe(0.003)
    stats.queue_wait.observe(0.2)
    return stats


class Fleet:
    """A ledger, its collector and a registry."""

    def __init__(self, rows: int = 0) -> None:
        self.ledger = Ledger(rows)
        self.kernel = KernelMeter()
        self.collector = TunnelCollector(self.ledger, self.kernel)
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
