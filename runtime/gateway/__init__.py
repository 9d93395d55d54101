"""The fleet gateway: many tunnels from files, in one process, that change while it runs.

`Gateway` is what a program holds; `messages` has what may be asked of it.
"""

from .gateway import FILES, Gateway
from .messages import (
    CompareWanted,
    DrainTunnels,
    Leave,
    Left,
    PutWanted,
    Reload,
    ReloadResult,
    RemoveWanted,
    ReplaceTunnelToken,
    RetryTunnels,
    SetWanted,
    Snapshot,
    TakeSnapshot,
    UnknownTunnel,
)
from .placement import Assigned, Placement, Revoked, StaticPlacement
from .snapshot import TunnelRow
from .wanted import WantedTunnel

__all__ = [
    "FILES",
    "Assigned",
    "CompareWanted",
    "DrainTunnels",
    "Gateway",
    "Leave",
    "Left",
    "Placement",
    "PutWanted",
    "Reload",
    "ReloadResult",
    "RemoveWanted",
    "ReplaceTunnelToken",
    "RetryTunnels",
    "Revoked",
    "SetWanted",
    "Snapshot",
    "StaticPlacement",
    "TakeSnapshot",
    "TunnelRow",
    "UnknownTunnel",
    "WantedTunnel",
]
