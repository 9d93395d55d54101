"""The public names of this package, which it loads when it is asked for one."""

from .gateway import Gateway
from .messages import (
    FILES,
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
from .shared_fleet import API
from .snapshot import TunnelRow
from .wanted import WantedTunnel

__all__ = [
    "API",
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
