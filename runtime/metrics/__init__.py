"""Metrics of a runtime: what there is, how it is summed, how it becomes Prometheus families."""

from tunnelfleet.actors.kernel.counting import OTHER, Kind

from .catalogue import CATALOGUE, GATEWAY, Metric
from .collector import TunnelCollector
from .meters import DispatcherMeter, TunnelMeter

Ledger = TunnelMeter
KernelMeter = DispatcherMeter
"""The former names, for one release."""

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
