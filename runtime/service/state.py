"""What a service keeps over a restart: ``DIR/state.db``.

Owns the file, the thread that writes it, and what waits to be written. Nothing but ``flush`` waits
for the disk. Of each row only the last version waits, so what waits is bounded by the number of
tunnels; all that waits is written in one transaction.

Must not know what a tunnel is beyond the fields that it keeps. There are no tokens in it, only
digests of them (``tokens.KeptAccess``).

What has been written is there after the process was killed or the power failed. What a client's
connect changes (its token is used, and with which client token) is written a moment after the
client was let in; a crash in between leaves the token as it was.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy
from sqlalchemy import JSON, Column, Float, Integer, MetaData, String, Table
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.proto import ConfigError, Mode, TunnelError

from .files import PRIVATE_FOLDER_MODE, PRIVATE_MODE
from .tokens import KeptAccess
from .tunnels import KeptTunnel, Origin

_log = get_logger(__name__)


class StateError(TunnelError):
    """Something could not be written, or not in time; it is tried again until it is."""


@dataclass(frozen=True, slots=True)
class _Key:
    table: Table
    value: str

    @property
    def column(self) -> Column[str]:
        return next(iter(self.table.primary_key))


STATE_FILE: Final = "state.db"
SCHEMA_VERSION: Final = 1
FLUSH_SECONDS: Final = 10.0
"""How long a call waits for the disk."""
RETRY_SECONDS: Final = 1.0
"""Between two tries to write what could not be written."""
_metadata: Final = MetaData()
_tunnels: Final = Table(
    "tunnels",
    _metadata,
    Column("name", String, primary_key=True),
    Column("services", JSON, nullable=False),
    Column("origin", String, nullable=False),
    Column("bandwidth", Float),
    Column("closes_at", Float),
    Column("accesses", JSON, nullable=False),
)
_records: Final = Table(
    "records",
    _metadata,
    Column("tunnel_id", String, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("body", JSON, nullable=False),
)


class StateStore:
    """The state of one service in a file; one process has it at a time.

    Args:
        folder: where it is; made if need be.

    Raises:
        ConfigError: it cannot be used: it is damaged, newer, or no file.
        TunnelError: another service has it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE_FILE
        self._changed = threading.Condition()
        self._pending: dict[_Key, dict[str, Any] | None] = {}
        self._put_count = self._written_count = self._tried_count = 0
        self._failure: str | None = None
        self._closing = False
        _make_file(self._path)
        self._engine = sqlalchemy.create_engine(
            f"sqlite:///{self._path}",
            poolclass=sqlalchemy.pool.StaticPool,
            connect_args={"check_same_thread": False, "timeout": 1.0},
        )
        try:
            self._connection = self._open()
        except BaseException:
            self._engine.dispose()
            raise
        self._thread = threading.Thread(target=self._run, name="tunnelfleet-state", daemon=True)
        self._thread.start()

    def _open(self) -> sqlalchemy.Connection:
        try:
            connection = self._engine.connect()
            # With an exclusive lock a second service is told so, instead of writing over it.
            connection.exec_driver_sql("PRAGMA locking_mode=EXCLUSIVE")
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            connection.exec_driver_sql("PRAGMA synchronous=FULL")
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version > SCHEMA_VERSION:
                raise ConfigError(
                    f"{self._path} was written by a newer release; use that one, or another folder"
                )
            _metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
            connection.commit()
        except DatabaseError as error:
            # Another service that has it is no mistake, as little as a port that is taken.
            kind = TunnelError if _is_locked(error) else ConfigError
            raise kind(f"{self._path} cannot be used: {_advice(error)}") from error
        return connection

    # reading, before anything is put

    def load_tunnels(self) -> list[KeptTunnel]:
        """Return the tunnels that are kept.

        Raises:
            ConfigError: they cannot be read.
        """
        return [
            KeptTunnel(
                row["name"],
                tuple(row["services"]),
                Origin(row["origin"]),
                row["bandwidth"],
                row["closes_at"],
                tuple(_access(each) for each in row["accesses"]),
            )
            for row in self._load(_tunnels)
        ]

    def load_records(self) -> list[tuple[str, int, dict[str, Any]]]:
        """Return the records of the management API: id, number, body.

        Raises:
            ConfigError: they cannot be read.
        """
        rows = self._load(_records)
        return [(row["tunnel_id"], row["number"], row["body"]) for row in rows]

    def _load(self, table: Table) -> list[Mapping[str, Any]]:
        try:
            with self._changed:
                rows = list(self._connection.execute(table.select()).mappings())
                self._connection.rollback()
        except (SQLAlchemyError, ValueError) as error:
            raise ConfigError(f"{self._path} cannot be read: {_advice(error)}") from error
        return [dict(row) for row in rows]

    # writing

    def put_tunnel(self, name: str, tunnel: KeptTunnel | None) -> None:
        """Keep a tunnel soon; None forgets it."""
        row = None
        if tunnel is not None:
            row = {
                "name": name,
                "services": list(tunnel.services),
                "origin": str(tunnel.origin),
                "bandwidth": tunnel.bandwidth_bytes_per_second,
                "closes_at": tunnel.closes_at,
                "accesses": [_access_json(each) for each in tunnel.accesses],
            }
        self._put(_Key(_tunnels, name), row)

    def put_record(self, tunnel_id: str, number: int, body: Mapping[str, Any] | None) -> None:
        """Keep a record of the management API soon; None forgets it."""
        row = None
        if body is not None:
            row = {"tunnel_id": tunnel_id, "number": number, "body": dict(body)}
        self._put(_Key(_records, tunnel_id), row)

    def _put(self, key: _Key, row: dict[str, Any] | None) -> None:
        with self._changed:
            self._pending[key] = row
            self._put_count += 1
            self._changed.notify_all()

    def flush(self) -> None:
        """Return when everything that was put until now is written.

        Raises:
            StateError: it could not be written, or not in time.
        """
        with self._changed:
            wanted = self._put_count
            self._changed.wait_for(
                lambda: max(self._written_count, self._tried_count) >= wanted, FLUSH_SECONDS
            )
            if self._written_count < wanted:
                why = self._failure or "the disk takes too long"
                raise StateError(f"{self._path} cannot be written: {why}; it is tried again")

    @property
    def waiting(self) -> int:
        """How many rows wait to be written."""
        with self._changed:
            return len(self._pending)

    @property
    def failure(self) -> str | None:
        """Why the last try to write failed; None if it did not."""
        with self._changed:
            return self._failure

    def close(self) -> None:
        """Write what waits, once more if it fails, and close the file. Safe to call twice."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._connection.close()
        self._engine.dispose()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                rows, self._pending = self._pending, {}
                count, is_last = self._put_count, self._closing
            failure = self._write(rows)
            with self._changed:
                self._report(failure)
                if failure is None:
                    self._written_count = count
                    self._changed.notify_all()
                    continue
                self._tried_count = count
                self._changed.notify_all()
                # What was put meanwhile is newer.
                self._pending = {**rows, **self._pending}
                if is_last:
                    return
                self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)

    def _report(self, failure: str | None) -> None:
        """Log a failure when it begins and when it ends, not each time."""
        if failure is not None and self._failure is None:
            _log.error("%s cannot be written: %s; it is tried again", self._path, failure)
        elif failure is None and self._failure is not None:
            _log.warning("%s is written again", self._path)
        self._failure = failure

    def _write(self, rows: Mapping[_Key, dict[str, Any] | None]) -> str | None:
        """Write rows in one transaction; return why it failed."""
        try:
            for table in (_tunnels, _records):
                self._replace(table, {key: rows[key] for key in rows if key.table is table})
            self._connection.commit()
        except SQLAlchemyError as error:
            self._connection.rollback()
            return _why(error)
        return None

    def _replace(self, table: sqlalchemy.Table, rows: Mapping[_Key, dict[str, Any] | None]) -> None:
        """Delete what stands under the keys, and insert what is there now."""
        if not rows:
            return
        column = next(iter(rows)).column
        self._connection.execute(
            table.delete().where(column == sqlalchemy.bindparam("key")),
            [{"key": key.value} for key in rows],
        )
        if kept := [row for row in rows.values() if row is not None]:
            self._connection.execute(table.insert(), kept)


def _make_file(path: Path) -> None:
    """Make the file if it is not there, for its owner alone.

    Raises:
        ConfigError: it is a link, or cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        path.parent.mkdir(PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, PRIVATE_MODE)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be used: {error.strerror}; give a folder that this user may write"
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path} is no file; give another folder")
        if stat.S_IMODE(status.st_mode) != PRIVATE_MODE:
            _log.warning("%s could be read by others; from now on by its owner alone", path)
            os.fchmod(descriptor, PRIVATE_MODE)
    finally:
        os.close(descriptor)


def _access(fields: Mapping[str, Any]) -> KeptAccess:
    return KeptAccess(
        Mode(fields["mode"]),
        fields["digest"],
        fields["used"],
        fields["client_digest"],
        fields["is_former"],
    )


def _access_json(access: KeptAccess) -> dict[str, object]:
    return {
        "mode": access.mode.value,
        "digest": access.digest,
        "used": access.used,
        "client_digest": access.client_digest,
        "is_former": access.is_former,
    }


def _why(error: Exception) -> str:
    # Not the whole text of SQLAlchemy, which quotes the statement and its rows.
    return str(getattr(error, "orig", None) or type(error).__name__)


def _is_locked(error: Exception) -> bool:
    return "locked" in _why(error)


_ADVICE = {
    "SQLITE_FULL": "make room on its disk",
    "SQLITE_IOERR": "look whether its disk is full or failing",
    "SQLITE_READONLY": "give a folder that this user may write",
    "SQLITE_CANTOPEN": "give a folder that this user may write",
}


def _advice(error: Exception) -> str:
    why = _why(error)
    # SQLITE_IOERR_WRITE is a kind of SQLITE_IOERR, and so on.
    code = "_".join(getattr(getattr(error, "orig", None), "sqlite_errorname", "").split("_")[:2])
    if _is_locked(error):
        return "another service has it open; end that one, or give another folder"
    if code in _ADVICE:
        return f"{why}; {_ADVICE[code]}"
    # Whoever moves it away gives up all tunnels.
    return f"{why}; move it away to begin anew, or give another folder"
