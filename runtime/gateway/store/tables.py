"""The tables of a gateway's state, as they are after the newest migration.

Owns their names and columns, for the statements of this room. How a database gets there is in
`migrations`; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

METADATA = MetaData()

_LONG = BigInteger().with_variant(Integer, "sqlite")
_DOUBLE = Float(53)

SCHEMA = Table(
    "tunnelfleet_schema",
    METADATA,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at", _DOUBLE, nullable=False),
    Column("program", Text, nullable=False),
)
"""The migrations that were applied; the highest is the version of the state."""

TUNNELS = Table(
    "tunnelfleet_tunnels",
    METADATA,
    Column("gateway", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("entry", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("changed_at", _DOUBLE, nullable=False),
    Column("slot", Integer, nullable=False, server_default="0"),
    Index("tunnelfleet_tunnels_slot", "gateway", "slot"),
    Index("tunnelfleet_tunnels_order", "gateway", "name"),
)
"""Tunnels added at run time: the keys of `[[tunnel]]` as JSON; what is secret in them is sealed.

Those of gateways that share a fleet stand under the gateway "", which nobody is called. The slot
says which shard a tunnel is in, whatever the number of shards.
"""

DEVICES = Table(
    "tunnelfleet_devices",
    METADATA,
    Column("gateway", Text, primary_key=True),
    Column("token_hash", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("broker", Text, nullable=False),
    Column("thing", Text, nullable=False),
    Column("services", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("received_at", _DOUBLE, nullable=False),
)
"""Tunnels that devices were told of by a notification; their tokens are sealed."""

AUDIT = Table(
    "tunnelfleet_audit",
    METADATA,
    Column("id", _LONG, Identity(), primary_key=True),
    Column("gateway", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("number", _LONG, nullable=False),
    Column("kind", Text, nullable=False),
    Column("tunnel", Text, nullable=False),
    Column("service_id", Text, nullable=False),
    Column("stream_id", _LONG),
    Column("connection_id", _LONG),
    Column("peer", Text, nullable=False),
    Column("user_name", Text, nullable=False),
    Column("channel_id", Text, nullable=False),
    Column("opened_at", _DOUBLE, nullable=False),
    Column("ended_at", _DOUBLE),
    Column("sent_bytes", _LONG, nullable=False),
    Column("received_bytes", _LONG, nullable=False),
    Column("ended_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Index("tunnelfleet_audit_record", "run", "number", unique=True),
    Index("tunnelfleet_audit_gateway", "gateway", "id"),
    Index("tunnelfleet_audit_tunnel", "tunnel", "id"),
    Index("tunnelfleet_audit_opened", "opened_at"),
)
"""One row for each stream, connection and denial; `run` is one run of a gateway's process."""

DEMANDS = Table(
    "tunnelfleet_demands",
    METADATA,
    Column("gateway", Text, primary_key=True),
    Column("request", Text, primary_key=True),
    Column("thing", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("begun_at", _DOUBLE, nullable=False),
    Column("ends_at", _DOUBLE, nullable=False),
    Column("tunnel_id", Text, nullable=False),
    Column("entry", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("is_over", Integer, nullable=False),
)
"""Tunnels on demand: one row for each call of OpenTunnel; the tokens in them are sealed."""

FLEET = Table(
    "tunnelfleet_fleet",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("shards", Integer, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("epoch", _LONG, nullable=False),
    Column("version", _LONG, nullable=False),
    Column("tunnels_version", _LONG, nullable=False),
    Column("grace_until", _DOUBLE, nullable=False),
)
"""The fleet that gateways share: one row, number 1, once the first of them has joined."""

GATEWAYS = Table(
    "tunnelfleet_gateways",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("run", Text, nullable=False),
    Column("epoch", _LONG, nullable=False),
    Column("lease_until", _DOUBLE, nullable=False),
    Column("beat_at", _DOUBLE, nullable=False),
    Column("is_leaving", Integer, nullable=False),
    Column("fleet_address", Text),
    Column("version", Text, nullable=False),
    Column("serial", _LONG, nullable=False),
)
"""The gateways that share the fleet, their leases by the server's clock."""

SHARDS = Table(
    "tunnelfleet_shards",
    METADATA,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("owner", Text),
    Column("epoch", _LONG, nullable=False),
)
"""Who has each shard: a gateway, in the run with this epoch."""

TABLES = (SCHEMA, TUNNELS, AUDIT, DEVICES, DEMANDS, FLEET, GATEWAYS, SHARDS)
