from __future__ import annotations

from tests.runtime.metrics.support import make_stats
from tunnelfleet.actors.stats import TunnelState
from tunnelfleet.runtime.metrics.totals import HistogramSum, Totals


def add(totals: Totals, *tunnels: object) -> None:
    totals.add([("source", each) for each in tunnels], str, str)  # type: ignore[misc]


def test_columns_are_summed() -> None:
    totals = Totals()
    add(totals, make_stats(100), make_stats(23))
    row = totals.services["source", "SSH"]
    assert row == [123, 246, 2, 2, 4, 6, 2, 4]
    assert totals.column("session_resets") == 2
    assert totals.column("throttled_seconds") == 1.0
    assert totals.column("queue_bytes") == 20
    assert totals.reconnects == {"lost": 2}
    assert totals.connect_failures == {"http_503": 2}
    assert totals.dropped_messages == {"stale_stream": 2}
    assert totals.streams_ended == {("source", "SSH", "peer_reset"): 2}
    assert totals.queue_wait.count == 2
    assert totals.states == {TunnelState.CONNECTED: 2}


def test_of_a_state_the_earliest_entry_is_kept() -> None:
    old, new = make_stats(), make_stats()
    old.since, new.since = 10.0, 20.0
    totals = Totals()
    add(totals, new, old)
    assert totals.since == {TunnelState.CONNECTED: 10.0}


def test_what_is_not_a_count_goes_with_a_closed_tunnel() -> None:
    totals = Totals()
    add(totals, make_stats(5))
    totals.drop_gauges()
    assert totals.services["source", "SSH"] == [5, 10, 1, 1, 2, 3, 0, 0]
    assert totals.column("queue_bytes") == 0
    assert totals.column("session_resets") == 1
    assert not totals.states
    assert not totals.since


def test_a_copy_stands_alone() -> None:
    totals = Totals()
    add(totals, make_stats(5))
    copy = totals.copy()
    add(totals, make_stats(5))
    assert copy.services["source", "SSH"][0] == 5
    assert copy.reconnects == {"lost": 1}
    assert copy.ping.count == 1
    assert copy.column("session_resets") == 1


def test_buckets_are_cumulative() -> None:
    values = HistogramSum((0.1, 1.0))
    values.add([([1, 2, 3], 9.5), ([0, 1, 0], 0.5)])
    assert values.buckets() == [("0.1", 1), ("1.0", 4), ("+Inf", 7)]
    assert values.total == 10.0
    assert values.count == 7
