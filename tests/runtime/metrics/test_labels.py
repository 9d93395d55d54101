from __future__ import annotations

import pytest

from tunnelfleet.actors.kernel.counting import OTHER
from tunnelfleet.runtime.metrics.meters import MAX_LABEL_LENGTH, NO_SERVICE, LabelCap


def test_the_first_values_are_admitted_and_stay_so() -> None:
    cap = LabelCap(2)
    assert [cap(value) for value in ("a", "b", "c", "a", "c", "b")] == [
        "a",
        "b",
        OTHER,
        "a",
        OTHER,
        "b",
    ]


def test_what_was_turned_away_leaves_no_residue() -> None:
    cap = LabelCap(2)
    for number in range(1_000):
        cap(str(number))
    assert len(cap._labels) == 2


@pytest.mark.parametrize(
    ("value", "label"),
    [("", NO_SERVICE), ("x" * 500, "x" * MAX_LABEL_LENGTH), ("a\nb\x00", "a?b?"), ("é", "é")],
)
def test_a_label_is_short_and_printable(value: str, label: str) -> None:
    assert LabelCap(10, NO_SERVICE)(value) == label
