"""What becomes of callbacks, by lane and over all lanes."""

from __future__ import annotations

import threading

import pytest

from tunnelfleet.actors.callbacks import CallbackTotals, LaneStats

NAMES = ("dropped", "errors", "events", "slow", "stalls")


def values(stats: LaneStats | CallbackTotals) -> dict[str, int]:
    return {name: getattr(stats, name) for name in NAMES if getattr(stats, name)}


@pytest.mark.parametrize("name", ["errors", "slow", "dropped", "stalls"])
def test_a_mishap_is_counted_in_the_lane_and_in_the_totals(name: str) -> None:
    totals = CallbackTotals()
    lanes = [LaneStats(totals), LaneStats(totals)]
    for lane in lanes:
        lane.add(name)
        assert values(lane) == {name: 1}
    assert values(totals) == {name: 2}


def test_events_are_settled_later() -> None:
    totals = CallbackTotals()
    lane = LaneStats(totals)
    lane.events += 3
    assert values(totals) == {}
    lane.settle(3)
    assert values(totals) == {"events": 3}


def test_a_lane_without_totals_counts_alone() -> None:
    lane = LaneStats()
    lane.add("errors")
    lane.settle(2)
    assert values(lane) == {"errors": 1}


def test_no_count_of_many_threads_is_lost() -> None:
    totals = CallbackTotals()
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        lane = LaneStats(totals)
        for _ in range(5_000):
            lane.add("errors")
            lane.settle(2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(totals) == {"errors": 20_000, "events": 40_000}
