"""The audit: one record for each stream, connection, denial and question on demand, in its table.

Owns the form of a record, how the events of tunnels become records, and the statements: written in
batches, asked, kept within bounds. A record is told when it begins and again, whole, when it ends,
with the same number: so what was open when a process was killed is there, and one row. A batch is
written whole or not at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tunnelfleet.actors.kernel.moments import CLOCK, Clock, TrustedClock
from tunnelfleet.proto import printable
from tunnelfleet.runtime import (
    ConnectionClosed,
    ConnectionOpened,
    StreamClosed,
    StreamOpened,
    TunnelEvent,
)

from .database import AUDIT

if TYPE_CHECKING:
    from .database import Database

AUDITED_EVENTS = (ConnectionOpened, ConnectionClosed, StreamOpened, StreamClosed)
"""The events of tunnels that the audit needs."""
DEMAND = "demand"
MAX_LIMIT = 1_000
_ENDED_BY = {"peer_reset": "peer", "local_reset": "local"}
"""Who ended a stream; other causes stand for themselves."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A stream, a connection, a denial, or a question for a tunnel on demand.

    Attributes:
        number: tells the records of one run of a gateway apart.
        kind: `connection`, `stream`, `denied` or `demand`.
        tunnel: its name.
        service_id: of the stream.
        stream_id: on the wire; None for a denial.
        connection_id: on the wire; None for a stream and a denial.
        peer: the local application: in a source the address that connected, in a destination the
            one that is connected to.
        user: who it is, if it is known.
        channel_id: the service's name for the link.
        opened_at: in seconds of the Unix epoch.
        ended_at: the same; None while it is open.
        sent_bytes: from here to the other side.
        received_bytes: from the other side.
        ended_by: `local`, `peer`, or what ended it: `disconnected`, `session_reset`, `replaced`,
            `actor_ended`; empty while it is open.
        reason: for people.
    """

    number: int
    kind: str
    tunnel: str
    service_id: str = ""
    stream_id: int | None = None
    connection_id: int | None = None
    peer: str = ""
    user: str = ""
    channel_id: str = ""
    opened_at: float = 0.0
    ended_at: float | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    ended_by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Which records are asked for; the newest come first.

    Attributes:
        tunnel: its name, `*` standing for anything; None for all.
        user: the same.
        gateway: only those of this one.
        kind: only these.
        since: opened at this time or later, in seconds of the Unix epoch.
        until: opened before this time.
        before: only records with a smaller `id`, to go on where an answer ended.
        limit: at most so many, and at most `MAX_LIMIT`.
    """

    tunnel: str | None = None
    user: str | None = None
    gateway: str | None = None
    kind: str | None = None
    since: float | None = None
    until: float | None = None
    before: int | None = None
    limit: int = 100


CONNECTION = "connection"
STREAM = "stream"
DENIAL = "denied"
MAX_OPEN_RECORDS = 200_000
"""The most open streams and connections; above it the oldest gets a new record at its end."""


class AuditBook:
    """Makes records of events. For one thread at a time.

    Args:
        clock: what its callers read the time from. It may be set while something is open: the
            record of the end says when the begin was by the same clock as when the end is.
    """

    def __init__(self, clock: Clock = CLOCK) -> None:
        self._clock = clock
        self._last_number = 0
        self._open: OrderedDict[Hashable, AuditRecord] = OrderedDict()
        """`opened_at` is a moment in them."""

    def take(self, event: TunnelEvent, now: float) -> AuditRecord | None:
        """Return the record that an event begins or ends; None if it does neither.

        Args:
            event: one of `AUDITED_EVENTS`; others make none.
            now: in seconds of the Unix epoch.
        """
        match event:
            case ConnectionOpened():
                return self._connection_opened(event, now)
            case ConnectionClosed():
                return self._connection_closed(event, now)
            case StreamOpened():
                return self._stream_opened(event, now)
            case StreamClosed():
                return self._stream_closed(event, now)
        return None

    def denied(
        self, tunnel: str, service_id: str, peer: str, user: str, reason: str, now: float
    ) -> AuditRecord:
        """Return the record that a front door refused somebody."""
        return self._at_once(DENIAL, tunnel, service_id, peer, user, reason, now)

    def demanded(
        self, tunnel: str, service_id: str, peer: str, user: str, reason: str, now: float
    ) -> AuditRecord:
        """Return the record that somebody asked for a tunnel on demand, and what came of it."""
        return self._at_once(DEMAND, tunnel, service_id, peer, user, reason, now)

    def _at_once(
        self,
        kind: str,
        tunnel: str,
        service_id: str,
        peer: str,
        user: str,
        reason: str,
        now: float,
    ) -> AuditRecord:
        return AuditRecord(
            self._number(),
            kind,
            tunnel,
            service_id,
            peer=peer,
            user=user,
            opened_at=now,
            ended_at=now,
            ended_by="local",
            reason=reason,
        )

    def _number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _begin(self, key: Hashable, record: AuditRecord) -> AuditRecord:
        self._open[key] = replace(record, opened_at=self._clock.moment(record.opened_at))
        self._open.move_to_end(key)
        if len(self._open) > MAX_OPEN_RECORDS:
            self._open.popitem(last=False)
        return record

    def _connection_opened(self, event: ConnectionOpened, now: float) -> AuditRecord:
        record = AuditRecord(
            self._number(),
            CONNECTION,
            event.tunnel,
            event.service_id,
            event.stream_id,
            event.connection_id,
            event.peer,
            event.user,
            event.channel_id,
            event.opened_at or now,
        )
        return self._begin(_connection_key(event), record)

    def _connection_closed(self, event: ConnectionClosed, now: float) -> AuditRecord:
        known = self._open.pop(_connection_key(event), None)
        self._add_to_stream(event)
        return AuditRecord(
            known.number if known else self._number(),
            CONNECTION,
            event.tunnel,
            event.service_id,
            event.stream_id,
            event.connection_id,
            event.peer,
            event.user,
            known.channel_id if known else event.channel_id,
            min(event.opened_at or now, now),
            now,
            event.sent_bytes,
            event.received_bytes,
            event.ended_by,
            event.reason,
        )

    def _stream_opened(self, event: StreamOpened, now: float) -> AuditRecord:
        key = _stream_key(event)
        record = AuditRecord(
            self._number(), STREAM, event.tunnel, event.service_id, event.stream_id, opened_at=now
        )
        return self._begin(key, record)

    def _add_to_stream(self, event: ConnectionClosed) -> None:
        key = _stream_key(event)
        stream = self._open.get(key)
        if stream is not None:
            self._open[key] = replace(
                stream,
                channel_id=stream.channel_id or event.channel_id,
                sent_bytes=stream.sent_bytes + event.sent_bytes,
                received_bytes=stream.received_bytes + event.received_bytes,
            )

    def _stream_closed(self, event: StreamClosed, now: float) -> AuditRecord:
        known = self._open.pop(_stream_key(event), None)
        opened_at = now if known is None else self._clock.unix(known.opened_at)
        if known is None:
            known = AuditRecord(
                self._number(),
                STREAM,
                event.tunnel,
                event.service_id,
                event.stream_id,
            )
        ended_by = _ENDED_BY.get(event.reason, event.reason)
        return replace(
            known,
            opened_at=min(opened_at, now),
            ended_at=now,
            ended_by=ended_by,
            reason=event.reason,
        )


def _connection_key(event: ConnectionOpened | ConnectionClosed) -> Hashable:
    return (event.tunnel, event.serial, event.service_id, event.stream_id, event.connection_id)


def _stream_key(event: StreamOpened | StreamClosed | ConnectionClosed) -> Hashable:
    return (event.tunnel, event.service_id, event.stream_id)


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
        run: which run of the gateway this is.
        clock: what its callers read the time from.
    """

    def __init__(self, database: Database, gateway: str, run: str, clock: Clock = CLOCK) -> None:
        self._begun_at = clock.now()
        self._clock = TrustedClock(clock)
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

    def prune(self, bounds: AuditBounds) -> int:
        """Remove what is beyond the bounds.

        No record goes for its age because the clock was set: one of this run is not older than the
        run, and a clock that was set forwards is believed only when it has stayed so.

        Args:
            bounds: how much is kept.

        Returns:
            How many rows were removed.

        Raises:
            StoreError: not all could be removed.
        """
        seconds = bounds.days * DAY_SECONDS
        is_old = AUDIT.c.opened_at < self._clock.unix() - seconds
        if self._clock.moment() - self._begun_at < seconds:
            is_old &= AUDIT.c.run != self._run
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
