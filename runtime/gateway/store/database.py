"""The database of a gateway's state: its tables after the newest migration, and the way to it.

How a database gets its tables is in `migrations`; a test compares the two. Owns how connections are
made and bounded in time, and that every error of the library leaves here as a `StoreError`. A file
of SQLite is made for its owner alone; no password comes from the URL or is ever shown.
"""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.config.paths import create_private_file

from .errors import explain

POOL_CONNECTIONS = 4
"""How many connections there are, the writer's and those of requests; more requests wait."""
POOL_WAIT_SECONDS = 10.0
BUSY_SECONDS = 15.0
"""SQLite: how long a writer waits for another process's transaction."""
BUSY_PAUSE_SECONDS = 0.01
"""SQLite: between two tries where it does not wait by itself."""
CONNECT_SECONDS = 5
"""PostgreSQL: how long to try one address."""
STATEMENT_MILLISECONDS = 20_000
UNANSWERED_MILLISECONDS = 15_000
"""PostgreSQL: a server that acknowledges nothing for so long is gone. TCP_USER_TIMEOUT."""
RECYCLE_SECONDS = 1_800
_READS = "tunnelfleet_reads"


class Database:
    """A database, opened when it is first used.

    Args:
        url: as in the key `state`.

    Raises:
        ConfigError: it names no database that can be used here, or the driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url = _parse(url)
        self.where = self._url.set(drivername=self._url.get_backend_name()).render_as_string()
        """The URL, for messages."""
        self._engine = self._make_engine()
        self._is_closed = False

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of SQLite."""
        return self._url.get_backend_name() == "sqlite"

    @property
    def path(self) -> Path | None:
        """The file of SQLite."""
        named = self._url.database
        if not self.is_sqlite or named is None or named.startswith("file:"):
            return None
        return Path(named)

    def _make_engine(self) -> Engine:
        given: dict[str, Any] = {
            "hide_parameters": True,
            "pool_size": POOL_CONNECTIONS,
            "max_overflow": 0,
            "pool_timeout": POOL_WAIT_SECONDS,
            "pool_recycle": RECYCLE_SECONDS,
        }
        if self.is_sqlite:
            engine = create_engine(self._url, connect_args={"timeout": BUSY_SECONDS}, **given)
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        try:
            return create_engine(
                self._url,
                pool_pre_ping=True,
                connect_args={
                    "connect_timeout": CONNECT_SECONDS,
                    "tcp_user_timeout": UNANSWERED_MILLISECONDS,
                    "options": f"-c statement_timeout={STATEMENT_MILLISECONDS}",
                    "application_name": "tunnelfleet",
                },
                **given,
            )
        except ImportError as error:
            raise ConfigError(
                f"the state at {self.where} needs a driver that is not installed ({error}); "
                "run: pip install 'tunnelfleet[postgres]'"
            ) from None

    def prepare(self) -> str:
        """Make the file of SQLite, for its owner alone, if there is none.

        Returns:
            A warning about the file, or an empty text.

        Raises:
            ConfigError: it cannot be made.
        """
        self._is_closed = False
        path = self.path
        if path is None:
            return ""
        try:
            is_there = path.exists()
            if not is_there and path.is_symlink():
                raise ConfigError(
                    f"{path} is a link that leads nowhere; remove it, or make its target"
                )
            if not is_there:
                create_private_file(path, b"")
            status = path.stat()
        except OSError as error:
            raise ConfigError(
                f"cannot use {path}: {error.strerror}; name another place, or let this user in"
            ) from None
        if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IROTH | stat.S_IWOTH):
            return f"others can read {path}; run: chmod o-rwx {path}"
        return ""

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """Begin a transaction that writes; it is undone when the block raises.

        Raises:
            StoreError: the database does not do it.
        """
        try:
            with self._used_pool(), self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise explain(error, self.where) from None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Begin a transaction that only reads, so that it waits for no writer.

        Raises:
            StoreError: the database does not do it.
        """
        try:
            with self._used_pool(), self._engine.connect() as connection:
                connection.execution_options(**{_READS: True})
                yield connection
        except SQLAlchemyError as error:
            raise explain(error, self.where) from None

    def close(self) -> None:
        """Close its connections, those in use as soon as they are not; a later use opens others."""
        self._is_closed = True
        self._engine.dispose()

    @contextlib.contextmanager
    def _used_pool(self) -> Iterator[None]:
        """See that what goes back to a pool once all are closed is closed as well."""
        pool = self._engine.pool
        try:
            yield
        finally:
            if self._is_closed:
                # It may have come from the one before, or from the one after it.
                pool.dispose()
                self._engine.pool.dispose()


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError("state: write sqlite:////PATH or postgresql://HOST/DATABASE") from None
    if url.password is not None or any("password" in each for each in url.query):
        raise ConfigError(
            "state: a password does not belong into the URL; put it into ~/.pgpass or PGPASSWORD"
        )
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigError("state: write sqlite:////PATH or postgresql://HOST/DATABASE")
    if not url.database or url.database == ":memory:":
        raise ConfigError("state: name a file, as in sqlite:////var/lib/tunnelfleet/state.db")
    return url


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # SQLAlchemy begins transactions itself then: the driver's own way begins them too late.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        # Readers and the writer do not wait for each other, and a commit is on the disk. On a file
        # that cannot be written the mode stays what it is.
        _begin_wal(cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
    finally:
        cursor.close()


def _begin_wal(cursor: Any) -> None:
    """Have a write-ahead log.

    Of two processes that make one at the same moment SQLite lets one fail, without the wait that it
    has for a writer.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # The low byte: what kind of busy the rest tells.
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() >= until:
                raise
            time.sleep(BUSY_PAUSE_SECONDS)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get(_READS, False)
    # A writer takes its lock at once: one that reads first could not take it later.
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


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
