"""RateWindow: whenever attempts arrive, no second holds more than the rate."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rates import busiest_second
from tunnelfleet.actors.transport.permits import LATE_SECONDS, MARGIN_SECONDS, RateWindow


def begun(window: RateWindow[int], count: int, now: float) -> int:
    """Let as many begin as may, of so many."""
    for number in range(count):
        if window.wait_seconds(now):
            return number
        window.begin(number, now)
    return count


@pytest.mark.parametrize(
    ("rate", "at_once"), [(0.01, 1), (0.9, 1), (1.0, 1), (1.9, 1), (10.0, 10), (10.7, 10)]
)
def test_a_seconds_worth_may_begin_at_once(rate: float, at_once: int) -> None:
    assert begun(RateWindow(rate), 100, 0.0) == at_once


@pytest.mark.parametrize("rate", [1e9, float("inf")])
def test_a_rate_without_bound_is_none(rate: float) -> None:
    assert begun(RateWindow(rate), 5_000, 0.0) == 5_000


def test_the_rate_can_be_changed_and_what_counts_goes_on_to_count() -> None:
    window: RateWindow[int] = RateWindow(10.0)
    assert begun(window, 6, 0.0) == 6
    window.change_rate(4.0)
    assert window.wait_seconds(0.5) > 0
    for number in range(6):
        window.end(number, 0.5)
    assert window.wait_seconds(1.499 + MARGIN_SECONDS) > 0
    assert begun(window, 9, 1.501 + MARGIN_SECONDS) == 4


def test_one_that_is_over_counts_for_a_second_from_its_end() -> None:
    window: RateWindow[int] = RateWindow(2.0)
    assert begun(window, 5, 0.0) == 2
    window.end(0, 0.5)
    assert window.wait_seconds(0.5) == pytest.approx(1.0 + MARGIN_SECONDS)
    assert window.wait_seconds(1.5) == pytest.approx(MARGIN_SECONDS)
    assert window.wait_seconds(1.501 + MARGIN_SECONDS) == 0.0


def test_one_that_hangs_counts_for_so_long_only() -> None:
    window: RateWindow[int] = RateWindow(1.0)
    assert begun(window, 1, 0.0) == 1
    wait_seconds = window.wait_seconds(1.0)
    assert wait_seconds == pytest.approx(LATE_SECONDS + MARGIN_SECONDS)
    window.wait_seconds(LATE_SECONDS)
    window.end(0, LATE_SECONDS + 0.5)
    assert window.wait_seconds(LATE_SECONDS + 1.001 + MARGIN_SECONDS) == 0.0
    assert len(window) == 0


def test_below_one_a_second_they_are_as_far_apart_as_the_rate_says() -> None:
    window: RateWindow[int] = RateWindow(0.25)
    assert begun(window, 1, 0.0) == 1
    window.end(0, 0.0)
    assert window.wait_seconds(3.9)
    assert not window.wait_seconds(4.001 + MARGIN_SECONDS)


def test_whoever_knows_nothing_of_before_waits_a_second() -> None:
    window: RateWindow[int] = RateWindow(10.0)
    window.fill(0.0)
    assert window.wait_seconds(0.0) == pytest.approx(1.0 + MARGIN_SECONDS)
    assert begun(window, 100, 1.001 + MARGIN_SECONDS) == 10


STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 0.4),  # until the next look
        st.floats(0.0, 2.5),  # how long an attempt takes
        st.floats(0.0, 1.0),  # when in that time it arrives at the other side
    ),
    min_size=1,
    max_size=80,
)


@given(rate=st.integers(1, 12), steps=STEPS)
def test_no_second_holds_more_than_the_rate_whenever_they_arrive(
    rate: int, steps: list[tuple[float, float, float]]
) -> None:
    window: RateWindow[int] = RateWindow(float(rate))
    now, arrivals, ends = 0.0, list[float](), dict[int, float]()
    number = 0
    for step, takes, part in steps:
        now += step
        for key, end in sorted(ends.items(), key=lambda item: item[1]):
            if end <= now:
                window.end(key, end)
                del ends[key]
        # As many as may, each of which takes as long: that is the worst for the other side.
        while not window.wait_seconds(now):
            number += 1
            window.begin(number, now)
            ends[number] = now + takes
            arrivals.append(now + takes * part)
    assert busiest_second(arrivals) <= rate


@given(rate=st.floats(0.2, 50.0), looks=st.integers(2, 60))
def test_whoever_waits_as_told_may_begin(rate: float, looks: int) -> None:
    window: RateWindow[int] = RateWindow(rate)
    now, times = 0.0, list[float]()
    for number in range(looks):
        for _ in range(3):
            now += window.wait_seconds(now)
        assert not window.wait_seconds(now + 1e-6)
        now += 1e-6
        window.begin(number, now)
        window.end(number, now)
        times.append(now)
    assert all(before <= after for before, after in pairwise(times))
    # And the rate is used, but for the margin and what is not whole of it.
    whole = int(rate) if rate >= 1 else rate
    assert times[-1] <= looks / whole * (1 + MARGIN_SECONDS) + 1
