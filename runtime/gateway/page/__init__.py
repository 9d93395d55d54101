"""The status page: what runs, what is wrong and why, who is connected; live, and read only."""

from .page import StatusPage
from .sample import FleetWatch, Sample, look_at

__all__ = ["FleetWatch", "Sample", "StatusPage", "look_at"]
