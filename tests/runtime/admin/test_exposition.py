from __future__ import annotations

import gzip

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tunnelfleet.runtime.metrics.families import expose, takes_gzip

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("a", "of a", registry=registry).inc(3)
    Gauge("b", "of b", ["x"], registry=registry).labels("1").set(2)
    return registry


def test_text_is_as_the_library_writes_it(registry: CollectorRegistry) -> None:
    found = expose(registry, "text/plain", "")
    assert found.body == generate_latest(registry)
    assert found.content_type.startswith("text/plain")
    assert found.encoding is None


def test_open_metrics_has_one_end(registry: CollectorRegistry) -> None:
    found = expose(registry, OPEN_METRICS, "")
    assert found.content_type.startswith("application/openmetrics-text")
    families = {family.name for family in text_string_to_metric_families(found.body.decode())}
    assert families == {"a", "b"}
    assert found.body.count(b"# EOF") == 1


def test_gzip(registry: CollectorRegistry) -> None:
    found = expose(registry, "", "gzip, deflate")
    assert found.encoding == "gzip"
    assert gzip.decompress(found.body) == generate_latest(registry)


@pytest.mark.parametrize("accept", ["text/plain", OPEN_METRICS])
def test_a_large_family_is_whole(registry: CollectorRegistry, accept: str) -> None:
    gauge = Gauge("large", "# of all", ["x"], registry=registry)
    for number in range(1_000):
        gauge.labels(f"# {number}").set(number)
    found = expose(registry, accept, "").body
    assert found.count(b"# TYPE large gauge") == found.count(b"# HELP large") == 1
    if accept == "text/plain":
        assert found == generate_latest(registry)
    else:
        (large,) = (f for f in text_string_to_metric_families(found.decode()) if f.name == "large")
        assert [sample.value for sample in large.samples] == list(range(1_000))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("*", True),
        ("identity", False),
    ],
)
def test_who_takes_gzip(header: str, expected: bool) -> None:
    assert takes_gzip(header) is expected
