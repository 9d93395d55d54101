"""Who has a slot next: groups take turns, hung ones leave room, proven ones always find some."""

from __future__ import annotations

import pytest

from tunnelfleet.actors.net import fair_slots
from tunnelfleet.actors.net.fair_slots import FairSlots, reserved_share

SLOW_SECONDS = 3.0


def make(slots: int = 4, per_group: int | None = None) -> FairSlots[str]:
    return FairSlots(slots, per_group or reserved_share(slots), SLOW_SECONDS)


def ask(slots: FairSlots[str], *keys: str) -> None:
    """Each key stands for a member of the group that is named before its colon."""
    for key in keys:
        slots.ask(key, key.partition(":")[0], key)


def take_all(slots: FairSlots[str], now: float = 0.0) -> list[str]:
    taken = []
    while (key := slots.take_next(now)) is not None:
        taken.append(key)
    return taken


def prove(slots: FairSlots[str], *keys: str) -> None:
    """Let each use a slot with success."""
    for key in keys:
        ask(slots, key)
        assert slots.take_next(0.0) == key
        slots.give_back(key, 0.0, succeeded=True)


def hang(slots: FairSlots[str], *keys: str) -> None:
    """Let each hold a slot for too long, without success."""
    for key in keys:
        ask(slots, key)
        assert slots.take_next(0.0) == key
        slots.give_back(key, SLOW_SECONDS + 1, succeeded=False)


@pytest.mark.parametrize(
    ("slots", "share"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (8, 6), (16, 12)]
)
def test_a_quarter_and_at_least_one_is_left_to_others(slots: int, share: int) -> None:
    assert reserved_share(slots) == share


def test_one_slot_serves_all_in_turn() -> None:
    slots = make(1)
    ask(slots, "a:1", "a:2")
    assert take_all(slots) == ["a:1"]
    slots.give_back("a:1", 0.0, succeeded=False)
    assert take_all(slots) == ["a:2"]


def test_groups_take_turns_and_within_one_the_first_is_first() -> None:
    slots = make(16)
    ask(slots, "a:1", "a:2", "a:3", "b:1", "c:1", "b:2")
    assert take_all(slots) == ["a:1", "b:1", "c:1", "a:2", "b:2", "a:3"]


def test_one_group_never_has_all_slots() -> None:
    slots = make(4)
    prove(slots, "a:0")
    ask(slots, "a:1", "a:2", "a:3", "a:4")
    assert take_all(slots) == ["a:1", "a:2", "a:3"]
    ask(slots, "b:1")
    assert take_all(slots) == ["b:1"]


def test_one_group_of_which_nothing_is_known_leaves_one_of_its_own() -> None:
    slots = make(4)
    ask(slots, "a:1", "a:2", "a:3", "a:4")
    assert take_all(slots) == ["a:1", "a:2"]


def test_those_of_whom_nothing_is_known_leave_a_slot_to_the_proven() -> None:
    slots = make(4)
    prove(slots, "good:1")
    ask(slots, *[f"new{number}:1" for number in range(40)])
    assert len(take_all(slots)) == 3
    ask(slots, "good:1")
    assert take_all(slots) == ["good:1"]


def test_those_that_hung_have_at_most_half_of_the_slots() -> None:
    slots = make(4)
    names = [f"bad{number}:1" for number in range(10)]
    hang(slots, *names)
    ask(slots, *names)
    assert len(take_all(slots)) == 2
    ask(slots, "new:1")
    assert take_all(slots) == ["new:1"]


def test_within_a_group_those_that_hung_leave_room_to_the_others() -> None:
    slots = make(4)
    prove(slots, "a:good")
    bad = [f"a:bad{number}" for number in range(10)]
    hang(slots, *bad)
    ask(slots, *bad)
    assert take_all(slots) == ["a:bad0"], "of the three of the group"
    ask(slots, "a:good")
    assert take_all(slots) == ["a:good"], "at once, and not behind those that wait"


def test_what_is_known_of_a_group_holds_for_its_new_members() -> None:
    slots = make(4)
    hang(slots, "a:1")
    ask(slots, "a:2", "a:3")
    assert take_all(slots) == ["a:2"]
    slots.give_back("a:2", 0.0, succeeded=True)
    ask(slots, "a:4", "a:5")
    assert take_all(slots) == ["a:3", "a:4", "a:5"]


def test_a_quick_failure_says_nothing() -> None:
    slots = make(4)
    prove(slots, "a:1")
    ask(slots, "a:1")
    assert slots.take_next(0.0) == "a:1"
    slots.give_back("a:1", SLOW_SECONDS - 1, succeeded=False)
    ask(slots, *[f"new{number}:1" for number in range(9)], "a:1")
    assert "a:1" in take_all(slots), "it is proven still"


def test_success_makes_one_that_hung_proven() -> None:
    slots = make(4)
    hang(slots, "a:1")
    prove(slots, "a:1")
    ask(slots, *[f"new{number}:1" for number in range(9)], "a:1")
    assert "a:1" in take_all(slots)


@pytest.mark.parametrize("key", ["a:1", "a:2", "never:seen"])
def test_whoever_leaves_the_queue_or_was_never_there_is_no_trouble(key: str) -> None:
    slots = make(4)
    ask(slots, "a:1", "a:2")
    slots.give_back(key, 0.0, succeeded=False)
    slots.give_back(key, 0.0, succeeded=False)
    assert take_all(slots) == [each for each in ("a:1", "a:2") if each != key]
    assert slots.waiting == 0


def test_nothing_is_kept_of_those_that_are_done() -> None:
    slots = make(4)
    for number in range(100):
        key = f"group{number}:member"
        ask(slots, key)
        assert take_all(slots) == [key]
        slots.give_back(key, 0.0, succeeded=False)
    assert (slots.held, slots.waiting) == (0, 0)
    assert not slots._lines
    assert not slots._line_of
    assert not slots._held


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_slots, "MAX_RECORDS", 10)
    slots = make(4)
    prove(slots, *[f"group{number}:{number}" for number in range(50)])
    assert len(slots._records) == 10


def test_a_whole_group_may_leave_the_queue() -> None:
    slots = make(4)
    hang(slots, "a:slow")
    prove(slots, "a:good")
    ask(slots, "a:slow", "a:good", "a:new", "b:1", "a:newer")
    left = slots.leave_group("a")
    assert sorted(left) == sorted((key, key) for key in ("a:slow", "a:good", "a:new", "a:newer"))
    assert take_all(slots) == ["b:1"]
    assert slots.leave_group("a") == []
    ask(slots, "a:new")
    assert take_all(slots) == ["a:new"]


def test_who_hinders_newcomers_of_other_groups() -> None:
    slots = make(4)
    prove(slots, "good:1")
    ask(slots, "good:1", "a:1", "b:1", "c:1")
    assert len(take_all(slots, 5.0)) == 4
    assert slots.hindering() == []
    ask(slots, "a:2")
    assert slots.hindering() == [("b:1", "b", 5.0), ("c:1", "c", 5.0)], "not its own group"
    ask(slots, "d:1")
    assert [key for key, _, _ in slots.hindering()] == ["a:1", "b:1", "c:1"], "not the proven one"


def test_those_that_hung_hinder_and_are_no_newcomers() -> None:
    slots = make(4)
    hang(slots, "a:1", "b:1", "c:1", "d:1")
    ask(slots, "a:1", "b:1", "c:1", "d:1")
    assert len(take_all(slots)) == 2
    assert slots.hindering() == []
    ask(slots, "new1:1", "new2:1", "new3:1")
    assert [key for key in take_all(slots) if key.startswith("new")] == ["new1:1"]
    assert [key for key, _, _ in slots.hindering()] == ["a:1", "b:1", "new1:1"]
