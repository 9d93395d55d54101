"""Counters that other threads read."""

from __future__ import annotations

from tunnelfleet.actors.kernel import DispatcherStats


def test_a_snapshot_does_not_change_any_more():
    stats = DispatcherStats(messages_handled=1, restarts={"A": 1})
    snapshot = stats.snapshot()
    stats.messages_handled = 2
    stats.restarts["A"] = 2
    stats.actor_failures["B"] = 1
    assert snapshot == DispatcherStats(messages_handled=1, restarts={"A": 1})
