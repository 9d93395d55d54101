"""What an earlier life has left, by a clock that was set since."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.fleet import wanted
from tunnelfleet.runtime.gateway.config import CloudPlace, DemandLimits
from tunnelfleet.runtime.gateway.on_demand.facts import AskOutcome
from tunnelfleet.runtime.gateway.on_demand.memory import DemandMemory
from tunnelfleet.runtime.gateway.on_demand.plan import DemandPlan
from tunnelfleet.runtime.gateway.store import StoredDemand

HOUR = 3_600.0
WALL = 1_790_000_000.0
KEPT = StoredDemand(
    "r1",
    "press-4",
    CloudPlace("eu-west-1", None, None),
    WALL,
    tunnel_id="t-1",
    ends_at=WALL + 2 * HOUR,
    tunnel=wanted("press-4"),
)


def memory(**limits: int) -> DemandMemory:
    numbers = iter(range(9))
    return DemandMemory(
        DemandPlan(replace(DemandLimits(), **limits), 0.0, lambda: f"n{next(numbers)}")
    )


@pytest.mark.parametrize("wall", [WALL - 100 * HOUR, 60.0])
def test_a_clock_that_is_behind_makes_no_lifetime_longer(wall: float) -> None:
    made = memory()
    assert made.take_up([KEPT], 5.0, wall) == []
    (found,) = made.plan
    assert (found.opened_at, found.ends_at) == (5.0, 5.0 + 2 * HOUR)


def test_what_was_opened_in_the_future_counts_for_an_hour_and_not_for_years() -> None:
    made = memory(max_opens_per_hour=1)
    made.take_up([replace(KEPT, is_over=True)], 5.0, 60.0)
    assert made.plan.ask("press-5", 5.0).outcome is AskOutcome.TOO_OFTEN
    assert made.plan.ask("press-5", 6.0 + HOUR).outcome is AskOutcome.BEGUN


def test_the_time_that_has_passed_counts() -> None:
    made = memory()
    made.take_up([KEPT], 5.0, WALL + HOUR)
    (found,) = made.plan
    assert (found.opened_at, found.ends_at) == (5.0 - HOUR, 5.0 + HOUR)
