"""Sets that nearly always have few members, beside a set."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.kernel.few import MOST_IN_TUPLE, Few, including, without

ITEMS = st.integers(min_value=0, max_value=3 * MOST_IN_TUPLE)


@given(st.lists(st.tuples(st.booleans(), ITEMS)))
def test_it_has_the_members_of_a_set(steps: list[tuple[bool, int]]) -> None:
    few: Few[int] = ()
    model: set[int] = set()
    for adds, item in steps:
        few = including(few, item) if adds else without(few, item)
        if adds:
            model.add(item)
        else:
            model.discard(item)
        assert sorted(few) == sorted(model)
        assert bool(few) is bool(model)


def test_many_are_a_set_and_few_a_small_tuple() -> None:
    few: Few[int] = ()
    for item in range(MOST_IN_TUPLE):
        few = including(few, item)
    assert isinstance(few, tuple)
    assert sys.getsizeof(including((), 1)) * 3 < sys.getsizeof({1})
    few = including(few, MOST_IN_TUPLE)
    assert isinstance(few, set)
    for item in range(MOST_IN_TUPLE + 1):
        few = without(few, item)
    assert few == ()
