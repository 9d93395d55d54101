"""Metrics of a runtime: what there is, how it is summed, how it becomes Prometheus families."""
# Loaded when somebody first asks for one of the names (PEP 562): a runtime counts from its start,
# and needs no Prometheus before somebody asks for its collector.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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

_MODULES = {
    "CATALOGUE": "catalogue",
    "DispatcherMeter": "meters",
    "GATEWAY": "catalogue",
    "Kind": "catalogue",
    "Metric": "catalogue",
    "OTHER": "meters",
    "TunnelCollector": "collector",
    "TunnelMeter": "meters",
}
_FORMER = {"KernelMeter": "DispatcherMeter", "Ledger": "TunnelMeter"}
"""The former names, for one release."""


def __getattr__(name: str) -> object:
    """Load a public name.

    Raises:
        AttributeError: there is no such name.
    """
    present = _FORMER.get(name, name)
    if present not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[present]}"), present)
