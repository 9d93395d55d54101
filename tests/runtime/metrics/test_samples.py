from __future__ import annotations

import gc

import pytest
from prometheus_client.samples import Sample

from tunnelfleet.runtime.metrics.families import Samples, table

ROWS = [("a", "x"), ("b", "y"), ("c", "z")]
SAMPLES = Samples(("n", "s"), ("tunnel", "mode"), ROWS, ([1, 2, 3], [0.1, 0.2, 0.3]))
EXPECTED = [
    Sample("n", {"tunnel": "a", "mode": "x"}, 1),
    Sample("s", {"tunnel": "a", "mode": "x"}, 0.1),
    Sample("n", {"tunnel": "b", "mode": "y"}, 2),
    Sample("s", {"tunnel": "b", "mode": "y"}, 0.2),
    Sample("n", {"tunnel": "c", "mode": "z"}, 3),
    Sample("s", {"tunnel": "c", "mode": "z"}, 0.3),
]


def test_it_is_what_a_list_would_be() -> None:
    assert list(SAMPLES) == EXPECTED
    assert list(SAMPLES) == EXPECTED, "as often as one looks"
    assert len(SAMPLES) == 6
    assert [SAMPLES[index] for index in range(-6, 6)] == EXPECTED + EXPECTED
    for part in (slice(1, 4), slice(4, 99), slice(None), slice(None, None, -2)):
        assert SAMPLES[part] == EXPECTED[part]


@pytest.mark.parametrize("index", [6, -7])
def test_there_is_nothing_beyond_its_end(index: int) -> None:
    with pytest.raises(IndexError):
        SAMPLES[index]


def test_no_rows_are_no_samples() -> None:
    assert list(Samples(("n",), ("tunnel",), [], ([],))) == []


def test_a_large_family_holds_few_objects() -> None:
    rows = [(f"t{number}", "source") for number in range(1_000)]
    numbers = [float(number) for number in range(1_000)]
    gc.collect()
    before = len(gc.get_objects())
    families = [table("tunnel_sent_bytes", rows, numbers) for _ in range(10)]
    assert len(gc.get_objects()) - before < 200
    assert sum(len(family.samples) for family in families) == 10_000
