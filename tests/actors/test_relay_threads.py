"""Queues of callbacks and their threads: order, bounds, growth while callbacks block, ends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors import callbacks as relay_threads
from tunnelfleet.actors.callbacks import EVENT_COST_BYTES, RelayThreads

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def threads() -> Iterator[RelayThreads]:
    running = RelayThreads(max_threads=8)
    yield running
    running.close(WAIT_SECONDS)


class Collector:
    def __init__(self) -> None:
        self.got: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, item: Any) -> None:
        with self._changed:
            self.got.append(item)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got) >= count, WAIT_SECONDS)
            return list(self.got)


def test_nothing_runs_until_something_is_to_be_done(threads: RelayThreads) -> None:
    queue = threads.queue("t", print, 1_000)
    assert threads.thread_count == 0
    assert not queue.has_work


def test_a_lane_keeps_its_order(threads: RelayThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine, or traced, a callback is soon taken for one that blocks.
    monkeypatch.setattr(relay_threads, "BLOCKED_SECONDS", WAIT_SECONDS)
    collectors = [Collector() for _ in range(20)]
    queues = [threads.queue(str(i), each, 10**9) for i, each in enumerate(collectors)]
    for number in range(500):
        for queue in queues:
            queue.put(number)
    for collector in collectors:
        assert collector.wait(500) == list(range(500))
    assert threads.thread_count <= 4


def test_a_call_waits_behind_the_events(threads: RelayThreads) -> None:
    collector = Collector()
    queue = threads.queue("t", collector, 1_000)
    queue.put("event")
    queue.call(lambda argument: collector(("called", argument)), "x")
    assert collector.wait(2) == ["event", ("called", "x")]


def test_one_that_blocks_holds_up_no_other(threads: RelayThreads) -> None:
    release, entered = threading.Event(), threading.Semaphore(0)

    def block(_item: Any) -> None:
        entered.release()
        release.wait(WAIT_SECONDS)

    for number in range(5):
        threads.queue(f"blocked {number}", block, 1_000).put(number)
    for _ in range(5):
        assert entered.acquire(timeout=WAIT_SECONDS)
    collector = Collector()
    threads.queue("free", collector, 1_000).put("x")
    assert collector.wait(1) == ["x"]
    assert threads.thread_count <= 8
    release.set()


def test_there_are_never_more_threads_than_the_limit() -> None:
    threads = RelayThreads(max_threads=3)
    release, entered = threading.Event(), threading.Semaphore(0)

    def block(_item: Any) -> None:
        entered.release()
        release.wait(WAIT_SECONDS)

    for number in range(10):
        threads.queue(str(number), block, 1_000).put(number)
    for _ in range(3):
        assert entered.acquire(timeout=WAIT_SECONDS)
    assert not entered.acquire(timeout=0.1)
    assert threads.thread_count == 3
    release.set()
    for _ in range(7):
        assert entered.acquire(timeout=WAIT_SECONDS)
    assert threads.close(WAIT_SECONDS) == 0


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_threads, "IDLE_SECONDS", 0.05)
    threads = RelayThreads()
    collector = Collector()
    queue = threads.queue("t", collector, 1_000)
    queue.put(1)
    collector.wait(1)
    deadline = time.monotonic() + WAIT_SECONDS
    pause = threading.Event()
    while threads.thread_count and time.monotonic() < deadline:
        pause.wait(0.01)
    assert threads.thread_count == 0
    queue.put(2)
    assert collector.wait(2) == [1, 2]
    threads.close(WAIT_SECONDS)


class TestBounds:
    def test_full_and_room_again(self, threads: RelayThreads) -> None:
        release, roomy = threading.Event(), threading.Event()
        queue = threads.queue("t", lambda _item: release.wait(WAIT_SECONDS), 10 * EVENT_COST_BYTES)
        assert not queue.when_room(roomy.set)
        for number in range(12):
            queue.put(number)
        assert queue.is_full
        assert queue.when_room(roomy.set)
        assert not roomy.is_set()
        release.set()
        assert roomy.wait(WAIT_SECONDS)
        assert queue.queued_bytes <= 5 * EVENT_COST_BYTES

    def test_payloads_count(self, threads: RelayThreads) -> None:
        release = threading.Event()
        queue = threads.queue("t", lambda _item: release.wait(WAIT_SECONDS), 1_000)
        queue.put("x", 10_000)
        assert queue.queued_bytes == 10_000 + EVENT_COST_BYTES
        assert queue.is_full
        release.set()

    def test_what_may_be_dropped_is_when_it_is_far_too_much(self, threads: RelayThreads) -> None:
        release = threading.Event()
        queue = threads.queue("t", lambda _item: release.wait(WAIT_SECONDS), EVENT_COST_BYTES)
        for number in range(20):
            queue.put(number, may_drop=True)
        assert 10 <= queue.stats.dropped <= 16
        release.set()


class TestErrors:
    @pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
    def test_they_are_counted_and_logged(
        self,
        threads: RelayThreads,
        error: type[BaseException],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        collector = Collector()

        def fail(item: Any) -> None:
            collector(item)
            raise error

        queue = threads.queue("press-4", fail, 10**9)
        for number in range(15):
            queue.put(number)
        assert collector.wait(15) == list(range(15))
        threads.close(WAIT_SECONDS)
        assert queue.stats.errors == 15
        records = [record for record in caplog.records if record.exc_info]
        assert len(records) == 10
        assert "press-4" in records[0].message


class TestParking:
    def test_a_parked_lane_waits_without_a_thread(self, threads: RelayThreads) -> None:
        collector = Collector()
        queues: list[Any] = []

        def take(item: Any) -> None:
            collector(item)
            queues[0].park()

        queues.append(threads.queue("t", take, 10**9))
        for number in range(3):
            queues[0].put(number)
        for count in range(1, 4):
            assert collector.wait(count) == list(range(count))
            assert queues[0].stats.errors == 0
            queues[0].unpark()


class TestClose:
    def test_what_is_queued_is_run_first(self) -> None:
        threads = RelayThreads()
        collector = Collector()
        queue = threads.queue("t", collector, 10**9)
        for number in range(1_000):
            queue.put(number)
        assert threads.close(WAIT_SECONDS) == 0
        assert collector.got == list(range(1_000))
        assert threads.is_closed

    def test_one_that_does_not_return_is_left_behind(self) -> None:
        threads = RelayThreads()
        release, entered = threading.Event(), threading.Event()

        def block(_item: Any) -> None:
            entered.set()
            release.wait(WAIT_SECONDS)

        queue = threads.queue("t", block, 10**9)
        queue.put(1)
        queue.put(2)
        assert entered.wait(WAIT_SECONDS)
        assert threads.close(0.05) == 1
        release.set()
        eventually(lambda: queue.stats.events == 1 and threads.thread_count == 0)

    def test_a_callback_may_close(self) -> None:
        threads = RelayThreads()
        closed = threading.Event()

        def close(_item: Any) -> None:
            assert threads.runs_here
            threads.close(WAIT_SECONDS)
            closed.set()

        threads.queue("t", close, 1_000).put(1)
        assert closed.wait(WAIT_SECONDS)
        assert not threads.runs_here
