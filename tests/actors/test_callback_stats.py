"""What becomes of callbacks, by queue and over all queues."""

from __future__ import annotations

import threading

import pytest

from tunnelfleet.actors.callbacks import CallbackStats, CallbackTotals

NAMES = ("dropped", "errors", "events", "slow", "stalls")


def values(stats: CallbackStats | CallbackTotals) -> dict[str, int]:
    return {name: getattr(stats, name) for name in NAMES if getattr(stats, name)}


@pytest.mark.parametrize("name", ["errors", "slow", "dropped", "stalls"])
def test_a_mishap_is_counted_in_the_lane_and_in_the_totals(name: str) -> None:
    totals = CallbackTotals()
    queues = [CallbackStats(totals), CallbackStats(totals)]
    for queue in queues:
        queue.add(name)
        assert values(queue) == {name: 1}
    assert values(totals) == {name: 2}


def test_events_are_settled_later() -> None:
    totals = CallbackTotals()
    queue = CallbackStats(totals)
    queue.events += 3
    assert values(totals) == {}
    queue.settle(3)
    assert values(totals) == {"events": 3}


def test_a_lane_without_totals_counts_alone() -> None:
    queue = CallbackStats()
    queue.add("errors")
    queue.settle(2)
    assert values(queue) == {"errors": 1}


def test_no_count_of_many_threads_is_lost() -> None:
    totals = CallbackTotals()
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        queue = CallbackStats(totals)
        for _ in range(5_000):
            queue.add("errors")
            queue.settle(2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(totals) == {"errors": 20_000, "events": 40_000}
