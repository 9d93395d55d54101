"""The status page: what runs, what is wrong and why, who is connected; live, and read only."""

from .page import StatusPage
from .status import Sample, look_at

__all__ = ["Sample", "StatusPage", "look_at"]
