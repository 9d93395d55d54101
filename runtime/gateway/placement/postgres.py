"""Gateways that share a fleet by leases in PostgreSQL, the store that they have anyway.

Owns what this engine needs beside `leased`: the database and who asks it.
"""

from __future__ import annotations

import secrets

from tunnelfleet.version import version_line

from .fleet_database import FleetDatabase
from .lease import LeaseTimes
from .leased import FollowsTunnels, LeasedPlacement, MayConnect
from .shards import SHARDS

__all__ = ["MayConnect", "PostgresPlacement"]


class PostgresPlacement(LeasedPlacement):
    """An engine of placement whose leases are in PostgreSQL.

    Args:
        url: of the database, as in the key `state`.
        name: of the gateway, unique in the fleet.
        connects: whose connects need the lease.
        connect_rate: connects a second of the whole fleet.
        key_id: names the secret of the deployment; all gateways must have the same.
        lease_seconds: how long a lease holds that is not renewed.
        shards: into how many the fleet is cut.
        fleet_address: where other gateways reach this one, as `HOST:PORT`.
        listener: told what follows for the tunnels that were added at run time.

    Raises:
        ConfigError: the URL names no PostgreSQL, or the driver is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        connects: MayConnect,
        connect_rate: float,
        key_id: str,
        lease_seconds: float = 10.0,
        shards: int = SHARDS,
        fleet_address: str | None = None,
        listener: FollowsTunnels | None = None,
    ) -> None:
        times = LeaseTimes(lease_seconds)
        database = FleetDatabase(
            url,
            name=name,
            run=secrets.token_hex(8),
            times=times,
            shards=shards,
            key_id=key_id,
            program=version_line(),
            on_notification=self.on_notification,
        )
        database.address = fleet_address
        super().__init__(
            database,
            kind="postgres",
            name=name,
            connects=connects,
            connect_rate=connect_rate,
            times=times,
            shards=shards,
            listener=listener,
        )
