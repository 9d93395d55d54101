"""What the audit says: one record for each stream, connection, denial and question on demand.

Owns the form of a record, and how the events of tunnels become records. A record is told when it
begins and told again, whole, when it ends, with the same number: so what was open when a process
was killed is there, and an end whose beginning was lost is no less than one. Pure: it has no clock
and writes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace

from tunnelfleet.runtime import (
    ConnectionClosed,
    ConnectionOpened,
    StreamClosed,
    StreamOpened,
    TunnelEvent,
)

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
        number: tells the records of one life of a gateway apart.
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
    """Makes records of events. For one thread at a time."""

    def __init__(self) -> None:
        self._last_number = 0
        self._open: OrderedDict[Hashable, AuditRecord] = OrderedDict()

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
        self._open[key] = record
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
            event.opened_at or now,
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
        if known is None:
            known = AuditRecord(
                self._number(),
                STREAM,
                event.tunnel,
                event.service_id,
                event.stream_id,
                opened_at=now,
            )
        ended_by = _ENDED_BY.get(event.reason, event.reason)
        return replace(known, ended_at=now, ended_by=ended_by, reason=event.reason)


def _connection_key(event: ConnectionOpened | ConnectionClosed) -> Hashable:
    return (event.tunnel, event.serial, event.service_id, event.stream_id, event.connection_id)


def _stream_key(event: StreamOpened | StreamClosed | ConnectionClosed) -> Hashable:
    return (event.tunnel, event.service_id, event.stream_id)
