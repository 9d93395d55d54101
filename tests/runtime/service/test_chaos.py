"""The plan of handshake faults."""

from __future__ import annotations

from tunnelfleet.runtime.service.handshake import FaultPlan, Refusal


def test_nothing_is_planned_at_first() -> None:
    plan = FaultPlan()
    assert not plan.take_silence()
    assert not plan.take_garbage()
    assert plan.take_refusal(None) is None


def test_each_fault_is_committed_as_often_as_planned() -> None:
    plan = FaultPlan(silences_left=2, garbage_left=1)
    assert [plan.take_silence() for _ in range(3)] == [True, True, False]
    assert [plan.take_garbage() for _ in range(2)] == [True, False]


def test_refusals_are_by_tunnel() -> None:
    refusal = Refusal(503, "later", 2, None)
    plan = FaultPlan(refusals={"a": refusal})
    assert plan.take_refusal("b") is None
    assert plan.take_refusal(None) is None
    assert [plan.take_refusal("a") for _ in range(3)] == [refusal, refusal, None]
