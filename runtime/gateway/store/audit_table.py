"""The audit in its table: written in batches, asked, and kept within its bounds.

Owns the statements. A record that is written twice is one row; all of a batch is there or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tunnelfleet.proto import printable

from .audit import MAX_LIMIT
from .tables import AUDIT

if TYPE_CHECKING:
    from .audit import AuditQuery, AuditRecord
    from .database import Database


class AuditBounds(NamedTuple):
    """How much of the audit is kept.

    Attributes:
        days: rows that were opened longer ago are removed.
        rows: of one gateway; the oldest above it are removed.
    """

    days: float
    rows: int


PRUNE_ROWS = 5_000
"""Rows that one transaction removes, so that it holds up no other for long."""
PRUNE_TRANSACTIONS = 40
"""How many transactions one pruning may take; the next one goes on."""
MAX_NAME_CHARACTERS = 200
MAX_REASON_CHARACTERS = 400
DAY_SECONDS = 86_400.0
KILLED = "gateway_ended"
KILLED_REASON = "the gateway ended before it could tell the end"
_SAME = ("gateway", "run", "number", "kind", "tunnel", "service_id", "stream_id", "connection_id")
"""Columns that do not change when a record is written again."""


class AuditTable:
    """The audit of one gateway in the table.

    Args:
        database: where they are.
        gateway: whose they are; others may be in the same table.
        run: of this life of the gateway.
    """

    def __init__(self, database: Database, gateway: str, run: str) -> None:
        self._database = database
        self._gateway = gateway
        self._run = run
        insert = (sqlite if database.is_sqlite else postgresql).insert(AUDIT)
        changed = {
            column.name: insert.excluded[column.name]
            for column in AUDIT.columns
            if column.name not in _SAME and column.name != "id"
        }
        self._write = insert.on_conflict_do_update(
            index_elements=[AUDIT.c.run, AUDIT.c.number], set_=changed
        )

    def write(self, records: Sequence[AuditRecord]) -> None:
        """Write records, all or none.

        Raises:
            StoreError: none is written.
        """
        newest = {record.number: record for record in records}
        with self._database.writing() as connection:
            connection.execute(self._write, [self._row(each) for each in newest.values()])

    def _row(self, record: AuditRecord) -> dict[str, Any]:
        # The texts are bounded here, on the writer's thread, and have only what a database takes.
        return {
            "gateway": self._gateway,
            "run": self._run,
            "number": record.number,
            "kind": record.kind,
            "tunnel": printable(record.tunnel, MAX_NAME_CHARACTERS),
            "service_id": printable(record.service_id, MAX_NAME_CHARACTERS),
            "stream_id": record.stream_id,
            "connection_id": record.connection_id,
            "peer": printable(record.peer, MAX_NAME_CHARACTERS),
            "user_name": printable(record.user, MAX_NAME_CHARACTERS),
            "channel_id": printable(record.channel_id, MAX_NAME_CHARACTERS),
            "opened_at": record.opened_at,
            "ended_at": record.ended_at,
            "sent_bytes": record.sent_bytes,
            "received_bytes": record.received_bytes,
            "ended_by": printable(record.ended_by, MAX_NAME_CHARACTERS),
            "reason": printable(record.reason, MAX_REASON_CHARACTERS),
        }

    def close_former_runs(self) -> None:
        """End the records that an earlier process of this gateway left open; nobody saw their end.

        Raises:
            StoreError: nothing has changed.
        """
        statement = (
            update(AUDIT)
            .where(AUDIT.c.gateway == self._gateway, AUDIT.c.run != self._run)
            .where(AUDIT.c.ended_by == "", AUDIT.c.ended_at.is_(None))
            .values(ended_by=KILLED, reason=KILLED_REASON)
        )
        with self._database.writing() as connection:
            connection.execute(statement)

    def prune(self, bounds: AuditBounds, now: float) -> int:
        """Remove what is beyond the bounds.

        Args:
            bounds: how much is kept.
            now: in seconds of the Unix epoch.

        Returns:
            How many rows were removed.

        Raises:
            StoreError: not all could be removed.
        """
        is_old = AUDIT.c.opened_at < now - bounds.days * DAY_SECONDS
        removed = self._remove(is_old)
        with self._database.reading() as connection:
            mine = AUDIT.c.gateway == self._gateway
            beyond = select(AUDIT.c.id).where(mine).order_by(AUDIT.c.id.desc())
            newest = connection.execute(beyond.limit(1).offset(bounds.rows)).scalar()
        if newest is not None:
            removed += self._remove((AUDIT.c.id <= newest) & mine)
        return removed

    def _remove(self, condition: ColumnElement[bool]) -> int:
        some = select(AUDIT.c.id).where(condition).order_by(AUDIT.c.id).limit(PRUNE_ROWS)
        statement = delete(AUDIT).where(AUDIT.c.id.in_(some))
        removed = 0
        for _ in range(PRUNE_TRANSACTIONS):
            with self._database.writing() as connection:
                count = connection.execute(statement).rowcount
            removed += count
            if count < PRUNE_ROWS:
                break
        return removed

    def ask(self, query: AuditQuery) -> list[dict[str, Any]]:
        """Return the records that are asked for, the newest first.

        Raises:
            StoreError: they cannot be read.
        """
        with self._database.reading() as connection:
            return _ask(connection, query)


def _ask(connection: Connection, query: AuditQuery) -> list[dict[str, Any]]:
    found = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(max(1, min(query.limit, MAX_LIMIT)))
    for column, pattern in ((AUDIT.c.tunnel, query.tunnel), (AUDIT.c.user_name, query.user)):
        if pattern is not None:
            is_sqlite = connection.dialect.name == "sqlite"
            found = found.where(_matches(column, pattern, is_sqlite=is_sqlite))
    if query.gateway is not None:
        found = found.where(AUDIT.c.gateway == query.gateway)
    if query.kind is not None:
        found = found.where(AUDIT.c.kind == query.kind)
    if query.since is not None:
        found = found.where(AUDIT.c.opened_at >= query.since)
    if query.until is not None:
        found = found.where(AUDIT.c.opened_at < query.until)
    if query.before is not None:
        found = found.where(AUDIT.c.id < query.before)
    return [_record(dict(row)) for row in connection.execute(found).mappings()]


def _matches(column: Any, pattern: str, *, is_sqlite: bool) -> ColumnElement[bool]:
    if "*" not in pattern:
        equal: ColumnElement[bool] = column == pattern
        return equal
    if is_sqlite:
        # Its LIKE does not tell capitals apart, and a name does.
        quoted = pattern.replace("[", "[[]").replace("?", "[?]")
        glob: ColumnElement[bool] = column.op("GLOB")(quoted)
        return glob
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    like: ColumnElement[bool] = column.like(escaped.replace("*", "%"), escape="\\")
    return like


def _record(row: dict[str, Any]) -> dict[str, Any]:
    del row["run"], row["number"]
    row["user"] = row.pop("user_name")
    return row
