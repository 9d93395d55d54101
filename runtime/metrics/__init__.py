"""Metrics of a runtime: what there is, how it is summed, how it becomes Prometheus families."""
# Loaded when somebody first asks for one of the names (PEP 562): a runtime counts from its start,
# and needs no Prometheus before somebody asks for its collector.

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnelfleet.lazy import names_in

if TYPE_CHECKING:
    from tunnelfleet.actors.kernel.counting import OTHER, Kind

    from .catalogue import CATALOGUE, GATEWAY, Metric
    from .collector import TunnelCollector
    from .meters import DispatcherMeter, TunnelMeter
    from .meters import DispatcherMeter as KernelMeter
    from .meters import TunnelMeter as Ledger

__all__ = [
    "CATALOGUE",
    "GATEWAY",
    "OTHER",
    "DispatcherMeter",
    "KernelMeter",
    "Kind",
    "Ledger",
    "Metric",
    "TunnelCollector",
    "TunnelMeter",
]

__getattr__ = names_in(
    __name__,
    {
        "CATALOGUE": "catalogue",
        "DispatcherMeter": "meters",
        "GATEWAY": "catalogue",
        "Kind": "catalogue",
        "Metric": "catalogue",
        "OTHER": "meters",
        "TunnelCollector": "collector",
        "TunnelMeter": "meters",
        # The former names, for one release.
        "KernelMeter": "meters.DispatcherMeter",
        "Ledger": "meters.TunnelMeter",
    },
)
