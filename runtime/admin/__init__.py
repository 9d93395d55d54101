"""The administration server of a runtime: metrics, liveness and readiness over HTTP."""

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
