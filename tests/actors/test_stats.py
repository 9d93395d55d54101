"""The state of a tunnel and its changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.clocks import SetClock
from tunnelfleet.actors.counters import TunnelStats
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import moments

if TYPE_CHECKING:
    import pytest


def test_states_have_the_names_of_the_design() -> None:
    assert [str(state) for state in TunnelState] == [
        "connecting",
        "connected",
        "backoff",
        "refused",
        "quarantined",
        "draining",
        "stopped",
    ]


def test_a_change_of_state_is_news_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 200.0, 300.0))
    monkeypatch.setattr("tunnelfleet.actors.counters.time.time", lambda: next(clock))
    stats = TunnelStats()
    assert stats.enter(TunnelState.BACKOFF, "lost")
    assert not stats.enter(TunnelState.BACKOFF, "lost")
    assert (stats.state, stats.reason, stats.since) == (TunnelState.BACKOFF, "lost", 200.0)


def test_a_new_reason_is_news_but_does_not_move_since(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 200.0, 300.0))
    monkeypatch.setattr("tunnelfleet.actors.counters.time.time", lambda: next(clock))
    stats = TunnelStats()
    stats.enter(TunnelState.BACKOFF, "lost")
    assert stats.enter(TunnelState.BACKOFF, "lost again")
    assert (stats.reason, stats.since) == ("lost again", 200.0)


def test_since_is_told_by_what_the_clock_says_now(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SetClock()
    monkeypatch.setattr(moments, "CLOCK", clock)
    monkeypatch.setattr("tunnelfleet.actors.counters.time.time", clock.wall)
    stats = TunnelStats()
    clock.steps(3_600.0)
    clock.passes(60.0)
    assert stats.since == clock.wall() - 60.0


def test_the_first_state_is_news_only_with_a_reason() -> None:
    stats = TunnelStats()
    assert not stats.enter(TunnelState.CONNECTING)
    assert stats.enter(TunnelState.CONNECTING, "again")
