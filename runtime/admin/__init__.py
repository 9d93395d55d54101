"""The administration server of a runtime: metrics, liveness and readiness over HTTP."""
# Loaded when somebody first asks for one of the names (PEP 562): the collector of every runtime
# takes a part of this, and only who serves it needs an HTTP server.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .health import Readiness, ReadinessReport
    from .options import AdminOptions, parse_admin_address
    from .server import AdminServer

__all__ = [
    "AdminOptions",
    "AdminServer",
    "Readiness",
    "ReadinessReport",
    "parse_admin_address",
]

_MODULES = {
    "AdminOptions": "options",
    "AdminServer": "server",
    "Readiness": "health",
    "ReadinessReport": "health",
    "parse_admin_address": "options",
}


def __getattr__(name: str) -> object:
    """Load a public name.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
