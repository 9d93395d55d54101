"""A token bucket keeps to its rate, and who waits as told need not wait again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.token_bucket import TokenBucket

rates = st.floats(0.1, 1e9)
starts = st.floats(0.0, 1e7)


@given(rates, starts, st.floats(1.0, 1e6))
def test_one_wait_is_enough_at_any_time_of_the_clock(
    rate: float, start: float, wanted: float
) -> None:
    bucket = TokenBucket(rate, wanted, start, level=0.0)
    later = start + bucket.wait_seconds(start, wanted)
    # The clock itself has steps, which at a high rate are worth more than a token.
    step_tokens = 2e-9 * rate
    assert bucket.wait_seconds(later, wanted) <= max(0.0, step_tokens - wanted * 1e-3) / rate


@given(rates, st.lists(st.floats(0.0, 2.0), max_size=50))
def test_no_more_passes_than_rate_and_capacity(rate: float, pauses: list[float]) -> None:
    bucket = TokenBucket(rate, max(1.0, rate), 0.0)
    now, passed = 0.0, 0
    for pause in pauses:
        now += pause
        while bucket.wait_seconds(now) == 0 and passed < 10_000:
            bucket.take(1.0, now)
            passed += 1
    assert passed <= max(1.0, rate) + rate * now + 1


def test_it_is_full_unless_told_otherwise() -> None:
    assert TokenBucket(2.0, 10.0, 5.0).wait_seconds(5.0, 10.0) == 0
    assert TokenBucket(2.0, 10.0, 5.0, level=4.0).wait_seconds(5.0, 10.0) == 3.0


def test_a_debt_is_waited_out_first() -> None:
    bucket = TokenBucket(2.0, 10.0, 0.0)
    bucket.take(15.0, 0.0)
    assert bucket.wait_seconds(0.0) == 3.0
    assert bucket.wait_seconds(3.0) == 0


def test_it_saves_no_more_than_its_capacity() -> None:
    bucket = TokenBucket(2.0, 10.0, 0.0)
    bucket.take(10.0, 1_000.0)
    assert bucket.wait_seconds(1_000.0) == pytest.approx(0.5)
