"""Gateways that share a fleet by leases in PostgreSQL, the store that they have anyway.

`PostgresPlacement` is the engine. `FleetDatabase` owns one connection with limits in time: each
request is one round trip and one transaction of the server's, so that a gateway that freezes in the
middle holds no lock. Requests are numbered: one that the gateway has given up, and that the server
carries out after a later one, changes nothing. All times are the server's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from tunnelfleet.proto import ConfigError, counted
from tunnelfleet.runtime.gateway.store.tunnels import CHANNEL
from tunnelfleet.version import version_line

from .lease import LeaseAnswer, LeaseTimes, RequestKind
from .leased import FollowsTunnels, LeasedPlacement, MayConnect
from .members import FleetTable, GatewayRow, Owner
from .shards import SHARDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lease import LeaseRequest


logger = logging.getLogger(__name__)


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


CONNECT_SECONDS = 2
"""For one address; libpq takes no less."""
MEMBERS = "members"
"""The notification that gateways or shards have changed."""
FORGET_LEASES = 100
"""A gateway that was not heard for so many leases is forgotten."""
DEMAND_SECONDS = 12 * 3_600
"""Of a tunnel on demand, at the longest: so long a gateway is known that had some open."""
MILLISECONDS = 1_000
_NOW = "extract(epoch FROM clock_timestamp())::float8"

_BEGIN = f"""
INSERT INTO tunnelfleet_fleet (id, shards, key_id, epoch, version, tunnels_version, grace_until)
    SELECT 1, %(shards)s, %(key_id)s, began, began, began, 0
    FROM (VALUES (({_NOW} * {MILLISECONDS})::bigint)) AS clock (began) ON CONFLICT DO NOTHING;
UPDATE tunnelfleet_fleet SET shards = %(shards)s, version = version + 1
    WHERE shards <> %(shards)s AND key_id = %(key_id)s
    AND NOT EXISTS (SELECT FROM tunnelfleet_gateways WHERE lease_until > {_NOW});
DELETE FROM tunnelfleet_shards WHERE shard >= (SELECT shards FROM tunnelfleet_fleet);
INSERT INTO tunnelfleet_shards (shard, owner, epoch)
    SELECT shard, NULL, 0 FROM generate_series(0, (SELECT shards FROM tunnelfleet_fleet) - 1) shard
    ON CONFLICT DO NOTHING;
SELECT shards, key_id FROM tunnelfleet_fleet
"""  # noqa: S608 - nothing of others is in it
"""Makes the rows of a fleet. The number of shards may be changed while no gateway has a lease.

Epochs and versions begin with the time, in milliseconds. So those of a fleet whose rows were lost,
and are made anew while gateways run, are later than all that these gateways know.
"""

_GRACE = f"""
UPDATE tunnelfleet_fleet SET grace_until = {_NOW} + %(lease)s
    WHERE (SELECT max(beat_at) FROM tunnelfleet_gateways) < {_NOW} - %(outage)s;
"""  # noqa: S608 - nothing of others is in it
"""Nobody was heard for a while: it was the store that was away, and nobody loses anything yet."""

_TABLE = f"""
SELECT {_NOW}, shards, version, grace_until, tunnels_version,
    (SELECT count(*) FROM tunnelfleet_shards)
    FROM (VALUES (1)) AS one LEFT JOIN tunnelfleet_fleet ON true;
SELECT name, epoch, lease_until, is_leaving, fleet_address, version FROM tunnelfleet_gateways;
SELECT owner, epoch, array_agg(shard) FROM tunnelfleet_shards
    WHERE owner IS NOT NULL GROUP BY owner, epoch
"""  # noqa: S608 - nothing of others is in it
"""The first result has one row, whether the rows of the fleet are there or not."""

_IS_TAKEN = f"""
EXISTS (SELECT FROM tunnelfleet_gateways
    WHERE name = %(name)s AND run <> %(run)s AND lease_until > {_NOW})
"""

_IS_LATE = """
EXISTS (SELECT FROM tunnelfleet_gateways
    WHERE name = %(name)s AND run = %(run)s AND serial >= %(serial)s)
"""

_JOIN = f"""
{_GRACE}
UPDATE tunnelfleet_fleet SET epoch = epoch + 1, version = version + 1
    WHERE NOT {_IS_TAKEN} AND NOT {_IS_LATE};
INSERT INTO tunnelfleet_gateways
    (name, run, epoch, lease_until, beat_at, is_leaving, fleet_address, version, serial)
    SELECT %(name)s, %(run)s, epoch, {_NOW} + %(lease)s, {_NOW}, 0, %(address)s, %(program)s,
        %(serial)s FROM tunnelfleet_fleet WHERE NOT {_IS_TAKEN} AND NOT {_IS_LATE}
    ON CONFLICT (name) DO UPDATE SET run = excluded.run, epoch = excluded.epoch,
        lease_until = excluded.lease_until, beat_at = excluded.beat_at, is_leaving = 0,
        fleet_address = excluded.fleet_address, version = excluded.version,
        serial = excluded.serial
    WHERE CASE WHEN tunnelfleet_gateways.run = excluded.run
        THEN tunnelfleet_gateways.serial < excluded.serial
        ELSE tunnelfleet_gateways.lease_until <= {_NOW} END
    RETURNING epoch;
SELECT lease_until - {_NOW} FROM tunnelfleet_gateways WHERE name = %(name)s AND run <> %(run)s;
SELECT pg_notify('{CHANNEL}', '{MEMBERS}');
{_TABLE}
"""  # noqa: S608 - nothing of others is in it
"""A late one must not begin another life: this process would go on in the one that it has, while
others take its shards.
"""

_BEAT = f"""
{_GRACE}
UPDATE tunnelfleet_fleet SET version = version + 1 WHERE EXISTS (SELECT FROM tunnelfleet_gateways
    WHERE name = %(name)s AND epoch = %(epoch)s AND is_leaving <> %(leaving)s
    AND serial < %(serial)s);
WITH released AS (UPDATE tunnelfleet_shards SET owner = NULL, epoch = 0
    WHERE shard = ANY(%(shards)s) AND owner = %(name)s AND epoch = %(epoch)s
    AND NOT {_IS_LATE} RETURNING shard)
    SELECT count(*) FROM released;
UPDATE tunnelfleet_gateways SET lease_until = {_NOW} + %(lease)s, beat_at = {_NOW},
    is_leaving = %(leaving)s, fleet_address = %(address)s, serial = %(serial)s
    WHERE name = %(name)s AND epoch = %(epoch)s AND serial < %(serial)s RETURNING epoch;
DELETE FROM tunnelfleet_gateways WHERE lease_until < {_NOW} - %(forget)s
    AND NOT EXISTS (SELECT FROM tunnelfleet_demands WHERE gateway = tunnelfleet_gateways.name
        AND is_over = 0 AND begun_at > {_NOW} - %(life)s);
SELECT pg_notify('{CHANNEL}', '{MEMBERS}') WHERE %(tells)s;
{_TABLE}
"""  # noqa: S608 - nothing of others is in it

_CLAIM = f"""
WITH me AS (
    SELECT FROM tunnelfleet_gateways WHERE name = %(name)s AND epoch = %(epoch)s
        AND lease_until > {_NOW} AND serial < %(serial)s
        AND (SELECT version FROM tunnelfleet_fleet) = %(version)s
), gone AS MATERIALIZED (
    SELECT name, epoch FROM tunnelfleet_gateways
    WHERE lease_until <= {_NOW} AND (SELECT grace_until FROM tunnelfleet_fleet) <= {_NOW}
    FOR UPDATE SKIP LOCKED
), free AS (
    SELECT shard FROM tunnelfleet_shards
    WHERE shard = ANY(%(shards)s) AND EXISTS (SELECT FROM me) AND (
        owner IS NULL OR (owner, epoch) IN (SELECT name, epoch FROM gone)
        OR (owner, epoch) NOT IN (SELECT name, epoch FROM tunnelfleet_gateways))
    FOR UPDATE SKIP LOCKED
)
UPDATE tunnelfleet_shards SET owner = %(name)s, epoch = %(epoch)s
    FROM free WHERE tunnelfleet_shards.shard = free.shard RETURNING free.shard
"""  # noqa: S608 - nothing of others is in it
"""Who has a lease that has run out is locked first: a heartbeat of its in the same moment either
comes before, and then it is not gone, or after, and then it sees what it has lost.
"""

_GOODBYE = f"""
UPDATE tunnelfleet_fleet SET version = version + 1;
UPDATE tunnelfleet_shards SET owner = NULL, epoch = 0
    WHERE owner = %(name)s AND epoch = %(epoch)s;
DELETE FROM tunnelfleet_gateways WHERE name = %(name)s AND epoch = %(epoch)s;
SELECT pg_notify('{CHANNEL}', '{MEMBERS}')
"""  # noqa: S608 - nothing of others is in it


class FleetMismatchError(ConfigError):
    """This gateway and the fleet in the database do not agree about what all must agree about."""


class FleetDatabase:
    """The database of a fleet, for one gateway and one thread.

    Args:
        url: as in the key `state`.
        name: of the gateway.
        run: of its process, unlike that of any other.
        times: of the leases.
        shards: into how many the fleet is cut.
        key_id: names the secret of the deployment, and tells nothing of it.
        on_notification: called, in the thread that asks, with the text of each notification.

    Raises:
        ConfigError: the URL names no PostgreSQL, or the driver is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        run: str,
        times: LeaseTimes,
        shards: int,
        key_id: str,
        program: str,
        on_notification: Callable[[str], None],
    ) -> None:
        self._options = _connect_options(url, times)
        self._times = times
        self._shards = shards
        self._key_id = key_id
        self._on_notification = on_notification
        self._connection: psycopg.Connection[Any] | None = None
        self._cutter: socket.socket | None = None
        """A copy of the connection's descriptor: that one may be another's when it is to be cut,
        and for a copy at that moment there may be no descriptor left."""
        self._cutter_lock = threading.Lock()
        self.address: str | None = None
        """Where other gateways reach this one; goes with the next heartbeat."""
        self._always = {
            "name": name,
            "run": run,
            "program": program,
            "lease": times.lease_seconds,
            "outage": times.outage_seconds,
            "forget": FORGET_LEASES * times.lease_seconds,
            "life": DEMAND_SECONDS,
        }

    @property
    def descriptor(self) -> int | None:
        """Of the connection, to wait for notifications; None without one."""
        connection = self._connection
        return None if connection is None or connection.closed else connection.fileno()

    def do(self, request: LeaseRequest) -> LeaseAnswer:
        """Carry a request out. Waits.

        Raises:
            OSError: nobody knows whether it was done; the connection is closed.
            FleetMismatchError: this gateway may not take part.
        """
        try:
            return self._do(self._connected(), request)
        except FleetMismatchError:
            raise
        except psycopg.Error as error:
            self.close()
            raise ConnectionError(str(error)) from error
        except BaseException:
            # Nobody knows what the connection is in the middle of.
            self.close()
            raise

    def _do(self, connection: psycopg.Connection[Any], request: LeaseRequest) -> LeaseAnswer:
        match request.kind:
            case RequestKind.JOIN:
                return self._join(connection, request)
            case RequestKind.BEAT:
                return self._beat(connection, request)
            case RequestKind.CLAIM:
                (rows,) = self._run(connection, _CLAIM, request)
                return LeaseAnswer(claimed=frozenset(row[0] for row in rows))
            case RequestKind.GOODBYE:
                self._run(connection, _GOODBYE, request)
                return LeaseAnswer()

    def hear(self) -> None:
        """Take what has arrived on the channel, without waiting.

        Raises:
            OSError: the connection has ended.
        """
        if self._connection is None:
            return
        libpq = self._connection.pgconn
        try:
            libpq.consume_input()
            while (found := libpq.notifies()) is not None:
                self._on_notification(found.extra.decode(errors="replace"))
        except psycopg.Error as error:
            self.close()
            raise ConnectionError(str(error)) from error

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        connection, self._connection = self._connection, None
        with self._cutter_lock:
            cutter, self._cutter = self._cutter, None
            if cutter is not None:
                cutter.close()
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def cut(self) -> None:
        """End a request that takes too long; from any thread. It raises where it was asked.

        A connection that is only being made is not cut: making it has a limit of its own,
        `CONNECT_SECONDS` for each host of the URL.
        """
        # It may have ended already.
        with self._cutter_lock, contextlib.suppress(OSError):
            if self._cutter is not None:
                self._cutter.shutdown(socket.SHUT_RDWR)

    # -- requests

    def _join(self, connection: psycopg.Connection[Any], request: LeaseRequest) -> LeaseAnswer:
        self._begin(connection)
        results = self._run(connection, _JOIN, request)
        epochs, taken, _told, *table = results
        return LeaseAnswer(
            self._table_of(table),
            epoch=epochs[0][0] if epochs else 0,
            taken_seconds=max(0.0, taken[0][0]) if taken else 0.0,
        )

    def _begin(self, connection: psycopg.Connection[Any]) -> None:
        values = {"shards": self._shards, "key_id": self._key_id}
        with psycopg.ClientCursor(connection) as cursor:
            *_made, fleets = _results(cursor.execute(_BEGIN, values))
        if not fleets:
            raise ConnectionError(
                "the row of tunnelfleet_fleet is missing, and was not there after it was made: let "
                "this gateway's role read and write all rows of that table"
            )
        ((shards, key_id),) = fleets
        if key_id != self._key_id:
            raise FleetMismatchError(
                "the fleet in this state was begun with another secret: give all its gateways the "
                "same client_token_secret_file"
            )
        if shards != self._shards:
            raise FleetMismatchError(
                f"the fleet in this state has {counted(shards, 'shard')}, and this gateway's "
                f"file says {self._shards}: write shards = {shards}, or stop all gateways to "
                "change it"
            )

    def _beat(self, connection: psycopg.Connection[Any], request: LeaseRequest) -> LeaseAnswer:
        _released, epochs, *told, rows, gateways, owners = self._run(connection, _BEAT, request)
        del told
        table = self._table_of([rows, gateways, owners])
        if not _has_all_rows(rows):
            # Only a join makes them.
            logger.error(
                "rows of the fleet are missing in its database: this gateway joins it anew",
                extra={"event": "fleet_rows_missing"},
            )
            return LeaseAnswer(table)
        return LeaseAnswer(table, epoch=epochs[0][0] if epochs else 0)

    def _table_of(self, results: list[list[Any]]) -> FleetTable:
        """What the statements of `_TABLE` tell; where the fleet has no row, nobody has a shard."""
        ((now, shards, version, grace_until, tunnels_version, _rows),), gateways, owned = results
        owners: list[Owner | None] = [None] * (shards or self._shards)
        for name, epoch, numbers in owned:
            owner = Owner(name, epoch)
            for number in numbers:
                if number < len(owners):
                    owners[number] = owner
        return FleetTable(
            now,
            tuple(
                GatewayRow(name, epoch, until, bool(is_leaving), address, program)
                for name, epoch, until, is_leaving, address, program in gateways
            ),
            tuple(owners),
            version or 0,
            grace_until or 0.0,
            tunnels_version or 0,
        )

    def _run(
        self, connection: psycopg.Connection[Any], statements: str, request: LeaseRequest
    ) -> list[list[Any]]:
        """Run statements in one round trip; the rows of those that have some."""
        values = {
            **self._always,
            "address": self.address,
            "epoch": request.epoch,
            "shards": sorted(request.shards),
            "leaving": int(request.is_leaving),
            "version": request.version,
            "serial": request.serial,
            "tells": bool(request.shards) or request.is_leaving,
        }
        # Its parameters are put into the text on this side, so that several statements can go in
        # one message.
        with psycopg.ClientCursor(connection) as cursor:
            return _results(cursor.execute(statements, values))

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is not None:
            return self._connection
        connection = psycopg.Connection.connect(autocommit=True, **self._options)
        self._connection = connection
        self._cutter = socket.socket(fileno=os.dup(connection.fileno()))
        connection.add_notify_handler(lambda found: self._on_notification(found.payload))
        connection.execute(f"LISTEN {CHANNEL}")
        return connection


def _results(cursor: psycopg.Cursor[Any]) -> list[list[Any]]:
    found = []
    while True:
        if cursor.description is not None:
            found.append(cursor.fetchall())
        if not cursor.nextset():
            return found


def _has_all_rows(rows: list[Any]) -> bool:
    ((_now, shards, _version, _grace_until, _tunnels_version, count),) = rows
    return shards is not None and count >= shards


def _connect_options(url: str, times: LeaseTimes) -> dict[str, Any]:
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise ConfigError('placement = "postgres" needs state = "postgresql://HOST/DATABASE"')
    parsed = parsed.set(drivername="postgresql+psycopg")
    _args, options = create_engine(parsed).dialect.create_connect_args(parsed)
    request_milliseconds = int(times.request_seconds * MILLISECONDS)
    given = options.pop("options", "")
    return {
        **options,
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": request_milliseconds,
        "options": f"{given} -c statement_timeout={request_milliseconds}"
        f" -c lock_timeout={request_milliseconds}"
        f" -c idle_in_transaction_session_timeout={request_milliseconds}".strip(),
        "application_name": "tunnelfleet-placement",
    }
