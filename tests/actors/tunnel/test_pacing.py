"""The token bucket keeps to its rate, the meter tells the speed of a busy link."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.tunnel.pacing import (
    BURST_SECONDS,
    FAST_BYTES_PER_SECOND,
    METER_SECONDS,
    MIN_PAYLOAD_BYTES,
    PACED_FRACTION,
    PAYLOAD_SECONDS,
    RateMeter,
    pacing_bucket,
    payload_bytes_for_rate,
)

rates = st.floats(100.0, 1e8)


@given(rates, st.lists(st.tuples(st.floats(0.0, 0.5), st.integers(1, 65_536)), max_size=60))
def test_what_leaves_never_exceeds_rate_burst_and_one_message(
    rate: float, steps: list[tuple[float, int]]
) -> None:
    bucket = pacing_bucket(rate, 0.0)
    now, sent, last = 0.0, 0, 0
    for pause, size in steps:
        now += pause
        if bucket.wait_seconds(now) > 0:
            continue
        bucket.take(size, now)
        sent, last = sent + size, size
        allowed = PACED_FRACTION * rate * now + bucket.capacity + last
        assert sent <= allowed * 1.000001 + 1


@given(rates, st.lists(st.integers(1, 65_536), min_size=5, max_size=40))
def test_a_sender_that_waits_as_told_gets_its_rate(rate: float, sizes: list[int]) -> None:
    bucket = pacing_bucket(rate, 0.0)
    now, sent = 0.0, 0
    for size in sizes:
        now += bucket.wait_seconds(now)
        assert bucket.wait_seconds(now) < 1e-6, "the wait was not long enough"
        bucket.take(size, now)
        sent += size
    now += bucket.wait_seconds(now)
    assert sent >= PACED_FRACTION * rate * now - 1.0


def test_the_rate_stays_a_little_below_the_limit() -> None:
    bucket = pacing_bucket(100_000.0, 0.0)
    assert bucket.rate_per_second == pytest.approx(95_000.0)
    assert bucket.capacity == pytest.approx(95_000.0 * BURST_SECONDS)


def test_a_long_silence_saves_up_one_burst_only() -> None:
    bucket = pacing_bucket(100_000.0, 0.0)
    bucket.take(int(bucket.capacity), 1_000.0)
    assert bucket.wait_seconds(1_000.0) > 0


def test_a_bucket_of_less_than_a_byte_a_burst_still_lets_bytes_through() -> None:
    bucket = pacing_bucket(1.0, 0.0)
    assert bucket.wait_seconds(0.0) == 0.0
    bucket.take(1, 0.0)
    wait = bucket.wait_seconds(0.0)
    assert 0.0 < wait < 3.0
    assert bucket.wait_seconds(wait + 0.001) == 0.0


def test_the_meter_knows_nothing_at_first() -> None:
    assert RateMeter().bytes_per_second is None


def test_the_meter_measures_a_busy_link() -> None:
    meter = RateMeter()
    meter.busy(0.0)
    meter.took(2_000, METER_SECONDS / 2)
    assert meter.bytes_per_second is None
    meter.took(3_000, METER_SECONDS)
    assert meter.bytes_per_second == pytest.approx(5_000 / METER_SECONDS)


def test_the_meter_ignores_what_an_idle_link_takes() -> None:
    meter = RateMeter()
    meter.took(1_000_000, 1.0)
    meter.busy(2.0)
    meter.idle()
    meter.took(1_000_000, 3.0)
    assert meter.bytes_per_second is None


def test_being_busy_twice_does_not_start_the_measurement_anew() -> None:
    meter = RateMeter()
    meter.busy(0.0)
    meter.busy(METER_SECONDS - 0.001)
    meter.took(1_000, METER_SECONDS)
    assert meter.bytes_per_second == pytest.approx(1_000 / METER_SECONDS)


@given(st.floats(1e3, 1e7), st.floats(1e3, 1e7))
def test_the_meter_follows_a_change_of_the_link(before: float, after: float) -> None:
    meter = RateMeter()
    now = 0.0
    for rate in (before, after):
        for _ in range(30):
            meter.busy(now)
            now += METER_SECONDS
            meter.took(int(rate * METER_SECONDS), now)
        assert meter.bytes_per_second == pytest.approx(rate, rel=0.05)


@given(st.one_of(st.none(), st.floats(0.0, 1e9)), st.integers(1, 64_512))
def test_a_payload_is_within_its_bounds(rate: float | None, most: int) -> None:
    payload = payload_bytes_for_rate(rate, most)
    assert min(MIN_PAYLOAD_BYTES, most) <= payload <= most


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (None, 64_512),
        (FAST_BYTES_PER_SECOND, 64_512),
        (1_000_000.0, int(1_000_000 * PAYLOAD_SECONDS)),
        (100_000.0, 2_000),
        (1_000.0, MIN_PAYLOAD_BYTES),
        (0.0, MIN_PAYLOAD_BYTES),
    ],
)
def test_payloads_shrink_with_the_rate(rate: float | None, expected: int) -> None:
    assert payload_bytes_for_rate(rate, 64_512) == expected


def test_a_setting_below_the_least_payload_stands() -> None:
    assert payload_bytes_for_rate(1_000.0, 512) == 512
