from __future__ import annotations

from collections import Counter

import pytest

from tunnelfleet.proto import Mode
from tunnelfleet.runtime.demo.plan import MIN_CALM_SECONDS, Chaos, Strike, StrikeKind, plan_strikes

NAMES = [f"press-{number:02d}" for number in range(1, 21)]


@pytest.mark.parametrize("tunnels", [1, 2, 20, 500])
@pytest.mark.parametrize("duration_seconds", [0.5, 5.0, 20.0, 30.0, 600.0])
def test_every_kind_happens_within_the_duration(tunnels: int, duration_seconds: float) -> None:
    strikes = plan_strikes([str(number) for number in range(tunnels)], duration_seconds)

    assert {strike.kind for strike in strikes} == set(StrikeKind)
    times = [strike.at_seconds for strike in strikes]
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < duration_seconds


@pytest.mark.parametrize("duration_seconds", [5.0, 20.0, 30.0, 600.0])
def test_the_end_is_calm(duration_seconds: float) -> None:
    last = plan_strikes(NAMES, duration_seconds)[-1]

    assert duration_seconds - last.at_seconds >= MIN_CALM_SECONDS


def test_strikes_are_spread_over_the_tunnels() -> None:
    struck = Counter(strike.tunnel for strike in plan_strikes(NAMES, 30.0))

    assert set(struck) == set(NAMES)
    assert max(struck.values()) - min(struck.values()) <= 1


def test_no_tunnels_no_strikes() -> None:
    assert plan_strikes([], 30.0) == []


def test_the_seed_decides_whom() -> None:
    assert plan_strikes(NAMES, 30.0, seed=1) == plan_strikes(NAMES, 30.0, seed=1)
    assert plan_strikes(NAMES, 30.0, seed=1) != plan_strikes(NAMES, 30.0, seed=2)


def test_a_kind_knows_whose_connection_it_drops() -> None:
    assert [kind.mode for kind in StrikeKind] == [None, Mode.SOURCE, Mode.DESTINATION, None]


def strikes(*tunnels: str) -> list[Strike]:
    kinds = list(StrikeKind)
    return [
        Strike(float(number + 1), kinds[number % 4], name) for number, name in enumerate(tunnels)
    ]


def test_strikes_are_handed_out_when_they_are_due() -> None:
    plan = strikes("a", "b", "c")
    chaos = Chaos(plan)

    assert chaos.due(0.9, lambda _name: True) == []
    assert chaos.due(2.0, lambda _name: True) == plan[:2]
    assert chaos.due(2.5, lambda _name: True) == []
    assert chaos.done == plan[:2]
    assert chaos.due(99.0, lambda _name: True) == plan[2:]
    assert chaos.done == plan


def test_a_tunnel_that_is_down_is_not_struck_but_another_one() -> None:
    chaos = Chaos(strikes("a", "b", "c"))
    due = chaos.due(1.0, lambda name: name == "c")

    assert [(strike.kind, strike.tunnel) for strike in due] == [(StrikeKind.SESSION_RESET, "c")]


def test_a_strike_waits_while_all_tunnels_are_down() -> None:
    chaos = Chaos(strikes("a", "b"))

    assert chaos.due(5.0, lambda _name: False) == []
    assert [strike.tunnel for strike in chaos.due(6.0, lambda _name: True)] == ["a", "b"]


def test_no_tunnel_is_struck_twice_at_once() -> None:
    chaos = Chaos(strikes("a", "a", "a"))

    assert len(chaos.due(5.0, lambda _name: True)) == 1
    assert len(chaos.due(5.0, lambda _name: True)) == 1
