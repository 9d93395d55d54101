"""The measuring functions measure; the limits are far above what is expected of a quiet machine."""

from __future__ import annotations

import time

import pytest

from tests.bench import kernel_bench


@pytest.fixture(scope="module")
def figures():
    return {
        **kernel_bench.measure_memory(actors=5_000, threads=20),
        **kernel_bench.measure_same_dispatcher(20_000),
        **kernel_bench.measure_cross_thread(20_000),
        **kernel_bench.measure_ask(200),
        **kernel_bench.measure_starts(1_000),
        **kernel_bench.measure_pykka(2_000),
    }


def test_every_figure_is_measured(figures):
    assert len(figures) == 11
    costs = {name: value for name, value in figures.items() if name.endswith("_us")}
    assert all(value > 0 for value in costs.values()), figures


def test_a_message_and_an_actor_stay_cheap(figures):
    wall, own = time.perf_counter(), time.process_time()
    costs = kernel_bench.measure_same_dispatcher(20_000)
    # The part of the time that this process had: the rest was for others.
    share = min(1.0, (time.process_time() - own) / (time.perf_counter() - wall))
    assert costs["same_dispatcher_burst_us"] * share < 15
    assert costs["same_dispatcher_ping_pong_us"] * share < 15
    assert figures["actor_bytes"] < 4_000
