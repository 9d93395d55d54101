"""The actor of tunnels on demand is killed at each message, and no tunnel is lost or forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.demand import aws_keys
from tests.support.killed.demanded import CASES, CLASSES, Demanded
from tests.support.killed.killing import Moment, handled_messages
from tests.support.killed.shared import SharedCase, kill_in

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, quick_ways: None) -> Iterator[Demanded]:
    place = "tunnelfleet.runtime.gateway.on_demand"
    with pytest.MonkeyPatch.context() as patch, aws_keys():
        patch.setattr(f"{place}.actor.TICK_SECONDS", 0.02)
        patch.setattr(f"{place}.errands.SEARCH_SECONDS", (0.05, 0.2, 0.2))
        patch.setattr(f"{place}.facts.FIRST_LOOK_SECONDS", 0.02)
        with Demanded(tmp_path_factory.mktemp("demanded")) as made:
            yield made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_in_the_place_of_the_handler(rig: Demanded, case: SharedCase) -> None:
    kill_in(rig, case, Moment.BEFORE)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_behind_the_handler(rig: Demanded, case: SharedCase) -> None:
    kill_in(rig, case, Moment.AFTER)


@pytest.mark.parametrize("actor", CLASSES, ids=lambda actor: actor.__name__)
def test_each_message_of_a_class_has_its_case(actor: type) -> None:
    cases = [case.message for case in CASES if case.actor is actor]
    assert sorted(each.__name__ for each in cases) == sorted(
        each.__name__ for each in handled_messages(actor)
    )
