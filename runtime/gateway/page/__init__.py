"""The status page: what runs, what is wrong and why, who is connected; live, and read only."""

from .page import Sample, StatusPage, look_at

__all__ = ["Sample", "StatusPage", "look_at"]
