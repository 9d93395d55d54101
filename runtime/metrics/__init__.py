"""Metrics of a runtime: what there is, how it is summed, how it becomes Prometheus families."""

from tunnelfleet.actors.kernel.counting import Kind

from .catalogue import CATALOGUE, Metric
from .collector import TunnelCollector
from .dispatchers import KernelMeter
from .ledger import OTHER, Ledger

__all__ = ["CATALOGUE", "OTHER", "KernelMeter", "Kind", "Ledger", "Metric", "TunnelCollector"]
