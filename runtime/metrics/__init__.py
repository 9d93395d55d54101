"""Metrics of a runtime: what there is, how it is summed, how it becomes Prometheus families."""

from tunnelfleet.actors.kernel.counting import Kind

from .catalogue import CATALOGUE, Metric
from .collector import TunnelCollector
from .dispatchers import DispatcherMeter
from .tunnels import OTHER, TunnelMeter

Ledger = TunnelMeter
KernelMeter = DispatcherMeter
"""The former names, for one release."""

__all__ = [
    "CATALOGUE",
    "OTHER",
    "DispatcherMeter",
    "KernelMeter",
    "Kind",
    "Ledger",
    "Metric",
    "TunnelCollector",
    "TunnelMeter",
]
