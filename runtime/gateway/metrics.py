"""The gateway's own metrics: the last reload, the fleet's size, and what its tunnels are called.

Owns the families that only a gateway has; those of its tunnels are in
`tunnelfleet.runtime.metrics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import Metric

    from .fleet_state import FleetState

__all__ = ["GATEWAY_METRICS", "MAX_INFO_LABELS", "MAX_INFO_ROWS", "GatewayCollector"]

MAX_INFO_ROWS = 2_000
"""Tunnels that `tunnelfleet_tunnel_info` shows, the first by name."""
MAX_INFO_LABELS = 10
"""Labels that it shows, the most frequent ones."""
INFO = "tunnelfleet_tunnel_info"

_HELP = {
    "tunnelfleet_config_last_reload_successful": (
        "Whether the files were taken over when they were last read."
    ),
    "tunnelfleet_config_last_reload_success_timestamp_seconds": (
        "When the files were last taken over."
    ),
    "tunnelfleet_gateway_tunnels_wanted": ("Tunnels that are wanted and assigned to this gateway."),
    "tunnelfleet_gateway_tunnels_running": "Tunnels that run, connected or not.",
    INFO: "The tunnels of the gateway with their labels; always 1.",
}
GATEWAY_METRICS = frozenset(_HELP)
"""The names of all that a gateway adds."""


class GatewayCollector(Collector):
    """Collects the metrics of one gateway.

    Args:
        state: of the fleet.
    """

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._parts: list[Callable[[], Iterable[Metric]]] = []

    def add(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Take the metrics of a part of the gateway too."""
        self._parts.append(collect)

    def describe(self) -> Iterator[Metric]:
        """Nothing is registered by name, so that two gateways can share a registry."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families."""
        state = self._state
        wishes = state.wishes()
        values = {
            "tunnelfleet_config_last_reload_successful": float(state.reload_ok),
            "tunnelfleet_config_last_reload_success_timestamp_seconds": state.reloaded_at,
            "tunnelfleet_gateway_tunnels_wanted": float(sum(map(state.is_ours, wishes))),
            "tunnelfleet_gateway_tunnels_running": float(len(state.running)),
        }
        for name, value in values.items():
            yield GaugeMetricFamily(name, _HELP[name], value=value)
        yield self._info()
        for collect in self._parts:
            yield from collect()

    def _info(self) -> Metric:
        tunnels = sorted(dict(self._state.running).items())[:MAX_INFO_ROWS]
        counts: dict[str, int] = {}
        for _name, running in tunnels:
            for label in running.tunnel.labels:
                counts[label] = counts.get(label, 0) + 1
        labels = sorted(sorted(counts), key=lambda label: -counts[label])[:MAX_INFO_LABELS]
        family = GaugeMetricFamily(
            INFO,
            _HELP[INFO],
            labels=["tunnel", "mode", *(f"label_{label}" for label in labels)],
        )
        for name, running in tunnels:
            values = [running.tunnel.labels.get(label, "") for label in labels]
            family.add_metric([name, running.tunnel.mode.value, *values], 1.0)
        return family
