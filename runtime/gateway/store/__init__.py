"""What survives a restart: tunnels added at run time, and the audit.

`Store` is what a gateway and its API hold.
"""

from .audit import AuditQuery, AuditRecord
from .demands import LeftDemand, StoredDemand
from .errors import StoreError, Trouble
from .migrations import MIGRATIONS
from .store import Store, StoreActor
from .tunnels import TunnelChange

__all__ = [
    "MIGRATIONS",
    "AuditQuery",
    "AuditRecord",
    "LeftDemand",
    "Store",
    "StoreActor",
    "StoreError",
    "StoredDemand",
    "Trouble",
    "TunnelChange",
]
