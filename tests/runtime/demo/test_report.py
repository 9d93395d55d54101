from __future__ import annotations

import json

import pytest

from tests.support.demo import make_row, make_snapshot
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.runtime.demo.report import Report, make_report

KEYS = [
    "tunnels",
    "connected",
    "streams_opened",
    "bytes_sent",
    "bytes_received",
    "bytes_mismatched",
    "reconnects",
    "session_resets",
    "threads",
    "rss_bytes",
    "seconds",
]


def report(
    *, mismatched: int = 0, missing: tuple[str, ...] = (), interrupted: bool = False
) -> Report:
    snapshot = make_snapshot(
        make_row("press-01"),
        make_row("press-02", state=TunnelState.BACKOFF) if missing else make_row("press-02"),
        mismatched_bytes=mismatched,
        verified_bytes=3_000,
        rss_bytes=80_000_000,
        threads=7,
    )
    return make_report(
        snapshot,
        seconds=12.3456,
        threads=8,
        missing=missing,
        fault="press-01 HTTP: 3 of 9 bytes wrong" if mismatched else "",
        interrupted=interrupted,
    )


def test_the_json_is_one_line_with_the_promised_fields() -> None:
    text = report().to_json()
    fields = json.loads(text)

    assert "\n" not in text
    assert list(fields) == KEYS
    assert fields == {
        "tunnels": 2,
        "connected": 2,
        "streams_opened": 10,
        "bytes_sent": 3_000,
        "bytes_received": 4_000_000,
        "bytes_mismatched": 0,
        "reconnects": 4,
        "session_resets": 2,
        "threads": 8,
        "rss_bytes": 80_000_000,
        "seconds": 12.346,
    }


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_wrong_byte_is_a_failure(interrupted: bool) -> None:
    result = report(mismatched=3, interrupted=interrupted)

    assert not result.is_good
    assert result.lines()[0].startswith("FAILED after 12 s")
    assert "  wrong: press-01 HTTP: 3 of 9 bytes wrong" in result.lines()


def test_a_tunnel_that_did_not_come_back_is_a_failure_and_is_named() -> None:
    result = report(missing=("press-02: its source is backoff (refused)",))

    assert not result.is_good
    assert result.lines()[-1] == "  not connected: press-02: its source is backoff (refused)"


def test_many_absent_tunnels_are_not_all_named() -> None:
    result = report(missing=tuple(f"press-{number}" for number in range(9)))

    assert result.lines()[-1] == "  and 4 more"


def test_an_interrupted_demo_is_not_blamed_for_tunnels_on_their_way() -> None:
    result = report(missing=("press-02: its source is backoff (?)",), interrupted=True)

    assert result.is_good
    assert result.lines()[0].startswith("Stopped after")


def test_a_good_demo_says_so() -> None:
    first = report().lines()[0]

    assert first == "Good after 12 s: 2 of 2 tunnels connected, 0 bytes wrong."


def test_a_report_of_no_time_at_all_has_lines() -> None:
    assert make_report(make_snapshot(tunnels=3), seconds=0.0, threads=1).lines()


def test_no_line_is_wider_than_a_terminal() -> None:
    row = make_row(
        "press-01", reconnects=12_345, session_resets=1_234, streams_opened=123_456, streams=3
    )
    snapshot = make_snapshot(
        row,
        verified_bytes=10**12,
        exchanges_completed=123_456,
        exchanges_broken=12_345,
        rss_bytes=999_000_000,
        threads=123,
    )
    result = make_report(snapshot, seconds=3_600.0, threads=123)
    assert max(map(len, result.lines())) <= 80
