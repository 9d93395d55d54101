"""The status page: what runs, what is wrong and why, who is connected; live, and read only."""

from .others import FleetWatch
from .page import Sample, StatusPage, look_at

__all__ = ["FleetWatch", "Sample", "StatusPage", "look_at"]
