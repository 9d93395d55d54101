"""Schedules: a seed makes the same one each time, and what a fault may touch is said right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .outage import POSSIBLE, WORKERS, Blow, Victim, outage_of
from .results import QUIET_SECONDS
from .schedule import (
    EVERY_TUNNEL,
    SHARED_ACTORS,
    TUNNEL_ACTORS,
    Fault,
    Kind,
    Place,
    Schedule,
    schedule_of,
    smaller,
)
from .tunnels import IMPATIENT

SEEDS = range(2_000)


@pytest.mark.parametrize("seed", [0, 1, 123])
def test_a_seed_makes_the_same_schedule(seed: int) -> None:
    assert schedule_of(seed) == schedule_of(seed)
    assert schedule_of(seed) != schedule_of(seed + 1)


def test_a_schedule_is_the_same_after_json() -> None:
    schedules = [schedule_of(seed) for seed in range(100)]
    assert [Schedule.parse(each.to_json()) for each in schedules] == schedules


def test_every_kind_and_every_actor_comes_up() -> None:
    faults = [fault for seed in SEEDS for fault in schedule_of(seed).faults]
    assert {each.kind for each in faults} == set(Kind)
    assert {each.actor for each in faults} == {"", *TUNNEL_ACTORS, *SHARED_ACTORS}


def test_a_tunnel_that_nothing_touches_is_there_often() -> None:
    schedules = [schedule_of(seed) for seed in SEEDS]
    untouched = [each for each in schedules if len(each.touched()) < len(each.tunnels)]
    assert len(untouched) > len(schedules) / 2


@pytest.mark.parametrize(
    ("fault", "touched"),
    [
        (Fault(0, Kind.LATENCY, Place.SOURCE_LINK, 1), set()),
        (Fault(0, Kind.HOLE_THAWS, Place.CLIENT, 1), set()),
        (Fault(0, Kind.RESET, Place.SERVER, 1), {1}),
        (Fault(0, Kind.CRASH, Place.SOURCE_LINK, 0, actor="TunnelActor"), {0}),
        (Fault(0, Kind.CRASH, Place.RUNTIME, EVERY_TUNNEL, actor="ConnectGovernor"), set()),
        (Fault(0, Kind.RESTART_SERVICE, Place.SERVICE, EVERY_TUNNEL), {0, 1, 2}),
    ],
)
def test_what_a_fault_touches(fault: Fault, touched: set[int]) -> None:
    plan = schedule_of(0).tunnels[0]
    schedule = replace(schedule_of(0), tunnels=(plan, plan, plan), faults=(fault,))
    assert schedule.touched() == touched


def test_bytes_are_corrupted_unnoticed_only_without_tls() -> None:
    flip = Fault(0, Kind.FLIP, Place.SOURCE_LINK, 1)
    schedule = replace(schedule_of(0), faults=(flip,), tls=False)
    assert schedule.corrupted() == {1}
    assert replace(schedule, tls=True).corrupted() == set()


def test_a_smaller_schedule_has_less_in_it() -> None:
    schedule = schedule_of(7)
    size = len(schedule.faults) + len(schedule.conversations)
    found = list(smaller(schedule))
    assert found
    assert all(len(each.faults) + len(each.conversations) < size for each in found)


def test_the_lines_tell_all_that_happens() -> None:
    schedule = schedule_of(3)
    text = "\n".join(schedule.lines())
    assert text.count("Conversation") == len(schedule.conversations)
    assert text.count("Fault") == len(schedule.faults)


def test_every_outage_comes_within_as_many_seeds() -> None:
    outages = [outage_of(seed) for seed in range(len(POSSIBLE))]
    strikes = {(each.victim, each.blow) for outage in outages for each in outage.strikes}
    assert strikes == set(POSSIBLE)


@pytest.mark.parametrize(
    ("victim", "blow", "cut"),
    [
        (Victim.STORE, Blow.KILL, set()),
        (Victim.BROKER, Blow.KILL, set()),
        (Victim.GATEWAY, Blow.FREEZE, set()),
        (Victim.SERVICE, Blow.DISK, set()),
        (Victim.WORKER, Blow.KILL, {1}),
        (Victim.GATEWAY, Blow.KILL, {0, 1}),
        (Victim.SERVICE, Blow.KILL, {0, 1}),
    ],
)
def test_whose_connections_an_outage_may_cut(victim: Victim, blow: Blow, cut: set[int]) -> None:
    strike = replace(outage_of(0).strikes[0], victim=victim, blow=blow, worker=1)
    assert {each for each in range(WORKERS) if strike.cuts(each)} == cut


def test_a_dead_link_is_noticed_many_times_sooner_than_is_waited_for_it() -> None:
    """In the worst case data stands in front of the ping, and then a ping has the longer time."""
    limits = IMPATIENT
    longest = (
        2 * limits.ping_interval_seconds
        + limits.pong_timeout_seconds
        + limits.stall_timeout_seconds
    )
    assert 10 * longest < QUIET_SECONDS
