from __future__ import annotations

import re

import pytest

from tunnelfleet.actors.kernel.counting import Kind
from tunnelfleet.runtime.metrics.catalogue import CATALOGUE, Metric, metric


@pytest.mark.parametrize("each", CATALOGUE, ids=lambda each: each.name)
def test_names_follow_the_conventions(each: Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", each.name)
    assert not each.name.endswith(("_total", "_info", "_count", "_sum"))
    assert not re.search(r"_(ms|milliseconds|kilobytes|minutes)\b", each.name)
    assert each.help.endswith(".")
    assert each.group
    if each.kind in (Kind.HISTOGRAM, Kind.SUMMARY):
        assert each.name.endswith("_seconds")


def test_no_name_twice() -> None:
    names = [each.exposed for each in CATALOGUE]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "name",
    [
        "tunnelfleet_sent_bytes_total",
        "tunnelfleet_received_bytes_total",
        "tunnelfleet_streams_active",
        "tunnelfleet_streams_opened_total",
        "tunnelfleet_reconnects_total",
        "tunnelfleet_tunnels",
        "tunnelfleet_session_resets_total",
        "tunnelfleet_build_info",
    ],
)
def test_the_names_that_people_rely_on(name: str) -> None:
    assert name in {each.exposed for each in CATALOGUE}


def test_a_metric_is_found_by_its_name() -> None:
    assert metric("sent_bytes").labels == ("mode", "service_id")
    with pytest.raises(KeyError):
        metric("nothing")
