from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.support.fleet import FakePlacement, Fleet
from tests.support.rig import connect, echo
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import kill
from tunnelfleet.actors.transport import connect_gate
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway import (
    Assigned,
    CompareWanted,
    DrainTunnels,
    PutWanted,
    Reload,
    RemoveWanted,
    ReplaceTunnelToken,
    RetryTunnels,
    Revoked,
    SetWanted,
    TakeSnapshot,
    UnknownTunnel,
)
from tunnelfleet.runtime.gateway.config import Problem
from tunnelfleet.runtime.gateway.placement import SHARDS, shard_of
from tunnelfleet.runtime.gateway.reconcile import Difference
from tunnelfleet.runtime.gateway.supervisor import FLEET, RUNTIME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

ALL = frozenset(range(SHARDS))


def started(fleet: Fleet, *names: str, **given: object) -> list[WantedTunnel]:
    """Start the gateway with these tunnels in its files, and wait until they are connected."""
    tunnels = [fleet.tunnel(name, **given) for name in names]
    fleet.files.tunnels = {each.name: each for each in tunnels}
    fleet.start()
    for name in names:
        fleet.wait_state(name, "connected")
    return tunnels


class TestSources:
    def test_the_api_adds_changes_and_removes(self, fleet: Fleet) -> None:
        started(fleet, "file")
        tunnel = fleet.tunnel("api")
        gateway = fleet.gateway
        assert gateway.ask(PutWanted("api", tunnel)) == Difference(added=("api",))
        assert fleet.wait_state("api", "connected").source == "api"
        labelled = replace(tunnel, labels={"site": "lyon"})
        assert gateway.ask(PutWanted("api", labelled)) == Difference(changed=("api",))
        eventually(lambda: fleet.row("api").labels == {"site": "lyon"})
        assert fleet.connects("api") == 1
        assert gateway.ask(RemoveWanted("api", "api")) == Difference(removed=("api",))
        eventually(lambda: fleet.names() == ["file"])
        with pytest.raises(UnknownTunnel, match="'api'"):
            gateway.ask(RemoveWanted("api", "api"))

    def test_an_entry_of_a_file_wins_over_one_of_the_api(self, fleet: Fleet) -> None:
        (tunnel,) = started(fleet, "one")
        other = replace(tunnel, labels={"from": "api"})
        assert fleet.gateway.ask(PutWanted("api", other)) == Difference(unchanged=("one",))
        assert fleet.row("one").source == "files"
        fleet.files.tunnels = {}
        assert fleet.gateway.reload().difference == Difference(changed=("one",))
        eventually(lambda: fleet.row("one").labels == {"from": "api"})
        assert fleet.row("one").source == "api"
        assert fleet.connects("one") == 1

    def test_a_source_of_any_name(self, fleet: Fleet) -> None:
        started(fleet)
        tunnel = fleet.tunnel("on-demand")
        fleet.gateway.ask(SetWanted("door", {"on-demand": tunnel}))
        assert fleet.wait_state("on-demand", "connected").source == "door"

    def test_what_cannot_be_opened_says_so_and_comes_with_a_change(self, fleet: Fleet) -> None:
        started(fleet)
        tunnel = fleet.tunnel("bad", mode=Mode.DESTINATION, services=None)
        fleet.gateway.ask(PutWanted("api", tunnel))
        eventually(lambda: "could not be opened" in fleet.row("bad").reason)
        assert fleet.row("bad").state == "stopped"
        fleet.gateway.ask(PutWanted("api", replace(tunnel, mode=Mode.SOURCE)))
        fleet.wait_state("bad", "connected")


class TestReload:
    def test_a_change_that_needs_it_restarts_the_tunnel_alone(self, fleet: Fleet) -> None:
        one, _other = started(fleet, "one", "other")
        before = fleet.gateway.runtime.tunnel("one")
        fleet.files.tunnels["one"] = replace(one, bandwidth=1e6)
        assert fleet.gateway.reload().difference == Difference(
            changed=("one",), unchanged=("other",)
        )
        # In between there is none of that name.
        runtime = fleet.gateway.runtime
        eventually(lambda: before not in runtime.tunnels() and len(runtime.tunnels()) == 2)
        eventually(lambda: fleet.row("one").state == "connected" and fleet.connects("one") == 1)
        assert fleet.connects("other") == 1

    def test_mistakes_are_answered_and_change_nothing(self, fleet: Fleet) -> None:
        started(fleet, "one")
        fleet.files.tunnels = {}
        problem = Problem("f.toml", 1, "tunnel", "it is wrong")
        fleet.files.problems = (problem,)
        result = fleet.gateway.reload()
        assert not result.is_good
        assert result.problems == (problem,)
        assert fleet.row("one").state == "connected"
        assert not fleet.gateway.state.reload_ok
        fleet.files.problems = ()
        assert fleet.gateway.reload().difference == Difference(removed=("one",))
        assert fleet.gateway.state.reload_ok

    def test_a_reading_that_breaks_is_a_mistake(self, fleet: Fleet) -> None:
        started(fleet, "one")
        fleet.files.problems = 5  # type: ignore[assignment]
        result = fleet.gateway.reload()
        assert "could not be read" in result.problems[0].text
        assert fleet.row("one").state == "connected"

    def test_who_asks_while_a_reading_goes_on_gets_the_next(self, fleet: Fleet) -> None:
        started(fleet)
        fleet.files.may_read.clear()
        before = fleet.files.readings
        ref = fleet.gateway.refs.by_id[FLEET]
        first = ref.ask(Reload(), block=False)
        eventually(lambda: fleet.files.readings == before + 1)
        others = [ref.ask(Reload(), block=False) for _ in range(3)]
        # The question behind them is answered: they are taken by then.
        fleet.gateway.snapshot()
        fleet.files.tunnels = {"one": fleet.tunnel("one")}
        fleet.files.may_read.set()
        first.get(timeout=WAIT_SECONDS)
        found = [each.get(timeout=WAIT_SECONDS) for each in others]
        assert fleet.files.readings == before + 2
        assert all(each.is_good for each in found)
        fleet.wait_state("one", "connected")

    def test_settings_of_the_process_are_named_and_the_time_to_drain_is_taken(
        self, fleet: Fleet
    ) -> None:
        started(fleet)
        fleet.files.settings = replace(fleet.files.settings, connect_rate=7, drain_seconds=3)
        assert fleet.gateway.reload().needs_restart == ("connect_rate",)
        assert fleet.gateway.state.config.gateway.drain_seconds == 3

    def test_what_is_removed_and_wanted_again_starts_anew(self, fleet: Fleet) -> None:
        (tunnel,) = started(fleet, "one")
        address = fleet.gateway.runtime.tunnel("one").wait_listening("SSH", WAIT_SECONDS)
        with connect(address) as sock:
            assert echo(sock, b"x") == b"x"
            fleet.files.tunnels = {}
            fleet.gateway.reload()
            row = fleet.wait_state("one", "draining")
            assert "nobody wants it" in row.reason
            fleet.files.tunnels = {"one": tunnel}
            fleet.gateway.reload()
            fleet.wait_state("one", "connected")
        assert fleet.connects("one") == 1

    def test_a_drain_has_an_end(self, fleet: Fleet) -> None:
        fleet.files.settings = replace(fleet.files.settings, drain_seconds=0.1)
        started(fleet, "one")
        address = fleet.gateway.runtime.tunnel("one").wait_listening("SSH", WAIT_SECONDS)
        with connect(address) as sock:
            assert echo(sock, b"x") == b"x"
            fleet.files.tunnels = {}
            fleet.gateway.reload()
            eventually(lambda: fleet.names() == [])


class TestCommands:
    def test_drain_holds_over_reloads_and_retry_ends_it(self, fleet: Fleet) -> None:
        started(fleet, "one", "other")
        gateway = fleet.gateway
        assert gateway.ask(DrainTunnels(("one",))) == ["one"]
        row = fleet.wait_state("one", "stopped")
        eventually(lambda: "retry" in fleet.row("one").reason)
        assert row.source == "files"
        gateway.reload()
        gateway.snapshot()
        assert fleet.row("one").state == "stopped"
        assert gateway.ask(RetryTunnels(None)) == ["one"]
        fleet.wait_state("one", "connected")
        assert fleet.connects("other") == 1

    def test_drain_all(self, fleet: Fleet) -> None:
        started(fleet, "one", "other")
        assert sorted(fleet.gateway.ask(DrainTunnels(None))) == ["one", "other"]
        for name in ("one", "other"):
            fleet.wait_state(name, "stopped")

    def test_retry_ends_a_refusal_and_leaves_the_connected_alone(self, fleet: Fleet) -> None:
        tunnel, other = fleet.tunnel("one"), fleet.tunnel("other")
        fleet.files.tunnels = {"one": tunnel, "other": other}
        fleet.service.refuse_next("one", 403, count=1)
        fleet.start()
        fleet.wait_state("one", "refused")
        fleet.wait_state("other", "connected")
        assert fleet.gateway.ask(RetryTunnels(None)) == ["one"]
        fleet.wait_state("one", "connected")
        assert fleet.connects("other") == 1
        assert fleet.gateway.ask(RetryTunnels(("other",))) == []

    def test_retry_tries_one_that_a_breaker_holds_back(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Not drawn: a short one would let another try first.
        hour = SimpleNamespace(delay=lambda _openings, _rng: 3_600.0)
        monkeypatch.setattr(connect_gate, "BREAKER_DELAYS", hour)
        names = [f"down-{number}" for number in range(connect_gate.BREAKER_FAILURES)]
        fleet.files.tunnels = {name: fleet.tunnel(name) for name in names}
        for name in names:
            fleet.service.refuse_next(name, 503, count=10**6)
        gateway = fleet.start()
        eventually(lambda: bool(gateway.runtime.connect_stats().breakers))
        fleet.files.tunnels["late"] = fleet.tunnel("late")
        gateway.reload()
        eventually(lambda: "is down: its tunnels wait" in fleet.row("late").reason)
        assert fleet.row("late").state == "connecting"
        # Who has not asked yet is not tried, but the next one that waits.
        eventually(lambda: gateway.runtime.connect_stats().held_back == len(names) + 1)
        assert gateway.ask(RetryTunnels(("late",))) == ["late"]
        fleet.wait_state("late", "connected")

    def test_a_token_is_replaced_until_the_entry_brings_another(self, fleet: Fleet) -> None:
        (tunnel,) = started(fleet, "one")
        gateway = fleet.gateway
        token = fleet.service.rotate("one", Mode.SOURCE).source_token
        fleet.wait_state("one", "refused")
        gateway.ask(ReplaceTunnelToken("one", token))
        fleet.wait_state("one", "connected")
        assert gateway.reload().difference == Difference(unchanged=("one",))
        assert fleet.row("one").state == "connected"
        newest = fleet.service.rotate("one", Mode.SOURCE).source_token
        fleet.wait_state("one", "refused")
        fleet.files.tunnels = {"one": replace(tunnel, access_token=newest)}
        assert gateway.reload().difference == Difference(changed=("one",))
        fleet.wait_state("one", "connected")

    @pytest.mark.parametrize(
        "command",
        [
            DrainTunnels(("nobody",)),
            RetryTunnels(("one", "nobody")),
            ReplaceTunnelToken("nobody", "t" * 40),
        ],
    )
    def test_an_unknown_name_is_told(self, fleet: Fleet, command: object) -> None:
        started(fleet, "one")
        with pytest.raises(UnknownTunnel, match="'nobody'"):
            fleet.gateway.ask(command)
        assert fleet.row("one").state == "connected"

    def test_a_malformed_token_is_told_and_not_shown(self, fleet: Fleet) -> None:
        started(fleet, "one")
        command = ReplaceTunnelToken("one", "two words")
        assert "two words" not in repr(command)
        with pytest.raises(ConfigError) as caught:
            fleet.gateway.ask(command)
        assert "two words" not in str(caught.value)


class TestPlacement:
    @pytest.fixture
    def placement(self) -> FakePlacement:
        return FakePlacement()

    @pytest.fixture
    def fleet(self, tmp_path: Path, placement: FakePlacement) -> Iterator[Fleet]:
        with Fleet(tmp_path / "state", placement) as running:
            yield running

    def test_only_what_is_assigned_runs(self, fleet: Fleet, placement: FakePlacement) -> None:
        tunnels = [fleet.tunnel(f"t{number}") for number in range(4)]
        fleet.files.tunnels = {each.name: each for each in tunnels}
        fleet.start()
        assert {fleet.row(each.name).reason for each in tunnels} == {"another gateway has it"}
        mine = frozenset({shard_of("t0"), shard_of("t1")})
        placement.tell(Assigned(mine, 1))
        for name in ("t0", "t1"):
            fleet.wait_state(name, "connected")
        assert fleet.row("t2").state == "stopped"
        placement.tell(Assigned(ALL - mine, 2))
        fleet.wait_state("t2", "connected")
        assert fleet.connects("t0") == 1

    def test_what_is_revoked_ends_at_once(self, fleet: Fleet, placement: FakePlacement) -> None:
        fleet.files.tunnels = {"one": fleet.tunnel("one")}
        fleet.start()
        placement.tell(Assigned(ALL, 1))
        fleet.wait_state("one", "connected")
        address = fleet.gateway.runtime.tunnel("one").wait_listening("SSH", WAIT_SECONDS)
        with connect(address) as sock:
            assert echo(sock, b"x") == b"x"
            placement.tell(Revoked(frozenset({shard_of("one")})))
            eventually(lambda: fleet.row("one").reason == "another gateway has it")
            eventually(lambda: "one" not in fleet.gateway.state.running)

    def test_it_is_told_when_nothing_of_a_shard_runs_any_more(
        self, fleet: Fleet, placement: FakePlacement
    ) -> None:
        fleet.files.tunnels = {name: fleet.tunnel(name) for name in ("one", "other")}
        fleet.start()
        placement.tell(Assigned(ALL, 1))
        for name in ("one", "other"):
            fleet.wait_state(name, "connected")
        mine = frozenset({shard_of("one")})
        assert shard_of("other") not in mine
        empty = ALL - mine - {shard_of("other")}
        placement.tell(Revoked(empty))
        eventually(lambda: placement.vacant == empty)
        placement.tell(Revoked(mine))
        eventually(lambda: placement.vacant == empty | mine)
        assert fleet.row("other").state == "connected"

    def test_what_is_handed_over_may_end_in_its_time(
        self, fleet: Fleet, placement: FakePlacement
    ) -> None:
        fleet.files.tunnels = {name: fleet.tunnel(name) for name in ("one", "idle")}
        fleet.start()
        placement.tell(Assigned(ALL, 1))
        for name in ("one", "idle"):
            fleet.wait_state(name, "connected")
        address = fleet.gateway.runtime.tunnel("one").wait_listening("SSH", WAIT_SECONDS)
        with connect(address) as sock:
            assert echo(sock, b"x") == b"x"
            placement.tell(Revoked(ALL, may_drain=True))
            eventually(lambda: "idle" not in fleet.gateway.state.running)
            eventually(lambda: shard_of("idle") in placement.vacant)
            fleet.wait_state("one", "draining")
            assert echo(sock, b"y") == b"y"
            assert shard_of("one") not in placement.vacant
        eventually(lambda: placement.vacant == ALL)

    def test_what_is_lost_meanwhile_does_not_wait(
        self, fleet: Fleet, placement: FakePlacement
    ) -> None:
        fleet.files.tunnels = {"one": fleet.tunnel("one")}
        fleet.start()
        placement.tell(Assigned(ALL, 1))
        fleet.wait_state("one", "connected")
        address = fleet.gateway.runtime.tunnel("one").wait_listening("SSH", WAIT_SECONDS)
        with connect(address) as sock:
            assert echo(sock, b"x") == b"x"
            placement.tell(Revoked(ALL, may_drain=True))
            fleet.wait_state("one", "draining")
            placement.tell(Revoked(ALL))
            eventually(lambda: placement.vacant == ALL)

    def test_it_is_told_that_the_gateway_leaves(
        self, fleet: Fleet, placement: FakePlacement
    ) -> None:
        fleet.start()
        fleet.gateway.leave(WAIT_SECONDS)
        eventually(lambda: placement.has_left)

    def test_an_old_assignment_counts_no_more(self, fleet: Fleet, placement: FakePlacement) -> None:
        fleet.files.tunnels = {"one": fleet.tunnel("one")}
        fleet.start()
        placement.tell(Assigned(frozenset(), 5))
        placement.tell(Assigned(ALL, 4))
        fleet.gateway.snapshot()
        placement.tell(Assigned(frozenset(), 6))
        eventually(lambda: fleet.gateway.state.epoch == 6)
        assert fleet.gateway.state.shards == frozenset()

    def test_it_is_stopped_with_the_gateway(self, fleet: Fleet, placement: FakePlacement) -> None:
        fleet.start()
        fleet.gateway.stop()
        assert placement.is_stopped


class TestCrashes:
    def test_a_new_life_of_the_actor_goes_on_where_the_old_one_was(self, fleet: Fleet) -> None:
        started(fleet, "one", "other")
        gateway = fleet.gateway
        address = gateway.runtime.tunnel("one").wait_listening("SSH", WAIT_SECONDS)
        with connect(address) as sock:
            assert echo(sock, b"x") == b"x"
            gateway.ask(DrainTunnels(("one",)))
            before = gateway.refs.by_id[FLEET]
            kill(before)
            eventually(lambda: gateway.refs.by_id[FLEET] is not before)
            assert fleet.row("one").state == "draining"
            assert fleet.row("other").state == "connected"
        # The connection has ended: the drain that the old life began ends too.
        eventually(lambda: "one" not in gateway.state.running)
        assert fleet.connects("other") == 1

    def test_a_runtime_that_fails_comes_back_with_its_tunnels(self, fleet: Fleet) -> None:
        started(fleet, "one")
        before = fleet.gateway.refs.by_id[RUNTIME]
        kill(before)
        eventually(lambda: fleet.gateway.refs.by_id[RUNTIME] is not before)
        fleet.wait_state("one", "connected")
        fleet.gateway.ask(PutWanted("api", fleet.tunnel("late")))
        fleet.wait_state("late", "connected")


def test_many_names_hold_up_no_question(fleet: Fleet) -> None:
    """They are looked at a few at a time, behind the questions that are there already."""
    fleet.start()
    tunnel = fleet.tunnel("t")
    many = {f"t{number}": replace(tunnel, name=f"t{number}") for number in range(300)}
    ref = fleet.gateway.refs.by_id[FLEET]
    may_turn = threading.Event()
    assert fleet.gateway._dispatcher is not None
    fleet.gateway._dispatcher.call_soon(may_turn.wait, WAIT_SECONDS)
    ref.tell(SetWanted("api", many))
    answer = ref.ask(TakeSnapshot(), block=False)
    may_turn.set()
    entries = answer.get(timeout=WAIT_SECONDS).entries
    assert [entry.phase for entry in entries] == [None] * 300
    eventually(lambda: len(fleet.gateway.state.running) == 300)


def test_the_destination_of_a_snapshot_is_what_it_connects_to(fleet: Fleet) -> None:
    tokens = fleet.service.open_tunnel("d", ["SSH"])
    tunnel = fleet.tunnel(
        "dest",
        mode=Mode.DESTINATION,
        access_token=tokens.destination_token,
        services={"SSH": TcpAddress("127.0.0.1", 22)},
    )
    fleet.files.tunnels = {"dest": tunnel}
    fleet.start()
    row = fleet.wait_state("dest", "connected")
    assert row.services == {"SSH": "127.0.0.1:22"}
    assert row.mode == "destination"


def test_no_thread_is_left(fleet: Fleet) -> None:
    started(fleet, "one")
    fleet.gateway.reload()

    def own_threads() -> set[str]:
        names = {thread.name for thread in threading.enumerate()}
        return {name for name in names if name.startswith(("tunnelfleet-gat", "tunnelfleet-rel"))}

    assert len(own_threads()) == 2
    fleet.gateway.stop()
    fleet.gateway.stop()
    assert own_threads() == set()


def test_a_snapshot_of_some_names(fleet: Fleet) -> None:
    started(fleet, "one", "two")
    entries = fleet.gateway.snapshot(["two", "nobody"]).entries
    assert [entry.tunnel.name for entry in entries] == ["two"]


def test_a_comparison_changes_nothing(fleet: Fleet) -> None:
    (tunnel,) = started(fleet, "one")
    fleet.gateway.ask(ReplaceTunnelToken("one", "u" * 40))
    new = fleet.tunnel("new")
    labelled = replace(tunnel, labels={"site": "lyon"})
    asked = CompareWanted("files", {"one": labelled, "new": new})
    found = fleet.gateway.ask(asked)
    assert (found.added, found.changed) == (("new",), ("one",))
    # The token of the command counts on both sides: it is no change.
    assert found.changes["one"].keys == ("labels",)
    assert fleet.names() == ["one"]
    assert fleet.row("one").labels == {}
