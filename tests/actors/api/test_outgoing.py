"""Futures of what was sent: where their callbacks run, batches, and the text of a full queue."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.api.messages import SendBatch, SendFuture, SendQueueFull
from tunnelfleet.actors.callbacks import RelayThreads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnelfleet.actors.callbacks import CallbackQueue


@pytest.fixture
def callback_queue() -> Iterator[CallbackQueue]:
    threads = RelayThreads()
    yield threads.queue("t", lambda _event: None, 10_000)
    threads.close(WAIT_SECONDS)


def test_a_full_queue_says_what_to_do() -> None:
    error = SendQueueFull(0.5, 3)
    assert "0.5 s" in str(error)
    assert "3 were taken" in str(error)
    assert "send_high_water_messages" in str(error)


class TestSendFuture:
    def test_its_callbacks_run_where_callbacks_run(self, callback_queue: CallbackQueue) -> None:
        future, ran = SendFuture(callback_queue), threading.Event()
        names: list[str] = []

        def note(_future: Any) -> None:
            names.append(threading.current_thread().name)
            ran.set()

        future.add_done_callback(note)
        future.settle(None, 5)
        assert ran.wait(WAIT_SECONDS)
        assert names[0].startswith("tunnelfleet-events")
        assert future.result(0) == 5
        future.add_done_callback(note)
        assert names[1] == threading.current_thread().name

    def test_a_cancelled_one_is_left_alone(self, callback_queue: CallbackQueue) -> None:
        future = SendFuture(callback_queue)
        assert future.cancel()
        future.settle(None, 5)
        future.settle(ValueError(), None)
        assert future.cancelled()


class TestSendBatch:
    def test_it_counts_and_keeps_the_first_error(self, callback_queue: CallbackQueue) -> None:
        batch = SendBatch(SendFuture(callback_queue))
        batch.add(3)
        batch.settle(None, None)
        batch.settle(ValueError("first"), None)
        batch.settle(ValueError("second"), None)
        assert not batch.future.done()
        batch.end(3)
        assert str(batch.future.exception(0)) == "first"

    def test_none_at_all_is_done_at_once(self, callback_queue: CallbackQueue) -> None:
        batch = SendBatch(SendFuture(callback_queue))
        batch.end(0)
        assert batch.future.result(0) == 0
