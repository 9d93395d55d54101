"""Each class that stands for workers, or for tunnels in them, is killed at each message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.killed.crew import CASES, CLASSES, Crew
from tests.support.killed.killing import Moment, handled_messages
from tests.support.killed.shared import SharedCase, kill_in

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, quick_ways: None) -> Iterator[Crew]:
    with Crew(tmp_path_factory.mktemp("crew")) as made:
        yield made


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.long] if case.is_slow else [], id=case.name)
        for case in CASES
    ],
)
def test_killed_in_the_place_of_the_handler(rig: Crew, case: SharedCase) -> None:
    kill_in(rig, case, Moment.BEFORE)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_behind_the_handler(rig: Crew, case: SharedCase) -> None:
    kill_in(rig, case, Moment.AFTER)


@pytest.mark.parametrize("actor", CLASSES, ids=lambda actor: actor.__name__)
def test_each_message_of_a_class_has_its_case(actor: type) -> None:
    cases = [case.message for case in CASES if case.actor is actor]
    assert sorted(each.__name__ for each in cases) == sorted(
        each.__name__ for each in handled_messages(actor)
    )
