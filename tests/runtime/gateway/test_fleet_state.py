from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.fleet import wanted
from tunnelfleet.actors.kernel.moments import CLOCK
from tunnelfleet.runtime.gateway.config import FleetConfig, GatewaySettings
from tunnelfleet.runtime.gateway.fleet_state import ELSEWHERE, HELD, LEAVING, REMOVED, FleetState
from tunnelfleet.runtime.gateway.placement import SHARDS
from tunnelfleet.runtime.gateway.reconcile import Running, RunPhase


@pytest.fixture
def state() -> FleetState:
    made = FleetState(FleetConfig(GatewaySettings(name="gw", admin="unix:x")))
    made.sources = {"files": {"a": wanted("a")}, "api": {"b": wanted("b")}}
    made.shards = frozenset(range(SHARDS))
    return made


def test_a_token_of_a_command_counts_until_the_entry_has_another(state: FleetState) -> None:
    state.replace_token("a", "n" * 40, None)
    found = state.wish("a")
    assert found is not None
    assert found.access_token == "n" * 40
    newer = wanted("a", access_token="z" * 40)
    state.sources["files"] = {"a": newer}
    assert state.wish("a") == newer


def test_what_is_held_or_left_is_not_wanted(state: FleetState) -> None:
    state.held["a"] = 1.0
    assert state.wanted("a") is None
    assert state.wanted("b") is not None
    state.is_leaving = True
    assert state.wanted("b") is None
    assert set(state.wishes()) == {"a", "b"}


def test_what_nobody_wants_is_forgotten(state: FleetState) -> None:
    state.held["a"] = 1.0
    state.failures["b"] = ("x", 1.0)
    state.replace_token("a", "n" * 40, None)
    state.sources["files"] = {}
    state.forget_what_is_gone()
    assert state.held == {}
    assert set(state.failures) == {"b"}
    state.sources["files"] = {"a": wanted("a")}
    assert state.wish("a") == wanted("a")


def test_entries_say_why(state: FleetState) -> None:
    state.running["a"] = Running(wanted("a"))
    state.held["b"] = CLOCK.moment(5.0)
    state.running["gone"] = Running(wanted("gone"), RunPhase.DRAINING)
    found = {entry.tunnel.name: entry for entry in state.entries()}
    assert list(found) == ["a", "b", "gone"]
    assert (found["a"].note, found["a"].source) == ("", "files")
    assert (found["b"].note, found["b"].since, found["b"].source) == (HELD, 5.0, "api")
    assert (found["gone"].note, found["gone"].source) == (REMOVED, "")
    state.shards = frozenset()
    state.held.clear()
    assert state.entries(["b"])[0].note == ELSEWHERE
    state.is_leaving = True
    assert state.entries(["b"])[0].note == LEAVING
    assert state.entries(["nobody"]) == ()


def test_an_entry_shows_what_runs_and_not_what_will(state: FleetState) -> None:
    running = wanted("a", bandwidth=5.0)
    state.running["a"] = Running(running, RunPhase.STOPPING)
    state.sources["files"] = {"a": replace(running, bandwidth=6.0)}
    assert state.entries(["a"])[0].tunnel.bandwidth == 5.0
