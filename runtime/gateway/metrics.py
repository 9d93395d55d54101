"""The gateway's own metrics: the last reload, the fleet's size, and what its tunnels are called.

Owns the families that only a gateway has, and puts those of its parts beside them: each part, such
as the store, counts for itself and has a `collect`. Names and meanings are in the catalogue of
`tunnelfleet.runtime.metrics`, as are those of the tunnels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.runtime.metrics.catalogue import GATEWAY, metric
from tunnelfleet.runtime.metrics.families import numbers

if TYPE_CHECKING:
    from .fleet_state import FleetState


GATEWAY_METRICS: Final = frozenset(each.exposed for each in GATEWAY)
"""The names of all that a gateway adds, those of its parts too."""

logger = get_logger(__name__)


class Collects(Protocol):
    """A part of a gateway with metrics of its own."""

    def collect(self) -> Iterable[Metric]:
        """Its families, now."""


MAX_INFO_ROWS = 2_000
"""Tunnels that `tunnelfleet_tunnel_info` shows, the first by name."""
MAX_INFO_LABELS = 10
"""Labels that it shows, the most frequent ones."""
INFO = "tunnel_info"


class GatewayCollector(Collector):
    """Collects the metrics of one gateway.

    Args:
        state: of the fleet.
        others: parts of the gateway that count for themselves, such as the store.
    """

    def __init__(self, state: FleetState, others: Iterable[Collects] = ()) -> None:
        self._state = state
        self._parts: list[Callable[[], Iterable[Metric]]] = [each.collect for each in others]

    def add(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Take the metrics of a part of the gateway too."""
        self._parts.append(collect)

    def describe(self) -> Iterator[Metric]:
        """Nothing is registered by name, so that two gateways can share a registry."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        state = self._state
        wishes = state.wishes()
        values = {
            "config_last_reload_successful": float(state.reload_ok),
            "config_last_reload_success_timestamp_seconds": state.reloaded_at,
            "gateway_tunnels_wanted": float(sum(map(state.is_ours, wishes))),
            "gateway_tunnels_running": float(len(state.running)),
        }
        for name, value in values.items():
            yield numbers(name, [((), value)])
        yield self._info()
        for collect in tuple(self._parts):
            yield from self._of_part(collect)

    def _of_part(self, collect: Callable[[], Iterable[Metric]]) -> Iterable[Metric]:
        try:
            return list(collect())
        except Exception as error:  # noqa: BLE001 - one part must not take the others' metrics away
            logger.warning("metrics of a part of the gateway are left out: %s", error)
            return ()

    def _info(self) -> Metric:
        tunnels = sorted(dict(self._state.running).items())[:MAX_INFO_ROWS]
        counts: dict[str, int] = {}
        for _name, running in tunnels:
            for label in running.tunnel.labels:
                counts[label] = counts.get(label, 0) + 1
        labels = sorted(sorted(counts), key=lambda label: -counts[label])[:MAX_INFO_LABELS]
        family = GaugeMetricFamily(
            metric(INFO).exposed,
            metric(INFO).help,
            labels=["tunnel", "mode", *(f"label_{label}" for label in labels)],
        )
        for name, running in tunnels:
            values = [running.tunnel.labels.get(label, "") for label in labels]
            family.add_metric([name, running.tunnel.mode.value, *values], 1.0)
        return family
