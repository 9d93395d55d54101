"""The counters of a tunnel, and the change of its state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.stats import Histogram, TunnelState, TunnelStats, count


def test_states_have_the_names_of_the_design() -> None:
    assert [str(state) for state in TunnelState] == [
        "connecting",
        "connected",
        "backoff",
        "refused",
        "quarantined",
        "draining",
        "stopped",
    ]


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.0, 0), (0.1, 0), (0.11, 1), (1.0, 1), (1.01, 2), (99.0, 2)]
)
def test_a_value_is_counted_in_the_first_bucket_that_holds_it(value: float, bucket: int) -> None:
    histogram = Histogram((0.1, 1.0))
    histogram.observe(value)
    assert histogram.counts.index(1) == bucket
    assert histogram.total == value


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    histogram = Histogram((0.5, 5.0, 50.0))
    for value in values:
        histogram.observe(value)
    assert sum(histogram.counts) == len(values)
    assert histogram.total == pytest.approx(sum(values))


def test_a_change_of_state_is_news_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 200.0, 300.0))
    monkeypatch.setattr("tunnelfleet.actors.stats.time.time", lambda: next(clock))
    stats = TunnelStats()
    assert stats.enter(TunnelState.BACKOFF, "lost")
    assert not stats.enter(TunnelState.BACKOFF, "lost")
    assert (stats.state, stats.reason, stats.since) == (TunnelState.BACKOFF, "lost", 200.0)


def test_a_new_reason_is_news_but_does_not_move_since(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 200.0, 300.0))
    monkeypatch.setattr("tunnelfleet.actors.stats.time.time", lambda: next(clock))
    stats = TunnelStats()
    stats.enter(TunnelState.BACKOFF, "lost")
    assert stats.enter(TunnelState.BACKOFF, "lost again")
    assert (stats.reason, stats.since) == ("lost again", 200.0)


def test_the_first_state_is_news_only_with_a_reason() -> None:
    stats = TunnelStats()
    assert not stats.enter(TunnelState.CONNECTING)
    assert stats.enter(TunnelState.CONNECTING, "again")


def test_a_service_is_made_once_and_summed() -> None:
    stats = TunnelStats()
    stats.service("SSH").sent_bytes += 3
    stats.service("SSH").sent_bytes += 4
    stats.service("HTTP").sent_bytes += 5
    assert stats.service("SSH") is stats.service("SSH")
    assert stats.sum("sent_bytes") == 12
    assert stats.sum("received_bytes") == 0


def test_count_adds_one_under_its_key() -> None:
    counts: dict[str, int] = {}
    for key in ("lost", "closed", "lost"):
        count(counts, key)
    assert counts == {"lost": 2, "closed": 1}
