"""The service's own metrics, for Prometheus.

Owns the families, each declared once in ``FAMILIES``; docs/service.md lists them, which a test
holds. Numbers are read when somebody asks; nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from .stats import ServiceStats

if TYPE_CHECKING:
    from prometheus_client import Metric

    Samples = Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """Where the numbers come from.

    Attributes:
        stats: of the service.
        calls: of the management API: (operation, error or "") -> count.
        notifications: by what became of them: sent, failed, waiting.
        state: rows that wait to be written, and whether the last try failed; None without a state.
    """

    stats: Callable[[], ServiceStats]
    calls: Callable[[], Mapping[tuple[str, str], int]] | None = None
    notifications: Callable[[], Mapping[str, int]] | None = None
    state: Callable[[], tuple[int, bool]] | None = None


@dataclass(frozen=True, slots=True)
class ServiceFamily:
    """A metric of the service.

    Attributes:
        name: with its unit; of a counter it ends with ``_total``.
        help: for people.
        labels: what its rows differ in.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: Final = (
    ServiceFamily("tunnelfleet_service_tunnels", "Open tunnels."),
    ServiceFamily("tunnelfleet_service_connections", "Accepted connections, with a token or not."),
    ServiceFamily("tunnelfleet_service_clients", "Clients connected to a tunnel.", ("mode",)),
    ServiceFamily("tunnelfleet_service_streams", "Active streams."),
    ServiceFamily("tunnelfleet_service_buffered_bytes", "Bytes that wait for a client to read."),
    ServiceFamily(
        "tunnelfleet_service_relayed_bytes_total", "Payload relayed, by its sender.", ("mode",)
    ),
    ServiceFamily(
        "tunnelfleet_service_dropped_messages_total", "Messages that had nobody to go to."
    ),
    ServiceFamily("tunnelfleet_service_events_total", "What happened, by event.", ("event",)),
    ServiceFamily(
        "tunnelfleet_service_management_calls_total",
        "Calls of the management API; error is empty for those that succeeded.",
        ("operation", "error"),
    ),
    ServiceFamily(
        "tunnelfleet_service_notifications_total",
        "Notifications that the broker confirmed (sent), and that were given up (failed).",
        ("result",),
    ),
    ServiceFamily(
        "tunnelfleet_service_notifications_waiting", "Notifications that wait for the broker."
    ),
    ServiceFamily("tunnelfleet_service_state_rows_waiting", "Rows that wait to be written."),
    ServiceFamily(
        "tunnelfleet_service_state_failing", "Whether the last try to write the state failed."
    ),
)


class ServiceCollector(Collector):
    """Collects the metrics of one service.

    Args:
        source: where the numbers come from.
    """

    def __init__(self, source: ServiceFigures) -> None:
        self._source = source

    def describe(self) -> Iterator[Metric]:
        """Nothing is registered by name, so that two services can share a registry."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families that there are numbers for."""
        found = {**self._of_service(), **self._of_parts()}
        for family in FAMILIES:
            samples = found.get(family.name)
            if samples is None:
                continue
            is_counter = family.name.endswith("_total")
            kind = CounterMetricFamily if is_counter else GaugeMetricFamily
            metric = kind(family.name, family.help, labels=family.labels)
            for labels, value in samples.items():
                metric.add_metric(labels, value)
            yield metric

    def _of_service(self) -> dict[str, Samples]:
        stats, prefix = self._source.stats(), "tunnelfleet_service_"
        return {
            f"{prefix}tunnels": {(): stats.tunnels},
            f"{prefix}connections": {(): stats.connections},
            f"{prefix}clients": {(mode.value,): count for mode, count in stats.clients.items()},
            f"{prefix}streams": {(): stats.streams},
            f"{prefix}buffered_bytes": {(): stats.buffered_bytes},
            f"{prefix}relayed_bytes_total": {
                (mode.value,): count for mode, count in stats.relayed_bytes.items()
            },
            f"{prefix}dropped_messages_total": {(): stats.dropped_messages},
            f"{prefix}events_total": {(kind.value,): count for kind, count in stats.events.items()},
        }

    def _of_parts(self) -> dict[str, Samples]:
        source, prefix = self._source, "tunnelfleet_service_"
        found: dict[str, Samples] = {}
        if source.calls is not None:
            found[f"{prefix}management_calls_total"] = {
                (operation, error): count for (operation, error), count in source.calls().items()
            }
        if source.notifications is not None:
            counts = source.notifications()
            found[f"{prefix}notifications_waiting"] = {(): counts["waiting"]}
            found[f"{prefix}notifications_total"] = {
                (result,): counts[result] for result in ("sent", "failed")
            }
        if source.state is not None:
            waiting, is_failing = source.state()
            found[f"{prefix}state_rows_waiting"] = {(): waiting}
            found[f"{prefix}state_failing"] = {(): float(is_failing)}
        return found
