from __future__ import annotations

import datetime

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.gateway.look import read_time

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "before"),
    [("90s", 90), ("15m", 900), ("2h", 7_200), ("7d ago", 604_800), ("1w", 604_800)],
)
def test_so_long_ago(text: str, before: float) -> None:
    assert read_time(text, NOW, "--since") == NOW - before


def test_dates_and_seconds() -> None:
    assert read_time("2026-01-31T12:00:00+00:00", NOW, "--since") == 1_769_860_800
    assert read_time("1700000000.5", NOW, "--since") == 1_700_000_000.5
    local = datetime.datetime(2026, 1, 31, 12).timestamp()
    assert read_time("2026-01-31T12:00", NOW, "--since") == local


@pytest.mark.parametrize("text", ["", "yesterday", "2x", "2026-13-01", "h", "-"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--until .*: write 90s, 15m, 2h, 7d, or a date"):
        read_time(text, NOW, "--until")
