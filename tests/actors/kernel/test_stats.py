"""Counters that other threads read."""

from __future__ import annotations

from tunnelfleet.actors.kernel import DispatcherStats
from tunnelfleet.actors.kernel.counting import MAX_KEYS, OTHER, count


def test_a_snapshot_does_not_change_any_more():
    stats = DispatcherStats(messages_handled=1, restarts={"A": 1})
    snapshot = stats.snapshot()
    stats.messages_handled = 2
    stats.restarts["A"] = 2
    stats.actor_failures["B"] = 1
    assert snapshot == DispatcherStats(messages_handled=1, restarts={"A": 1})


def test_keys_beyond_the_limit_are_counted_under_one_name():
    counts = {}
    for number in range(MAX_KEYS + 3):
        count(counts, f"reason {number}")
    count(counts, "reason 0")
    assert len(counts) == MAX_KEYS + 1
    assert counts["reason 0"] == 2
    assert counts[OTHER] == 3
