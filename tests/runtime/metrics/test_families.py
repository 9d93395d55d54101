from __future__ import annotations

from tunnelfleet.actors.counters import Histogram
from tunnelfleet.runtime.metrics.families import (
    HistogramSum,
    empty,
    histogram,
    info,
    numbers,
    table,
)


def test_numbers() -> None:
    family = numbers("sent_bytes", [(("source", "SSH"), 5)])
    (sample,) = family.samples
    assert (family.type, sample.name, sample.value) == (
        "counter",
        "tunnelfleet_sent_bytes_total",
        5,
    )
    assert sample.labels == {"mode": "source", "service_id": "SSH"}


def test_a_summary() -> None:
    family = table("tunnel_queue_wait_seconds", [("a", "source")], [2], [0.5])
    values = {sample.name.rpartition("_")[2]: sample.value for sample in family.samples}
    assert values == {"count": 2, "sum": 0.5}


def test_a_table_of_counters() -> None:
    rows = [("a", "source"), ("b", "destination")]
    first, second = table("tunnel_sent_bytes", rows, [1, 2]).samples
    assert first.name == second.name == "tunnelfleet_tunnel_sent_bytes_total"
    assert (second.labels, second.value) == ({"tunnel": "b", "mode": "destination"}, 2)


def test_a_histogram() -> None:
    seen = Histogram((1.0,))
    for value in (1.0, 3.0):
        seen.observe(value)
    values = HistogramSum((1.0,))
    values.add(seen)
    family = histogram("queue_wait_seconds", values)
    assert [sample.value for sample in family.samples] == [1, 2, 2, 4.0]


def test_info() -> None:
    (sample,) = info("build", {"version": "1"}).samples
    assert (sample.name, sample.labels, sample.value) == (
        "tunnelfleet_build_info",
        {"version": "1"},
        1,
    )


def test_empty_ones_have_a_name_and_a_help() -> None:
    family = empty("tunnels")
    assert (family.name, family.samples) == ("tunnelfleet_tunnels", [])
    assert family.documentation
