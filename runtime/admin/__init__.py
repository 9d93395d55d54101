"""The administration server of a runtime: metrics, liveness and readiness over HTTP."""

from .options import AdminOptions, parse_admin_address
from .readiness import Readiness, ReadinessReport
from .server import AdminServer

__all__ = [
    "AdminOptions",
    "AdminServer",
    "Readiness",
    "ReadinessReport",
    "parse_admin_address",
]
