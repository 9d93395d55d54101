"""The arithmetic of delays."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.supervisors import Dice
from tunnelfleet.actors.kernel import Backoff, BackoffState


def test_ceilings_grow_to_the_cap():
    backoff = Backoff(min_seconds=1, max_seconds=20, factor=3)
    assert [backoff.ceiling(attempt) for attempt in range(5)] == [1, 3, 9, 20, 20]


@given(
    st.floats(0.001, 100),
    st.floats(1, 1000),
    st.floats(1, 10),
    st.integers(0, 100_000),
    st.integers(),
)
def test_a_delay_is_anything_up_to_its_ceiling(low, times, factor, attempt, seed):
    backoff = Backoff(min_seconds=low, max_seconds=low * times, factor=factor)
    delay = backoff.delay(attempt, random.Random(seed))
    assert 0 <= delay <= backoff.ceiling(attempt) <= low * times


def test_the_jitter_is_spread_evenly_over_the_full_range_below_the_cap():
    backoff, rng = Backoff(min_seconds=1, max_seconds=8), random.Random(7)
    delays = sorted(backoff.delay(50, rng) for _ in range(1000))
    assert delays[0] < 0.1
    assert delays[-1] > 7.9
    assert 3.5 < delays[500] < 4.5


@pytest.mark.parametrize(
    "values",
    [
        {"min_seconds": 0},
        {"min_seconds": 2, "max_seconds": 1},
        {"factor": 0.5},
        {"stability_seconds": -1},
    ],
)
def test_nonsense_is_refused(values):
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(**values)


def test_failures_count_until_a_stable_time():
    state, dice = BackoffState(Backoff(stability_seconds=10)), Dice(1.0)
    seen = []
    for up_seconds in (0, 9.9, 0, 10, 0):
        state.record_failure(up_seconds)
        seen.append((state.failures, state.next_delay(dice)))
    assert seen == [(1, 1), (2, 2), (3, 4), (1, 1), (2, 2)]
    state.reset()
    assert (state.failures, state.next_delay(dice)) == (0, 1)


def test_a_child_that_never_was_up_was_never_stable():
    state = BackoffState(Backoff(stability_seconds=0))
    for _ in range(3):
        state.record_failure(0.0)
    assert state.failures == 3
