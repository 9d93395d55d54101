"""The administration server of a runtime: metrics, liveness and readiness over HTTP."""
# Loaded when somebody first asks for one of the names (PEP 562): the collector of every runtime
# takes a part of this, and only who serves it needs an HTTP server.

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnelfleet.lazy import names_in

if TYPE_CHECKING:
    from .options import AdminOptions, parse_admin_address
    from .server import AdminServer, Readiness, ReadinessReport

__all__ = [
    "AdminOptions",
    "AdminServer",
    "Readiness",
    "ReadinessReport",
    "parse_admin_address",
]

__getattr__ = names_in(
    __name__,
    {
        "AdminOptions": "options",
        "AdminServer": "server",
        "Readiness": "server",
        "ReadinessReport": "server",
        "parse_admin_address": "options",
    },
)
