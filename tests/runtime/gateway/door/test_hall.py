"""What is told of clients that were refused."""

from __future__ import annotations

from typing import Any

import pytest

from tunnelfleet.runtime.gateway.door import Denied, DoorLimits
from tunnelfleet.runtime.gateway.door.hall import TOLD_REFUSALS, DoorCounters, Hall
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.log import RateLimit


@pytest.fixture
def told() -> list[Denied]:
    return []


@pytest.fixture
def hall(told: list[Denied]) -> Hall:
    nothing: Any = None
    return Hall(nothing, nothing, DoorLimits(), DoorCounters(), nothing, told.append)


def test_one_that_is_refused_again_and_again_pushes_nothing_out(
    hall: Hall, told: list[Denied], caplog: pytest.LogCaptureFixture
) -> None:
    for port in range(1_000):
        # Neither another port nor another name makes it another client.
        hall.denied(Denial.LOGIN, "wrong", peer=f"10.0.0.1:{port}", user=f"u{port}", target=None)
    hall.denied(Denial.LOGIN, "wrong", peer="10.0.0.2:1", user="u", target=None)
    hall.denied(Denial.RULE, "no rule", peer="10.0.0.1:1", user="u", target="a")
    assert len(told) == TOLD_REFUSALS + 2
    assert len(caplog.records) == TOLD_REFUSALS + 2
    assert hall.counters.denied[Denial.LOGIN] == 1_001


def test_at_a_unix_socket_a_user_is_one_client_whatever_its_processes(
    hall: Hall, told: list[Denied]
) -> None:
    for process in range(100):
        hall.denied(Denial.RULE, "no rule", peer=f"pid={process}", user="a", target="t")
    hall.denied(Denial.RULE, "no rule", peer="pid=1", user="b", target="t")
    assert [each.user for each in told] == ["a"] * TOLD_REFUSALS + ["b"]


def test_the_next_one_tells_how_many_were_left_out(hall: Hall, told: list[Denied]) -> None:
    now = [0.0]
    hall._told = RateLimit(1, 60.0, clock=lambda: now[0])
    for at in (0.0, 1.0, 2.0, 61.0):
        now[0] = at
        hall.denied(Denial.RULE, "no rule", peer="pid=1", user="a", target="t")
    assert [each.reason for each in told] == ["no rule", "no rule (and 2 more like it before)"]
