"""Which gateway has a tunnel, and what the state is asked, before and after it is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import NotConnected
from tunnelfleet.runtime.gateway.door.resolver import NobodyYet, Refused, SendTo, Way
from tunnelfleet.runtime.gateway.forward import directory as directory_module
from tunnelfleet.runtime.gateway.forward.directory import FleetDirectory
from tunnelfleet.runtime.gateway.placement import Placement
from tunnelfleet.runtime.gateway.placement.shards import Member
from tunnelfleet.runtime.gateway.store import Store


class State:
    """A state that has some names, may be away, and answers when it may."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.is_away = False
        self.asked: list[list[str]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def names_among(self, names: Sequence[str]) -> set[str]:
        assert self.may_answer.wait(WAIT_SECONDS)
        self.asked.append([*names])
        if self.is_away:
            raise NotConnected("the state is away")
        return self.names & set(names)


def made(owner: Member | None = None, state: State | None = None) -> FleetDirectory:
    placement = cast("Placement", SimpleNamespace(owner=lambda _name: owner))
    return FleetDirectory("gw-1", placement, cast("Store | None", state))


@pytest.fixture
def state() -> State:
    return State("a", "b")


@pytest.fixture
def directory(state: State) -> Iterator[FleetDirectory]:
    found = made(state=state)
    yield found
    state.may_answer.set()
    found.close()


def look(directory: FleetDirectory, *names: str) -> str | None:
    return directory.find(names).result(WAIT_SECONDS)


OTHER = Member("gw-2", "10.0.0.2:7000", epoch=1, fresh=True, shards=4)
CLOSED = Member("gw-2", None, epoch=1, fresh=True, shards=4)
STALE = Member("gw-2", "10.0.0.2:7000", epoch=1, fresh=False, shards=4)
OURS = Member("gw-1", None, epoch=1, fresh=True, shards=4)


@pytest.mark.parametrize(
    ("owner", "can_ask", "kind", "said"),
    [
        (None, True, NobodyYet, "no gateway has it now"),
        (OURS, True, NobodyYet, "is about to start"),
        (STALE, True, NobodyYet, "gateway gw-2, which was not heard of"),
        (OTHER, True, SendTo, "10.0.0.2:7000"),
        (OTHER, False, Refused, "or forward (this one has no fleet_listen)"),
        (CLOSED, True, Refused, "or forward (that one has no fleet_listen)"),
    ],
    ids=["nobody", "ours", "stale", "another", "we cannot ask", "it cannot be asked"],
)
def test_the_way_to_a_tunnel(
    owner: Member | None, can_ask: bool, kind: type[Way], said: str
) -> None:
    directory = made(owner)
    way = directory.way_to("a", can_ask=can_ask)
    assert isinstance(way, kind)
    assert said in str(way)
    directory.close()


def test_the_first_name_that_there_is_is_found(directory: FleetDirectory) -> None:
    assert look(directory, "x", "b", "a") == "b"
    assert look(directory, "x", "y") is None


def test_without_a_state_there_is_no_name() -> None:
    directory = made()
    assert look(directory, "a") is None
    directory.close()


def test_known_names_are_found_while_the_state_is_away(
    directory: FleetDirectory, state: State
) -> None:
    look(directory, "a")
    look(directory, "b")
    state.names.remove("b")
    assert look(directory, "b") is None
    state.is_away = True
    assert look(directory, "x", "a") == "a"
    # It was known, and is not there any more.
    with pytest.raises(NotConnected, match="the state is away"):
        look(directory, "b")


def test_the_names_that_were_found_last_are_remembered(
    directory: FleetDirectory, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "MAX_REMEMBERED", 2)
    state.names.add("c")
    for name in ("a", "b", "a", "c"):
        assert look(directory, name) == name
    state.is_away = True
    assert look(directory, "a") == "a"
    with pytest.raises(NotConnected):
        look(directory, "b")


def test_no_more_than_a_bound_waits_for_the_state(
    directory: FleetDirectory, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "MAX_LOOKUPS", 3)
    state.may_answer.clear()
    waiting = [directory.find(["a"]) for _ in range(3)]
    with pytest.raises(NotConnected, match="too many look-ups wait"):
        look(directory, "a")
    state.may_answer.set()
    assert [each.result(WAIT_SECONDS) for each in waiting] == ["a"] * 3
    assert state.asked == [["a"]] * 3


def test_after_its_end_it_says_so(directory: FleetDirectory) -> None:
    directory.close()
    for _ in range(2):
        with pytest.raises(NotConnected, match="the gateway is stopping"):
            look(directory, "a")
