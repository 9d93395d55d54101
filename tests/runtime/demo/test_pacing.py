from __future__ import annotations

import pytest

from tunnelfleet.runtime.demo.plan import (
    FLEET_BYTES_PER_SECOND,
    MAX_TUNNEL_BYTES_PER_SECOND,
    MIN_TUNNEL_BYTES_PER_SECOND,
    Pacer,
    TrafficPlan,
)


def test_a_fleet_shares_its_rate() -> None:
    plan = TrafficPlan.for_fleet(20)

    assert plan.bytes_per_second * 20 == pytest.approx(FLEET_BYTES_PER_SECOND)


@pytest.mark.parametrize(
    ("tunnels", "rate"), [(1, MAX_TUNNEL_BYTES_PER_SECOND), (100_000, MIN_TUNNEL_BYTES_PER_SECOND)]
)
def test_a_share_has_its_bounds(tunnels: int, rate: float) -> None:
    assert TrafficPlan.for_fleet(tunnels).bytes_per_second == rate


def test_more_tunnels_do_less_each() -> None:
    few, many = TrafficPlan.for_fleet(20), TrafficPlan.for_fleet(500)

    assert many.page_bytes < few.page_bytes
    assert many.bulk_bytes < few.bulk_bytes
    assert many.echo_pause_seconds > few.echo_pause_seconds


def test_a_transfer_takes_a_few_seconds_at_most() -> None:
    for tunnels in (1, 20, 500, 5_000):
        plan = TrafficPlan.for_fleet(tunnels)
        assert 2 * plan.bulk_bytes / plan.bytes_per_second <= 2


def test_a_pacer_lets_bytes_pass_at_its_rate() -> None:
    now = 100.0
    pacer = Pacer(1_000.0, lambda: now)

    assert pacer.reserve(500) == pytest.approx(0.5)
    assert pacer.reserve(500) == pytest.approx(1.0)
    now = 100.75
    assert pacer.reserve(250) == pytest.approx(0.5)


def test_a_pacer_saves_nothing_up_while_idle() -> None:
    now = 100.0
    pacer = Pacer(1_000.0, lambda: now)
    pacer.reserve(1_000)
    now = 500.0

    assert pacer.reserve(1_000) == pytest.approx(1.0)
