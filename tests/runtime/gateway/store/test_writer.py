"""The audit's thread in front of a database that does, or does not, take what comes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime.gateway.store import writer as module
from tunnelfleet.runtime.gateway.store.audit import AuditRecord
from tunnelfleet.runtime.gateway.store.errors import StoreError, Trouble
from tunnelfleet.runtime.gateway.store.writer import AuditWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class FakeTable:
    """Takes batches, or raises what it is told."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.begins = 0
        self.upkeeps = 0
        self.batches: list[list[int]] = []
        self.may_write = threading.Event()
        self.may_write.set()
        self.attempts = threading.Semaphore(0)

    def begin(self) -> None:
        self.begins += 1

    def write(self, records: Sequence[AuditRecord]) -> None:
        self.attempts.release()
        assert self.may_write.wait(WAIT_SECONDS)
        if self.error is not None:
            raise self.error
        self.batches.append([each.number for each in records])

    def upkeep(self) -> None:
        self.upkeeps += 1

    @property
    def numbers(self) -> list[int]:
        return [number for batch in self.batches for number in batch]


@contextlib.contextmanager
def running(table: FakeTable) -> Iterator[AuditWriter]:
    writer = AuditWriter(table.begin, table.write, table.upkeep)
    writer.start()
    try:
        yield writer
    finally:
        table.may_write.set()
        writer.close()


def put(writer: AuditWriter, *numbers: int) -> None:
    for number in numbers:
        writer.put(AuditRecord(number, "connection", "press-4"))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "MAX_RETRY_SECONDS", 0.02)


FULL = StoreError(Trouble.FULL, "the disk takes nothing more")


def test_all_is_written_in_order_and_in_few_batches() -> None:
    table = FakeTable()
    with running(table) as writer:
        put(writer, *range(2_500))
        assert writer.flush(WAIT_SECONDS)
        assert table.numbers == list(range(2_500))
        assert len(table.batches) <= 4
        assert (writer.written, writer.dropped, writer.waiting) == (2_500, 0, 0)
        assert (table.begins, table.upkeeps) == (1, 1)


def test_what_is_put_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_RECORDS", 10)
    table = FakeTable()
    table.may_write.clear()
    with running(table) as writer:
        put(writer, 0)
        assert table.attempts.acquire(timeout=WAIT_SECONDS)
        put(writer, *range(1, 31))
        assert (writer.waiting, writer.dropped) == (10, 20)
        table.may_write.set()
        assert writer.flush(WAIT_SECONDS)
        assert table.numbers == list(range(11))


def test_it_stops_and_goes_on_and_says_each_once(caplog: pytest.LogCaptureFixture) -> None:
    table = FakeTable()
    table.error = FULL
    with running(table) as writer:
        put(writer, 1, 2)
        for _ in range(3):
            assert table.attempts.acquire(timeout=WAIT_SECONDS)
        assert writer.stands_since is not None
        assert not table.batches
        assert writer.flush(0.0), "nobody waits for what cannot be"
        table.error = None
        eventually(lambda: table.numbers == [1, 2])
        eventually(lambda: writer.stands_since is None)
        assert writer.dropped == 0
        assert writer.failures >= 3
    lines = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(lines) == 2
    assert lines[0].startswith("the audit has stopped, and tunnels go on: the disk takes nothing")
    assert lines[1].startswith("the audit goes on after")
    assert lines[1].endswith("0 records were lost")


def test_what_was_lost_meanwhile_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "QUEUE_RECORDS", 5)
    table = FakeTable()
    table.error = FULL
    with running(table) as writer:
        put(writer, 0)
        eventually(lambda: writer.stands_since is not None)
        put(writer, *range(1, 9))
        table.error = None
        eventually(lambda: table.numbers == list(range(6)))
        eventually(lambda: "3 records were lost" in caplog.text)
        assert writer.dropped == 3


@pytest.mark.parametrize("error", [StoreError(Trouble.BAD_DATA, "no such value"), KeyError("x")])
def test_what_can_never_be_written_is_dropped(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    table = FakeTable()
    table.error = error
    with running(table) as writer:
        put(writer, 1)
        eventually(lambda: writer.dropped == 1)
        eventually(lambda: "1 record of the audit cannot be written" in caplog.text)
        table.error = None
        put(writer, 2)
        eventually(lambda: table.numbers == [2])
        assert writer.stands_since is None


def test_the_end_writes_what_waits() -> None:
    table = FakeTable()
    with running(table) as writer:
        put(writer, *range(5))
    assert table.numbers == list(range(5))
    put(writer, 9)
    assert writer.dropped == 1


def test_an_end_without_a_database_loses_what_waits_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = FakeTable()
    table.error = FULL
    with running(table) as writer:
        put(writer, 1, 2, 3)
        eventually(lambda: writer.stands_since is not None)
        put(writer, 4)
    assert writer.dropped == 4
    assert "4 records of the audit were not written before the end" in caplog.text


def test_the_upkeep_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPKEEP_SECONDS", 0.01)
    table = FakeTable()
    begins = threading.Semaphore(0)

    def begin() -> None:
        begins.release()
        if table.error is not None:
            raise table.error

    table.error = FULL
    table.begin = begin  # type: ignore[method-assign]
    with running(table) as writer:
        for _ in range(3):
            assert begins.acquire(timeout=WAIT_SECONDS)
        assert writer.stands_since is not None
        table.error = None
        eventually(lambda: table.upkeeps >= 2)
        assert writer.stands_since is None


def test_the_time_that_it_stood_is_not_that_of_a_clock_that_is_set(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = itertools.count(1_790_000_000, -3_600)
    monkeypatch.setattr(
        "tunnelfleet.runtime.gateway.store.writer.time.time", lambda: float(next(said))
    )
    table = FakeTable()
    table.error = FULL
    with running(table) as writer:
        put(writer, 1)
        assert table.attempts.acquire(timeout=WAIT_SECONDS)
        eventually(lambda: writer.stands_since is not None)
        table.error = None
        eventually(lambda: writer.stands_since is None)
    assert "the audit goes on after -" not in caplog.text
    assert "the audit goes on after" in caplog.text


def test_one_that_was_never_started_can_be_closed() -> None:
    table = FakeTable()
    AuditWriter(table.begin, table.write, table.upkeep).close()
    assert table.begins == 0
