"""What is counted is counted for the tunnel and for the whole it belongs to."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.counters import MAX_SERVICES, Counters, Histogram, ServiceCounters, Summary
from tunnelfleet.actors.kernel.counting import MAX_KEYS, OTHER, count

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.0, 0), (0.1, 0), (0.11, 1), (1.0, 1), (1.01, 2), (99.0, 2)]
)
def test_a_value_is_counted_in_the_first_bucket_that_holds_it(value: float, bucket: int) -> None:
    histogram = Histogram((0.1, 1.0))
    histogram.observe(value)
    assert histogram.counts.index(1) == bucket
    assert (histogram.count, histogram.total) == (1, value)


def test_zero_is_counted_as_any_value() -> None:
    summary, histogram = Summary(), Histogram((0.5, 5.0))
    for each in (summary, histogram):
        each.observe_zero()
        assert (each.count, each.total) == (1, 0.0)
    assert histogram.counts == [1, 0, 0]


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    histogram, summary = Histogram((0.5, 5.0, 50.0)), Summary()
    for value in values:
        histogram.observe(value)
        summary.observe(value)
    assert sum(histogram.counts) == histogram.count == summary.count == len(values)
    assert histogram.total == summary.total == pytest.approx(sum(values))


def numbers(counters: Counters) -> dict[str, object]:
    """Everything that it has counted."""
    found: dict[str, object] = {}
    for name in Counters.__slots__:
        value = getattr(counters, name)
        if isinstance(value, Summary):
            found[name] = (value.count, value.total)
        elif name == "services":
            found[name] = {
                key: [getattr(each, n) for n in ServiceCounters.__slots__ if n != "whole"]
                for key, each in value.items()
            }
        elif name != "whole":
            found[name] = value
    return copy.deepcopy(found)


STEPS: dict[str, Callable[[Counters], object]] = {
    "sent": lambda c: c.service("SSH").count_sent(7),
    "received": lambda c: c.service("SSH").count_received(9),
    "stream opened": lambda c: c.service("SSH").count_stream_opened(),
    "stream ended": lambda c: c.service("SSH").count_stream_ended("peer_reset"),
    "connection opened": lambda c: c.service("WEB").count_connection_opened(),
    "connection ended": lambda c: c.service("WEB").count_connection_ended("local"),
    "connect attempt": lambda c: c.count_connect_attempt(),
    "connect failure": lambda c: c.count_connect_failure("http_503"),
    "connected": lambda c: c.observe_connect(0.25),
    "reconnect": lambda c: c.count_reconnect("lost"),
    "session reset": lambda c: c.count_session_reset(),
    "ping": lambda c: c.observe_ping(0.5),
    "queue": lambda c: c.set_queue_bytes(c.queue_bytes + 10),
    "queue wait": lambda c: c.observe_queue_wait(2.0),
    "no queue": lambda c: c.count_unqueued(),
    "throttled": lambda c: c.count_throttled(0.125),
    "dropped": lambda c: c.count_dropped("stale_stream"),
    "failed listen": lambda c: c.count_failed_listen(),
    "failed send": lambda c: c.count_failed_send(),
    "stalled": lambda c: c.count_stalled(),
}


@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_counted_in_both(step: str) -> None:
    whole = Counters()
    part = Counters(whole)
    untouched = numbers(part)
    STEPS[step](part)
    assert numbers(part) != untouched
    assert numbers(whole) == numbers(part)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(sorted(STEPS)))))
def test_the_whole_is_the_sum_of_its_parts(steps: list[tuple[int, str]]) -> None:
    whole, alone = Counters(), Counters()
    parts = [Counters(whole) for _ in range(3)]
    for index, step in steps:
        STEPS[step](parts[index])
        STEPS[step](alone)
    assert numbers(whole) == numbers(alone)


def test_what_is_active_is_forgotten_and_what_was_is_kept() -> None:
    whole = Counters()
    part, neighbour = Counters(whole), Counters(whole)
    for counters in (part, neighbour):
        counters.service("SSH").count_stream_opened()
        counters.service("SSH").count_connection_opened()
        counters.service("SSH").count_sent(5)
        counters.set_queue_bytes(100)
    part.forget_active()
    part.forget_active()
    service = whole.service("SSH")
    assert (service.streams_active, service.connections_active, whole.queue_bytes) == (1, 1, 100)
    assert (service.streams_opened, service.sent_bytes) == (2, 10)
    assert part.sum("streams_active") == part.sum("connections_active") == part.queue_bytes == 0


def test_a_service_is_made_once_and_summed() -> None:
    counters = Counters()
    for service_id, size in (("SSH", 3), ("SSH", 4), ("HTTP", 5)):
        counters.service(service_id).count_sent(size)
    assert counters.service("SSH") is counters.service("SSH")
    assert counters.sum("sent_bytes") == 12
    assert counters.sum("received_bytes") == 0


def test_services_that_a_peer_invents_are_bounded() -> None:
    whole = Counters()
    part = Counters(whole)
    for number in range(2 * MAX_SERVICES):
        part.service(f"s{number}").count_sent(1)
    assert len(part.services) == MAX_SERVICES + 1
    assert part.services[OTHER].sent_bytes == MAX_SERVICES
    assert part.sum("sent_bytes") == whole.sum("sent_bytes") == 2 * MAX_SERVICES


def test_count_adds_one_under_its_key() -> None:
    counts: dict[str, int] = {}
    for key in ("lost", "closed", "lost"):
        count(counts, key)
    assert counts == {"lost": 2, "closed": 1}


def test_reasons_that_a_peer_invents_are_bounded() -> None:
    counts: dict[str, int] = {}
    for number in range(2 * MAX_KEYS):
        count(counts, f"http_{number}")
    count(counts, "http_0")
    assert len(counts) == MAX_KEYS + 1
    assert (counts["http_0"], counts[OTHER]) == (2, MAX_KEYS)
