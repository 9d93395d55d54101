"""Which part of the fleet is this gateway's, and who decides it.

`shards` has the cut and the interface; `lease` decides among gateways that share a fleet, `leased`
carries that out, and `postgres` keeps the leases in a database.
"""

from .shards import (
    SERIAL_MARK,
    SHARDS,
    Assigned,
    FleetLeaves,
    Member,
    Placement,
    Revoked,
    StaticPlacement,
    Vacated,
    owner_of,
    shard_of,
    shards_of_member,
    worker_of,
)

__all__ = [
    "SERIAL_MARK",
    "SHARDS",
    "Assigned",
    "FleetLeaves",
    "Member",
    "Placement",
    "Revoked",
    "StaticPlacement",
    "Vacated",
    "owner_of",
    "shard_of",
    "shards_of_member",
    "worker_of",
]
