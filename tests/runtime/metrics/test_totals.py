from __future__ import annotations

from tests.support.counted import counted, open_tunnel
from tunnelfleet.actors.counters import Histogram
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.runtime.metrics import TunnelMeter
from tunnelfleet.runtime.metrics.families import HistogramSum, Totals


def test_columns_are_summed_over_fleets() -> None:
    meter = TunnelMeter(rows=1)
    open_tunnel(meter, "with a row", sent=100)
    open_tunnel(meter, "without", sent=23)
    totals = Totals(meter.read().fleets)
    assert len(meter.read().fleets) == 2
    assert counted(totals.services["source", "SSH"]) == {
        "sent_bytes": 123,
        "received_bytes": 246,
        "sent_messages": 2,
        "received_messages": 2,
        "streams_active": 2,
        "streams_opened": 4,
        "connections_active": 4,
        "connections_opened": 6,
    }
    assert {name: value for name, value in totals.columns.items() if value} == {
        "session_resets": 2,
        "connect_attempts": 8,
        "throttled_seconds": 1.0,
        "queue_bytes": 20,
    }
    assert totals.reasons["reconnects"] == {"lost": 2}
    assert totals.reasons["connect_failures"] == {"http_503": 2}
    assert totals.reasons["dropped_messages"] == {"stale_stream": 2}
    assert totals.ends["streams_ended"] == {("source", "SSH", "peer_reset"): 2}
    assert totals.ends["connections_ended"] == {("source", "SSH", "local"): 2}
    assert totals.histograms["queue_wait"].count == 2
    assert totals.states == {TunnelState.CONNECTED: 2}


def test_modes_stay_apart() -> None:
    meter = TunnelMeter()
    open_tunnel(meter, "a", "source", 1)
    open_tunnel(meter, "b", "destination", 2)
    services = Totals(meter.read().fleets).services
    assert {key: row[0] for key, row in services.items()} == {
        ("source", "SSH"): 1,
        ("destination", "SSH"): 2,
    }


def test_of_a_state_the_earliest_entry_is_kept() -> None:
    meter = TunnelMeter(rows=1)
    first = open_tunnel(meter, "a")
    second = open_tunnel(meter, "b", "destination")
    assert first.since <= second.since
    assert Totals(meter.read().fleets).since == {TunnelState.CONNECTED: first.since}


def test_nothing_comes_to_zero() -> None:
    totals = Totals([])
    assert not totals.services
    assert set(totals.columns.values()) == {0}
    assert totals.histograms["ping_seconds"].count == 0


def test_buckets_are_cumulative() -> None:
    values = HistogramSum((0.1, 1.0))
    for seen in ((0.05, 0.5, 0.5, 2.0), (0.5, 0.1)):
        part = Histogram((0.1, 1.0))
        for value in seen:
            part.observe(value)
        values.add(part)
    assert values.buckets() == [("0.1", 2), ("1.0", 5), ("+Inf", 6)]
    assert values.total == 3.65
    assert values.count == 6
