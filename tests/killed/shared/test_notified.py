"""The actor of devices is killed at each message; no device that was told is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.killed.killing import Moment, handled_messages
from tests.support.killed.notified import CASES, CLASSES, Notified
from tests.support.killed.shared import SharedCase, kill_in

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.programs("mosquitto")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, quick_ways: None) -> Iterator[Notified]:
    with Notified(tmp_path_factory.mktemp("notified")) as made:
        yield made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_in_the_place_of_the_handler(rig: Notified, case: SharedCase) -> None:
    kill_in(rig, case, Moment.BEFORE)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_behind_the_handler(rig: Notified, case: SharedCase) -> None:
    kill_in(rig, case, Moment.AFTER)


@pytest.mark.parametrize("actor", CLASSES, ids=lambda actor: actor.__name__)
def test_each_message_of_a_class_has_its_case(actor: type) -> None:
    cases = [case.message for case in CASES if case.actor is actor]
    assert sorted(each.__name__ for each in cases) == sorted(
        each.__name__ for each in handled_messages(actor)
    )
