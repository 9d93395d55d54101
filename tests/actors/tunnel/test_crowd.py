"""Pacing where others are what bytes wait for: in simulated time, on a service that is busy.

Each message costs the service the same, so a tunnel that took that wait for its own queue, and sent
less at a time, would make it longer: for all.
"""

from __future__ import annotations

import statistics

import pytest

from tests.support.simulated_crowd import Costs, SimulatedCrowd

OFFERED = 100_000
WARM_UP_SECONDS = 5.0
SECONDS = 10.0
BUSY = Costs(message=300e-6, byte=30e-9, ping=240e-6)
"""60 % of its processor for a hundred tunnels with one connection each, if nobody pings."""
HICCUPS = BUSY._replace(hiccup=0.05)


@pytest.mark.parametrize("together", [True, False], ids=["together", "each at its own time"])
@pytest.mark.parametrize(
    ("tunnels", "costs"), [(100, BUSY), (66, HICCUPS)], ids=["busy", "with hiccups"]
)
def test_nobody_is_limited_because_of_others(tunnels: int, costs: Costs, together: bool) -> None:
    crowd = SimulatedCrowd(tunnels, costs, bytes_per_second=OFFERED, together=together)
    rates = crowd.rates(WARM_UP_SECONDS, SECONDS)
    assert min(rates) >= 0.95 * OFFERED


def test_pacing_costs_a_busy_service_little() -> None:
    crowds = {paced: SimulatedCrowd(100, BUSY, paced=paced) for paced in (True, False)}
    for crowd in crowds.values():
        crowd.rates(WARM_UP_SECONDS, SECONDS)
    busy = {paced: crowd.service.busy_seconds for paced, crowd in crowds.items()}
    assert busy[True] <= 1.2 * busy[False]


def test_a_service_whose_processor_is_used_up_still_carries_what_it_can() -> None:
    # Two connections each have smaller messages, which together are more than it can do.
    crowd = SimulatedCrowd(100, BUSY, bytes_per_second=OFFERED, connections=2)
    rates = crowd.rates(4 * WARM_UP_SECONDS, SECONDS)
    assert statistics.mean(rates) >= 0.95 * OFFERED


@pytest.mark.parametrize(
    ("pause_seconds", "mean", "least"), [(0.4, 0.7, 0.5), (0.5, 0.5, 0.35)], ids=["less", "more"]
)
def test_a_processor_that_others_take_for_a_while_lets_most_of_it_pass(
    pause_seconds: float, mean: float, least: float
) -> None:
    # With 40 % of the time gone, all of it would need 98 % of the processor if nobody pinged; with
    # half of it gone a tunnel without pacing carries 80 to 83 %.
    costs = BUSY._replace(pause=pause_seconds)
    crowd = SimulatedCrowd(100, costs, bytes_per_second=OFFERED, together=False)
    rates = crowd.rates(WARM_UP_SECONDS, 2 * SECONDS)
    assert statistics.mean(rates) >= mean * OFFERED
    assert min(rates) >= least * OFFERED, "one that was slowed down has to find its way back"
