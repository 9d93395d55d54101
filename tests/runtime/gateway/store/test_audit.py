"""From events to records: pure, by table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.clocks import SetClock
from tests.support.stores import BASE, closing, opening
from tunnelfleet.actors import events
from tunnelfleet.actors.kernel.moments import TRUST_SECONDS
from tunnelfleet.runtime import SessionWasReset, TunnelEvent
from tunnelfleet.runtime.gateway.store import audit
from tunnelfleet.runtime.gateway.store.audit import (
    DAY_SECONDS,
    AuditBook,
    AuditBounds,
    AuditQuery,
    AuditRecord,
    AuditTable,
)
from tunnelfleet.runtime.gateway.store.database import Database
from tunnelfleet.runtime.gateway.store.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = BASE + 100


def take(book: AuditBook, *events: TunnelEvent) -> list[AuditRecord]:
    found = [book.take(event, NOW) for event in events]
    assert None not in found
    return [each for each in found if each is not None]


def test_a_connection_is_one_record_that_is_told_twice() -> None:
    begun, ended = take(AuditBook(), opening(7), closing(7))
    assert begun.number == ended.number
    assert (begun.ended_at, begun.ended_by, begun.sent_bytes) == (None, "", 0)
    assert (ended.ended_at, ended.ended_by, ended.sent_bytes) == (NOW, "local", 70)
    assert begun.opened_at == ended.opened_at == BASE + 7


def test_the_same_ids_once_more_are_another_record() -> None:
    first, _, again = take(AuditBook(), opening(1), closing(1), opening(1, serial=9))
    assert first.number != again.number


def test_an_end_without_a_beginning_is_a_whole_record() -> None:
    (record,) = take(AuditBook(), closing(3))
    assert (record.kind, record.opened_at, record.peer) == (
        "connection",
        BASE + 3,
        "192.0.2.1:1003",
    )


def test_the_channel_is_the_one_at_the_beginning() -> None:
    _, ended = take(AuditBook(), opening(1), closing(1, channel_id="the next"))
    assert ended.channel_id == "channel-1"


def test_a_stream_has_the_sums_of_its_connections() -> None:
    book = AuditBook()
    (begun,) = take(book, events.StreamOpened("press-4", "SSH", 1))
    take(book, opening(1), opening(2), closing(1), closing(2))
    take(book, closing(5, tunnel="press-5"))
    (ended,) = take(book, events.StreamClosed("press-4", "SSH", 1, "replaced"))
    assert begun.number == ended.number
    assert (ended.kind, ended.sent_bytes, ended.received_bytes) == ("stream", 30, 60)
    assert (ended.ended_by, ended.channel_id) == ("replaced", "channel-1")


@pytest.mark.parametrize("step_seconds", [3_600.0, -3_600.0])
def test_a_stream_lasted_as_long_as_it_did_though_the_clock_was_set(step_seconds: float) -> None:
    clock = SetClock()
    book = AuditBook(clock)
    book.take(events.StreamOpened("press-4", "SSH", 1), clock.wall())
    clock.steps(step_seconds)
    clock.passes(60.0)
    ended = book.take(events.StreamClosed("press-4", "SSH", 1, "replaced"), clock.wall())
    assert ended is not None
    assert (ended.opened_at, ended.ended_at) == (clock.wall() - 60.0, clock.wall())


def test_no_connection_ends_before_it_began() -> None:
    """A worker has told it by a clock that was ahead."""
    book = AuditBook()
    book.take(opening(7), NOW)
    ended = book.take(closing(7, opened_at=NOW + 3_600.0), NOW)
    assert ended is not None
    assert ended.opened_at == ended.ended_at == NOW


@pytest.mark.parametrize(
    ("reason", "ended_by"),
    [("peer_reset", "peer"), ("local_reset", "local"), ("disconnected", "disconnected")],
)
def test_who_ended_a_stream(reason: str, ended_by: str) -> None:
    (record,) = take(AuditBook(), events.StreamClosed("press-4", "SSH", 1, reason))
    assert (record.ended_by, record.reason) == (ended_by, reason)


def test_a_denial_is_over_at_once() -> None:
    record = AuditBook().denied("press-4", "SSH", "192.0.2.9:4", "mallory", "no rule", NOW)
    assert (record.kind, record.opened_at, record.ended_at) == ("denied", NOW, NOW)


def test_other_events_are_none_of_its_business() -> None:
    assert AuditBook().take(SessionWasReset("press-4"), NOW) is None


def test_what_is_open_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_OPEN_RECORDS", 3)
    book = AuditBook()
    numbers = [each.number for each in take(book, *(opening(n) for n in range(1, 6)))]
    ended = [each.number for each in take(book, *(closing(n) for n in range(1, 6)))]
    assert ended[2:] == numbers[2:]
    assert not set(ended[:2]) & set(numbers), "forgotten ones are told as records of their own"


YEARS = 56 * 365 * DAY_SECONDS
BOUNDS = AuditBounds(days=30, rows=1_000)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'state.db'}")
    made.prepare()
    migrate(made)
    yield made
    made.close()


def write(table: AuditTable, number: int, opened_at: float) -> None:
    table.write(
        [AuditRecord(number, "connection", "press-4", opened_at=opened_at, ended_by="peer")]
    )


def left(table: AuditTable) -> int:
    return len(table.ask(AuditQuery()))


def test_a_clock_that_is_ahead_for_a_while_removes_no_record(database: Database) -> None:
    clock = SetClock()
    earlier = AuditTable(database, "gw", "earlier", clock)
    write(earlier, 1, clock.wall())
    table = AuditTable(database, "gw", "run", clock)
    clock.steps(YEARS)
    assert table.prune(BOUNDS) == 0
    clock.steps(-YEARS)
    clock.passes(TRUST_SECONDS)
    assert table.prune(BOUNDS) == 0
    clock.steps(31 * DAY_SECONDS)
    assert table.prune(BOUNDS) == 0
    clock.passes(TRUST_SECONDS)
    assert table.prune(BOUNDS) == 1


def test_what_was_recorded_before_the_time_was_known_stays_its_days(database: Database) -> None:
    """A device without a battery wakes up in 1970, and hears of the time."""
    clock = SetClock()
    clock.steps(-YEARS)
    table = AuditTable(database, "gw", "run", clock)
    write(table, 1, clock.wall())
    clock.steps(YEARS)
    clock.passes(2 * TRUST_SECONDS)
    assert table.prune(BOUNDS) == 0
    assert left(table) == 1
    clock.passes(30 * DAY_SECONDS)
    assert table.prune(BOUNDS) == 1
    assert left(table) == 0
