"""Devices: destinations that are opened when a broker tells this gateway's devices of a tunnel."""

from .notification import Notification
from .wishes import DeviceTunnel

__all__ = ["DeviceTunnel", "Notification"]
