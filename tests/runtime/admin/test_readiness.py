from __future__ import annotations

from tunnelfleet.actors.events import TunnelState
from tunnelfleet.runtime.admin import Readiness
from tunnelfleet.runtime.admin.server import MAX_LISTED, TunnelView


def fleet(
    connected: int, missing: int, state: TunnelState = TunnelState.BACKOFF
) -> list[TunnelView]:
    views = [TunnelView(f"c{n}", TunnelState.CONNECTED, "", 1.0) for n in range(connected)]
    return views + [TunnelView(f"m{n}", state, "why", 2.0) for n in range(missing)]


def test_it_is_ready_from_the_fraction_on() -> None:
    assert not Readiness(0.9, 0.1).judge(fleet(8, 2)).ready
    assert Readiness(0.9, 0.1).judge(fleet(9, 1)).ready


def test_it_stays_ready_down_to_the_hysteresis() -> None:
    readiness = Readiness(0.9, 0.1)
    seen = [readiness.judge(fleet(n, 10 - n)).ready for n in (8, 9, 8, 7, 8, 9, 8)]
    assert seen == [False, True, True, False, False, True, True]


def test_without_tunnels_it_is_ready() -> None:
    assert Readiness(0.9, 0.1).judge([]).ready


def test_what_is_drained_or_stopped_does_not_count() -> None:
    for state in (TunnelState.DRAINING, TunnelState.STOPPED):
        report = Readiness(1.0, 0.0).judge(fleet(1, 5, state))
        assert report.ready
        assert report.tunnels == 1


def test_the_report_says_which_are_missing_and_why() -> None:
    readiness = Readiness(1.0, 0.0)
    body = readiness.judge(fleet(1, 1, TunnelState.REFUSED)).to_json(readiness)
    assert body["not_connected"] == [
        {"tunnel": "m0", "state": "refused", "reason": "why", "since": 2.0}
    ]
    assert (body["ready"], body["connected"], body["tunnels"], body["fraction"]) == (
        False,
        1,
        2,
        0.5,
    )


def test_the_report_is_of_bounded_length() -> None:
    report = Readiness(1.0, 0.0).judge(fleet(0, 3 * MAX_LISTED))
    assert len(report.missing) == MAX_LISTED
    assert report.missing_count == 3 * MAX_LISTED
