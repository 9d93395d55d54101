from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fleet import wanted
from tunnelfleet.runtime.gateway.reconcile import (
    Action,
    Apply,
    DrainTunnel,
    RotateToken,
    Running,
    RunPhase,
    StartTunnel,
    StopTunnel,
    compare,
    decide,
    merged,
    prevailing,
    reconcile,
)

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

A = wanted()
LABELLED = replace(A, labels={"site": "lyon"})
ROTATED = replace(A, access_token="u" * 40)
MOVED = replace(A, bind="10.0.0.1")
DRAINING = Running(A, RunPhase.DRAINING)
STOPPING = Running(A, RunPhase.STOPPING)

TABLE: list[tuple[WantedTunnel | None, Running | None, bool, Action | None]] = [
    (None, None, True, None),
    (A, None, True, StartTunnel(A)),
    (A, None, False, None),
    (A, Running(A), True, None),
    (LABELLED, Running(A), True, Apply(LABELLED)),
    (ROTATED, Running(A), True, RotateToken(ROTATED)),
    (MOVED, Running(A), True, StopTunnel("a")),
    (A, Running(A), False, StopTunnel("a")),
    (None, Running(A), True, DrainTunnel("a")),
    (None, Running(A), False, DrainTunnel("a")),
    (None, DRAINING, True, None),
    (A, DRAINING, True, StopTunnel("a")),
    (LABELLED, DRAINING, True, StopTunnel("a")),
    (A, DRAINING, False, StopTunnel("a")),
    (None, STOPPING, True, None),
    (A, STOPPING, True, None),
    (MOVED, STOPPING, False, None),
]


@pytest.mark.parametrize(("wish", "running", "is_ours", "action"), TABLE)
def test_the_decision(
    wish: WantedTunnel | None, running: Running | None, is_ours: bool, action: Action | None
) -> None:
    assert decide("a", wish, running, is_ours=is_ours) == action


NAMES = "abcd"
WISHES = st.sampled_from([None, A, LABELLED, ROTATED, MOVED])


@st.composite
def fleets(draw: st.DrawFn) -> dict[str, WantedTunnel]:
    found = {name: draw(WISHES) for name in NAMES}
    return {name: replace(wish, name=name) for name, wish in found.items() if wish is not None}


@st.composite
def states(draw: st.DrawFn) -> dict[str, Running]:
    phases = st.sampled_from(RunPhase)
    return {name: Running(tunnel, draw(phases)) for name, tunnel in draw(fleets()).items()}


def carry_out(actions: list[Action], running: dict[str, Running]) -> None:
    for action in actions:
        match action:
            case StartTunnel(tunnel):
                assert tunnel.name not in running
                running[tunnel.name] = Running(tunnel)
            case Apply(tunnel) | RotateToken(tunnel):
                assert running[tunnel.name].phase is RunPhase.RUNNING
                running[tunnel.name] = Running(tunnel)
            case DrainTunnel(name):
                running[name] = Running(running[name].tunnel, RunPhase.DRAINING)
            case StopTunnel(name):
                running[name] = Running(running[name].tunnel, RunPhase.STOPPING)


def finish(running: dict[str, Running], phases: set[RunPhase]) -> None:
    for name in [name for name, each in running.items() if each.phase in phases]:
        del running[name]


@settings(deadline=None)
@given(fleets(), states(), st.sets(st.sampled_from(NAMES)))
def test_it_ends_with_what_is_wanted_and_ours(
    wishes: dict[str, WantedTunnel], running: dict[str, Running], ours: set[str]
) -> None:
    rounds = 0
    while True:
        actions = reconcile(wishes, running, ours.__contains__)
        if not actions and all(each.phase is RunPhase.RUNNING for each in running.values()):
            break
        carry_out(actions, running)
        finish(running, {RunPhase.STOPPING, RunPhase.DRAINING})
        rounds += 1
        assert rounds <= 3
    assert {name: each.tunnel for name, each in running.items()} == {
        name: wish for name, wish in wishes.items() if name in ours
    }


@settings(deadline=None)
@given(fleets(), fleets())
def test_what_is_not_in_the_difference_is_left_alone(
    before: dict[str, WantedTunnel], after: dict[str, WantedTunnel]
) -> None:
    running = {name: Running(tunnel) for name, tunnel in before.items()}
    difference = compare(before, after)
    touched = {
        getattr(action, "name", None) or action.tunnel.name  # type: ignore[union-attr]
        for action in reconcile(after, running)
    }
    assert touched == {*difference.added, *difference.changed, *difference.removed}
    assert not touched & set(difference.unchanged)
    everything = [
        *difference.added,
        *difference.changed,
        *difference.removed,
        *difference.unchanged,
    ]
    assert sorted(everything) == sorted(before.keys() | after.keys())


@settings(deadline=None)
@given(fleets(), states(), st.sets(st.sampled_from(NAMES)))
def test_asked_again_at_once_it_repeats_nothing(
    wishes: dict[str, WantedTunnel], running: dict[str, Running], ours: set[str]
) -> None:
    actions = reconcile(wishes, running, ours.__contains__)
    carry_out(actions, running)
    assert reconcile(wishes, running, ours.__contains__) == []


@settings(deadline=None)
@given(fleets(), states())
def test_what_frees_ports_comes_first(
    wishes: dict[str, WantedTunnel], running: dict[str, Running]
) -> None:
    kinds = [type(action) for action in reconcile(wishes, running)]
    assert kinds == sorted(
        kinds, key=[StopTunnel, DrainTunnel, RotateToken, Apply, StartTunnel].index
    )


@settings(deadline=None)
@given(fleets(), fleets(), fleets())
def test_files_win_over_the_api_and_both_over_others(
    files: dict[str, WantedTunnel], api: dict[str, WantedTunnel], other: dict[str, WantedTunnel]
) -> None:
    sources = {"door": other, "api": api, "files": files}
    for name in NAMES:
        assert prevailing(name, sources) == {**other, **api, **files}.get(name)
    assert merged(sources) == {**other, **api, **files}


def test_a_difference_in_words() -> None:
    difference = compare({"a": A, "b": A, "c": A}, {"a": A, "b": LABELLED, "d": A})
    assert str(difference) == "1 added, 1 changed, 1 removed, 1 unchanged"
    assert difference.to_json() == {
        "added": ["d"],
        "changed": ["b"],
        "removed": ["c"],
        "unchanged": ["a"],
    }
