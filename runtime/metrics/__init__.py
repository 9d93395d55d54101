"""Metrics of a runtime: what there is, how it is summed, how it becomes Prometheus families."""

from .catalogue import CATALOGUE, GATEWAY, Kind, Metric
from .collector import TunnelCollector
from .dispatchers import KernelMeter
from .ledger import OTHER, Ledger

__all__ = [
    "CATALOGUE",
    "GATEWAY",
    "OTHER",
    "KernelMeter",
    "Kind",
    "Ledger",
    "Metric",
    "TunnelCollector",
]
