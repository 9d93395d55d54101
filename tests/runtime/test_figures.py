from __future__ import annotations

import pytest

from tunnelfleet.runtime.figures import (
    age,
    human_bytes,
    human_rate,
    human_seconds,
    sparkline,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (1_234, "1.2 kB"),
        (9_960, "10 kB"),
        (45_678_901, "46 MB"),
        (999_700, "1.0 MB"),
        (3_210_000_000, "3.2 GB"),
        (5e15, "5000 TB"),
    ],
)
def test_bytes_have_a_short_form(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_rates_are_a_second() -> None:
    assert human_rate(1_500_000) == "1.5 MB/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (0.44, "0.4 s"), (12.4, "12 s"), (59.7, "1 min 0 s"), (125, "2 min 5 s")],
)
def test_seconds_have_a_short_form(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def test_a_sparkline_shows_the_last_values_against_the_highest() -> None:
    assert sparkline((99.0, 0.0, 50.0, 100.0), 3) == "▁▅█"
    assert sparkline((0.0, 0.0), 5) == "▁▁"
    assert sparkline((1.0,), 0) == ""
    assert sparkline((), 5) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3.0, "0s"),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (250, "4m10s"),
        (600, "10m"),
        (11_100, "3h5m"),
        (36_000, "10h"),
        (90_000, "1d1h"),
        (86_400 * 400, "400d"),
    ],
)
def test_an_age_has_at_most_two_units(seconds: float, text: str) -> None:
    assert age(seconds) == text
