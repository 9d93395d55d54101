"""Each class of a gateway is killed at each message; its tunnels do not notice, and it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.killed.gate import Gate
from tests.support.killed.gate_cases import CASES, CLASSES, GateCase
from tests.support.killed.killing import Kill, Moment, handled_messages
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path


def kill_at(case: GateCase, folder: Path, moment: Moment) -> None:
    with Gate(folder) as gate:
        if not case.opens:
            gate.begin()
            gate.wait_ready()
        with Kill(case.actor, case.message, moment) as kill:
            case.do(gate, case)
            kill.wait()
            victim = kill.victim
            assert victim is not None
            eventually(lambda: not victim.is_alive(), f"the end of {victim}")
        if case.ends:
            # Whoever runs the process starts it again: tunnelfleet up ends for that.
            assert gate.gateway.has_failed
            gate.check_ended()
            return
        assert not gate.gateway.has_failed
        if case.leaves:
            gate.check_leaves()
        else:
            gate.check_recovered()
        assert gate.failures() == {case.actor.__name__: 1}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_in_the_place_of_the_handler(case: GateCase, tmp_path: Path) -> None:
    kill_at(case, tmp_path, Moment.BEFORE)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_behind_the_handler(case: GateCase, tmp_path: Path) -> None:
    kill_at(case, tmp_path, Moment.AFTER)


@pytest.mark.parametrize("actor", CLASSES, ids=lambda actor: actor.__name__)
def test_each_message_of_a_class_has_its_case(actor: type) -> None:
    cases = [case.message for case in CASES if case.actor is actor]
    assert sorted(each.__name__ for each in cases) == sorted(
        each.__name__ for each in handled_messages(actor)
    )
