"""What a gateway tells of tunnels that others have, while some of these do not answer."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tunnelfleet.proto import Mode, TunnelError
from tunnelfleet.runtime.gateway.forward.survey import look_at_fleet, look_elsewhere
from tunnelfleet.runtime.gateway.listing import Listing
from tunnelfleet.runtime.gateway.placement import Member

if TYPE_CHECKING:
    from collections.abc import Callable

ME, OTHER = "me", "other"


class TwoGateways:
    """Two gateways: one looks, and the other has all the tunnels.

    It stands for the gateway that looks, for its state, its engine of placement, its store, and
    for the way to the other one.
    """

    def __init__(self, **changes: Any) -> None:
        self.member = replace(Member(OTHER, "192.0.2.1:7443", 1, True, 1), **changes)
        self.owners: tuple[str | None, ...] = (OTHER,)
        self.config = SimpleNamespace(gateway=SimpleNamespace(name=ME))
        self.running: dict[str, Any] = {}
        self.files: dict[str, Any] = {}
        self.added: dict[str, str] = {}
        self.has_state = True
        self.answers: dict[str, list[dict[str, Any]]] | None = {}
        self.shard_count = 1
        self.state = self.placement = self.store = self
        self.runtime = None

    # -- the gateway that looks

    def snapshot(self, _names: object) -> Any:
        return SimpleNamespace(entries=())

    # -- its state

    def wish(self, name: str) -> Any:
        return self.files.get(name)

    def wishes(self) -> dict[str, Any]:
        return self.files

    def is_ours(self, _name: str) -> bool:
        return False

    def shard_of(self, _name: str) -> int:
        return 0

    def source_of(self, _name: str) -> str:
        return "files"

    # -- placement

    def members(self) -> tuple[Member, ...]:
        return (Member(ME, None, 1, True, 0), self.member)

    def owner(self, _name: str) -> Member | None:
        return self.member if self.owners[0] is not None else None

    def owner_names(self) -> tuple[str | None, ...]:
        return self.owners

    # -- the store

    def names_among(self, names: list[str]) -> set[str]:
        self._look()
        return self.added.keys() & set(names)

    def list_shards(
        self, _shards: frozenset[int], _count: int, limit: int, after: str
    ) -> list[tuple[str, str]]:
        self._look()
        return sorted(each for each in self.added.items() if each[0] > after)[:limit]

    def _look(self) -> None:
        if not self.has_state:
            raise TunnelError("the state is away")

    # -- the way to the other

    def ask_tunnels(self, _member: Member, filters: Any) -> Callable[[float], Listing]:
        def wait(_seconds: float) -> Listing:
            if self.answers is None:
                raise TunnelError("it is silent")
            names = filters.get("name", [])
            return Listing([row for name in names for row in self.answers.get(name, [])])

        return wait


def wish(**labels: str) -> Any:
    return SimpleNamespace(mode=Mode.SOURCE, labels=labels)


def look(fleet: TwoGateways, **how: Any) -> Any:
    gateway: Any = fleet
    return look_at_fleet(gateway, how.pop("others", gateway), how)


def look_for(fleet: TwoGateways, name: str) -> Any:
    gateway: Any = fleet
    return look_elsewhere(gateway, gateway, name)


class TestOneTunnel:
    def test_its_gateway_is_asked(self) -> None:
        fleet = TwoGateways()
        fleet.answers = {"press-4": [{"name": "press-4", "state": "connected"}]}
        assert look_for(fleet, "press-4") == {
            "name": "press-4",
            "state": "connected",
            "gateway": OTHER,
        }

    def test_what_its_gateway_does_not_have_is_nobody_s(self) -> None:
        assert look_for(TwoGateways(), "press-4") is None

    def test_nobody_is_asked_for_what_nobody_has(self) -> None:
        fleet = TwoGateways()
        fleet.owners, fleet.answers = (None,), None
        assert look_for(fleet, "press-4") is None

    def test_nobody_is_asked_for_what_runs_here(self) -> None:
        fleet = TwoGateways()
        fleet.running["press-4"], fleet.answers = object(), None
        assert look_for(fleet, "press-4") is None

    @pytest.mark.parametrize("where", ["files", "state", "nobody knows"])
    def test_a_silent_gateway_is_named_if_there_is_such_a_tunnel(self, where: str) -> None:
        fleet = TwoGateways()
        fleet.answers = None
        if where == "files":
            fleet.files["press-4"], fleet.has_state = wish(), False
        elif where == "state":
            fleet.added["press-4"] = "{}"
        else:
            fleet.has_state = False
        with pytest.raises(TunnelError, match=r"is with gateway other, .*: it is silent"):
            look_for(fleet, "press-4")

    def test_a_silent_gateway_is_no_matter_for_a_tunnel_that_is_not_there(self) -> None:
        fleet = TwoGateways()
        fleet.answers = None
        assert look_for(fleet, "press-4") is None


class TestAllTunnels:
    @pytest.mark.parametrize(
        ("changes", "can_ask", "trouble"),
        [
            ({"fresh": False}, True, "it was not heard of for longer than its lease"),
            ({"address": None}, True, "it has no fleet_listen: ask there"),
            ({}, False, "this gateway cannot ask others"),
        ],
        ids=["lease over", "no listener", "no way"],
    )
    def test_why_a_gateway_is_not_asked(
        self, changes: dict[str, Any], can_ask: bool, trouble: str
    ) -> None:
        fleet = TwoGateways(**changes)
        fleet.files["press-4"] = wish(site="north")
        found = look(fleet, others=fleet if can_ask else None)
        mine, other = found.gateways
        assert (mine["reached"], mine["trouble"]) == (True, "")
        assert (other["reached"], other["trouble"]) == (False, trouble)
        (row,) = found.tunnels
        assert (row["state"], row["source"]) == ("unknown", "files")
        assert (row["labels"], row["gateway"]) == ({"site": "north"}, OTHER)
        assert row["reason"] == f"gateway other did not answer: {trouble}"

    def test_those_of_files_and_state_are_told_once(self) -> None:
        fleet = TwoGateways(fresh=False)
        fleet.files |= {"b": wish(), "d": wish()}
        fleet.added = {
            "a": json.dumps({"mode": "destination", "labels": {"site": "south"}}),
            "b": "{}",
            "c": "not JSON",
            "e": json.dumps({"labels": 1}),
        }
        rows = look(fleet).tunnels
        assert [(each["name"], each["source"], each["mode"]) for each in rows] == [
            ("a", "api", "destination"),
            ("b", "files", "source"),
            ("c", "api", ""),
            ("d", "files", "source"),
            ("e", "api", ""),
        ]
        assert [each["labels"] for each in rows] == [{"site": "south"}, {}, {}, {}, {}]

    def test_without_the_state_those_of_the_files_are_told(self) -> None:
        fleet = TwoGateways(fresh=False)
        fleet.files["b"], fleet.added["a"], fleet.has_state = wish(), "{}", False
        assert [each["name"] for each in look(fleet).tunnels] == ["b"]

    def test_what_moves_is_told_by_who_has_it_still(self) -> None:
        fleet = TwoGateways()
        fleet.files["press-4"], fleet.owners = wish(), (None,)
        (row,) = look(fleet).tunnels
        assert (row["gateway"], row["reason"]) == ("", "no gateway has it now")
        # It runs here until it is closed: that is told, and not that nobody has it.
        fleet.running["press-4"] = object()
        assert look(fleet).tunnels == []

    def test_only_what_is_asked_for(self) -> None:
        fleet = TwoGateways(fresh=False)
        fleet.files |= {"press-4": wish(), "press-5": wish(), "lathe-1": wish()}
        assert [each["name"] for each in look(fleet, name=["press-*"]).tunnels] == [
            "press-4",
            "press-5",
        ]
        assert look(fleet, state=["connected"]).tunnels == []
