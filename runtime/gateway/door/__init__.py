"""Front doors: one address for all tunnels, by name.

`Door` is what a program holds. SOCKS 5 and HTTP CONNECT come in, a tunnel by its name carries them.
"""

from .door import CONNECT_SOCKET, DOOR, Door, connect_path
from .hall import DOOR_METRICS, Denied, DoorLimits

__all__ = ["CONNECT_SOCKET", "DOOR", "DOOR_METRICS", "Denied", "Door", "DoorLimits", "connect_path"]
