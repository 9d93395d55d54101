"""Devices: destinations that are opened when a broker tells this gateway's devices of a tunnel."""

from .book import DeviceTunnel
from .notification import Notification

__all__ = ["DeviceTunnel", "Notification"]
