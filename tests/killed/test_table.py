"""No class of actors is left out."""

from __future__ import annotations

from pathlib import Path

from tests.support.killed import core_cases, gate_cases
from tests.support.killed.killing import actor_classes

TESTS = Path(__file__).parent.parent
ELSEWHERE = {
    "DemandActor": "runtime/gateway/on_demand/test_on_demand.py",
    "EnvoyActor": "runtime/gateway/forward/test_forwarding.py",
    "FleetListenerActor": "runtime/gateway/forward/test_forwarding.py",
    "GovernorSupervisor": "e2e/test_gateway_workers.py",
    "GuestActor": "runtime/gateway/forward/test_forwarding.py",
    "NotifyActor": "runtime/gateway/devices/test_actor.py",
    "RemoteTunnelActor": "runtime/gateway/workers/test_tunnel.py",
    "WorkerActor": "e2e/test_gateway_workers.py",
}
"""Classes that are not killed at each message yet, and where their ends are tested."""


def test_each_class_is_killed_or_said_not_to_be() -> None:
    here = {each.__name__ for each in (*core_cases.CLASSES, *gate_cases.CLASSES)}
    assert here | set(ELSEWHERE) == {each.__name__ for each in actor_classes()}
    assert not here & set(ELSEWHERE)


def test_where_the_others_are_tested_is_there() -> None:
    assert [name for name in ELSEWHERE.values() if not (TESTS / name).exists()] == []
