"""A counter is declared once: whatever else there is of it follows from that entry."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from grafana.panels import FLEET, TUNNEL, with_the_rest
from tests.support.counted import CountedFleet, open_tunnel
from tools.generate_metrics_docs import document
from tunnelfleet.actors.callbacks import CallbackCounts
from tunnelfleet.actors.counters import Counters, Histogram, ServiceCounters, Summary
from tunnelfleet.actors.kernel.counting import (
    Declared,
    DispatcherStats,
    Kind,
    counter,
    counter_by,
    declared,
    gauge,
    histogram,
)
from tunnelfleet.runtime.metrics.catalogue import CATALOGUE, PER_TUNNEL, Metric, metric

COUNTING = (ServiceCounters, Counters, CallbackCounts, DispatcherStats)
EVERY = [each for counting in COUNTING for each in declared(counting)]
TEXT = " ".join(
    target.expr for board in (FLEET, TUNNEL) for panel in board.panels for target in panel.targets
)


@dataclass(slots=True, eq=False)
class Copied(Counters):
    """The counters of a tunnel, and what somebody adds."""

    lost_pigeons: int = counter("Pigeons that did not come back.", "Birds", row="Of this tunnel.")
    pigeons: int = gauge("Pigeons on the roof.", "Birds")
    eggs: dict[str, int] = counter_by("colour", "Eggs.", "Birds", known=("white",))
    flight: Summary = histogram(
        Summary, "Flights.", "Birds", metric="flight_seconds", bounds=(1.0, 2.0)
    )


@pytest.mark.parametrize("each", EVERY, ids=lambda each: each.metric)
def test_an_entry_is_everywhere(each: Declared) -> None:
    found = metric(each.metric)
    assert (found.kind, found.help, found.group) == (each.kind, each.help, each.group)
    assert each.label in {"", *found.labels}
    assert f"`{found.exposed}`" in document()
    assert re.search(rf"\b{found.exposed}\b|\b{found.exposed}_bucket\b", TEXT), "no panel"
    if each.row:
        assert metric(f"tunnel_{each.metric}").help == each.row


def test_a_scrape_has_every_entry() -> None:
    fleet = CountedFleet(rows=1)
    open_tunnel(fleet.meter, "a", sent=1)
    shown = {family.name for family in fleet.collector.collect()}
    assert {metric(each.metric).family for each in EVERY} <= shown
    assert {metric(f"tunnel_{each.metric}").family for each in EVERY if each.row} <= shown


def test_an_entry_that_is_added_is_a_number_that_counts_and_a_metric() -> None:
    whole = Copied()
    one = Copied(whole)
    one.add("lost_pigeons")
    one.add("pigeons", 3)
    one.add_by("eggs", "blue")
    one.observe("flight", 1.5)
    for counted in (one, whole):
        assert (counted.lost_pigeons, counted.pigeons, counted.eggs) == (1, 3, {"blue": 1})
        assert (counted.flight.count, counted.flight.total) == (1, 1.5)
    assert "lost_pigeons" in Copied.__slots__
    assert [(each.name, each.kind, each.metric) for each in declared(Copied)[-4:]] == [
        ("lost_pigeons", Kind.COUNTER, "lost_pigeons"),
        ("pigeons", Kind.GAUGE, "pigeons"),
        ("eggs", Kind.COUNTER, "eggs"),
        ("flight", Kind.HISTOGRAM, "flight_seconds"),
    ]


def test_a_name_that_is_not_declared_is_an_error() -> None:
    with pytest.raises(AttributeError):
        Counters().add("lost_pigeons")


def test_a_distribution_of_a_fleet_is_by_size() -> None:
    fleet = CountedFleet()
    open_tunnel(fleet.meter, "a")
    (only,) = fleet.meter.read().fleets
    for each in declared(Counters):
        if each.bounds:
            found = getattr(only.counters, each.name)
            assert isinstance(found, Histogram)
            assert found.bounds == each.bounds


def test_a_metric_without_a_panel_gets_one() -> None:
    rows = with_the_rest(FLEET.rows, CATALOGUE[: -len(PER_TUNNEL)])
    assert rows == FLEET.rows, "there is none"
    added = (
        Metric("lost_pigeons", Kind.COUNTER, "Pigeons that did not come back.", ("mode",)),
        Metric("nest_bytes", Kind.GAUGE, "Size of the nest."),
        Metric("flight_seconds", Kind.HISTOGRAM, "Flights."),
    )
    *before, last = with_the_rest(FLEET.rows, added)
    assert tuple(before) == FLEET.rows
    assert [(panel.title, panel.description, panel.unit) for panel in last.panels] == [
        ("Lost pigeons", "Pigeons that did not come back.", "cps"),
        ("Nest bytes", "Size of the nest.", "bytes"),
        ("Flight seconds", "Flights.", "s"),
    ]
    first, second, third = (panel.targets[0] for panel in last.panels)
    assert first.expr.startswith("sum by (mode) (rate(tunnelfleet_lost_pigeons_total{")
    assert first.legend == "{{mode}}"
    assert second.expr.startswith("sum(tunnelfleet_nest_bytes{")
    assert "tunnelfleet_flight_seconds_sum{" in third.expr
