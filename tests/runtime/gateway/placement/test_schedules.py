"""The protocol of leases on virtual time: seeded schedules of all that can go wrong."""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.lease_simulation import (
    BOUND_SECONDS,
    SHARDS,
    TIMES,
    Network,
    Simulation,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEDULES = 500
LONG_SCHEDULES = 10_000
FOUND = (10_308,)
"""Schedules that have found something: a join that came late began another life in the store."""
FAULTS_SECONDS = 60.0
NAMES = ("one", "two", "three", "four")


def play(seed: int) -> Simulation:
    """A schedule: gateways come and go, freeze, lose messages, and the store is away."""
    simulation = Simulation(seed)
    rng = simulation.rng
    for name in rng.sample(NAMES, rng.randint(1, 3)):
        simulation.at(rng.uniform(0.0, 2.0), functools.partial(simulation.join, name))
    for _ in range(rng.randint(1, 8)):
        simulation.at(rng.uniform(0.0, FAULTS_SECONDS), lambda: fault(simulation))
    simulation.run(FAULTS_SECONDS)
    simulation.network = Network()
    simulation.store.is_down = False
    for gateway in simulation.living:
        simulation.thaw(gateway, early=True)
    # What was late comes in the first seconds.
    simulation.run(FAULTS_SECONDS + 5.0)
    return simulation


def fault(simulation: Simulation) -> None:
    rng = simulation.rng
    what = rng.randrange(7)
    living = simulation.living
    present = {each.name for each in living}
    if what == 0 or not living:
        absent = [name for name in NAMES if name not in present]
        if absent:
            simulation.join(rng.choice(absent))
    elif what == 1:
        simulation.kill(rng.choice(living))
    elif what == 2:
        simulation.freeze(rng.choice(living), rng.uniform(0.5, 30.0))
    elif what == 3:
        simulation.leave(rng.choice(living))
    elif what == 4:
        seconds = rng.uniform(1.0, 30.0)
        simulation.store.is_down = True
        simulation.at(simulation.now + seconds, lambda: setattr(simulation.store, "is_down", False))
    elif what == 5:
        chances = [rng.uniform(0.0, 0.4) for _ in range(3)]
        simulation.network = Network(*chances)
    else:
        # Killed, and started again at once: its former lease still holds.
        gone = rng.choice(living)
        simulation.kill(gone)
        simulation.join(gone.name)


def judge(simulation: Simulation) -> None:
    """All shards are owned within the bound, and then nothing moves any more."""
    quiet_from = simulation.now
    simulation.run(quiet_from + BOUND_SECONDS)
    assert simulation.is_settled()
    moves = Counter(shard for at, shard, _from, _to in simulation.store.claims if at >= quiet_from)
    # Once because its owner was not heard of yet, and once to where it belongs.
    assert max(moves.values(), default=0) <= 2
    before = len(simulation.store.claims)
    simulation.run(simulation.now + 2 * TIMES.lease_seconds)
    assert len(simulation.store.claims) == before
    assert simulation.is_settled()


def play_all(seeds: Sequence[int]) -> None:
    for seed in seeds:
        try:
            judge(play(seed))
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error


def test_schedules() -> None:
    play_all([*FOUND, *range(SCHEDULES)])


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_many_schedules() -> None:
    play_all(range(SCHEDULES, SCHEDULES + LONG_SCHEDULES))


class TestMoves:
    """What moves when one thing happens, and nothing else does."""

    def settled(self, *names: str) -> Simulation:
        simulation = Simulation()
        for name in names:
            simulation.join(name)
        simulation.run(5.0)
        assert simulation.is_settled()
        return simulation

    def test_gateways_that_start_together_claim_each_shard_once(self) -> None:
        simulation = self.settled("one", "two", "three")
        assert len(simulation.store.claims) == SHARDS

    def test_a_new_gateway_takes_its_part_and_nothing_else_moves(self) -> None:
        simulation = self.settled("one", "two", "three")
        simulation.join("four")
        simulation.run(simulation.now + BOUND_SECONDS)
        assert simulation.is_settled()
        moved = [to.name for _at, _shard, _from, to in simulation.store.claims[SHARDS:]]
        assert moved
        assert set(moved) == {"four"}
        assert len(moved) == len(simulation.living[-1].present)

    @pytest.mark.parametrize("how", ["kill", "leave"])
    def test_only_what_a_gateway_had_moves_when_it_goes(self, how: str) -> None:
        simulation = self.settled("one", "two", "three")
        gone = simulation.gateways[0]
        had = set(gone.present)
        getattr(simulation, how)(gone)
        simulation.run(simulation.now + TIMES.lease_seconds + TIMES.beat_seconds)
        assert simulation.is_settled()
        moved = [shard for _at, shard, _from, _to in simulation.store.claims[SHARDS:]]
        assert sorted(moved) == sorted(had)

    def test_a_planned_stop_waits_for_no_lease(self) -> None:
        simulation = self.settled("one", "two")
        simulation.leave(simulation.gateways[0])
        simulation.run(simulation.now + 4.0)
        assert simulation.is_settled()

    def test_a_frozen_gateway_gives_up_what_others_have_and_gets_it_back_once(self) -> None:
        simulation = self.settled("one", "two", "three")
        had = set(simulation.gateways[0].present)
        simulation.freeze(simulation.gateways[0], 15.0)
        simulation.run(simulation.now + 14.0)
        assert len(simulation.store.claims) == SHARDS + len(had)
        simulation.run(simulation.now + BOUND_SECONDS)
        assert simulation.is_settled()
        assert len(simulation.store.claims) == SHARDS + 2 * len(had)

    def test_nothing_moves_when_the_store_was_away(self) -> None:
        simulation = self.settled("one", "two", "three")
        simulation.store.is_down = True
        simulation.run(simulation.now + 60.0)
        assert not any(
            each.may_connect(shard, simulation.now)
            for each in simulation.living
            for shard in range(SHARDS)
        )
        assert sum(len(each.present) for each in simulation.living) == SHARDS
        simulation.store.is_down = False
        simulation.run(simulation.now + TIMES.request_seconds + TIMES.beat_seconds + 1.0)
        assert simulation.is_settled()
        simulation.run(simulation.now + 60.0)
        assert len(simulation.store.claims) == SHARDS

    def test_a_gateway_that_died_with_the_store_is_replaced_after_it_is_back(self) -> None:
        simulation = self.settled("one", "two", "three")
        simulation.store.is_down = True
        simulation.kill(simulation.gateways[0])
        simulation.run(simulation.now + 60.0)
        simulation.store.is_down = False
        simulation.run(simulation.now + BOUND_SECONDS)
        assert simulation.is_settled()

    @pytest.mark.parametrize("seconds", [-3_600.0, -15.0, 15.0, 3_600.0])
    def test_nothing_moves_when_the_clock_of_the_store_jumps(self, seconds: float) -> None:
        simulation = self.settled("one", "two", "three")
        simulation.store.clock_error = seconds
        simulation.run(simulation.now + 60.0)
        assert simulation.is_settled()
        assert len(simulation.store.claims) == SHARDS

    def test_members_share_the_connects(self) -> None:
        simulation = self.settled("one", "two", "three")
        assert [each.members for each in simulation.living] == [3, 3, 3]
        simulation.leave(simulation.gateways[0])
        simulation.run(simulation.now + 8.0)
        assert [each.members for each in simulation.living] == [2, 2]
