"""Which part of the fleet is this gateway's, and who decides it.

`shards` has the cut and the interface; `lease` decides among gateways that share a database, and
`postgres` carries that out.
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
