"""What the commands for a fleet on Ray print and return; the fleet itself is played."""

from __future__ import annotations

import contextlib
import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ray_records import ray_plan
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.cli import ray_fleet as commands
from tunnelfleet.runtime.ray_fleet.cluster import Node
from tunnelfleet.runtime.ray_fleet.fleet import Brought
from tunnelfleet.runtime.ray_fleet.plan import FleetPlan, change_between

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

FILE = """
[gateway]
name = "gw"
placement = "ray"
[[tunnel]]
name = "press-4"
mode = "destination"
endpoint = "wss://127.0.0.1:7000"
access_token_file = "token"
services = { SSH = "127.0.0.1:22" }
"""


def with_line(line: str) -> str:
    return FILE.replace("[[tunnel]]", f"{line}\n[[tunnel]]")


def group_row(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "group": name,
        "state": "running",
        "node": "n1",
        "node_address": "192.0.2.1",
        "shards": 128,
        "tunnels": 3,
        "connected": 2,
        "lease_seconds_left": 8.5,
        "restarts": 0,
        "metrics": "192.0.2.1:9100",
        "plan_version": 1,
        "trouble": "",
        "problems": [],
        "pid": 7,
        **changes,
    }


def tunnel_row(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "mode": "destination",
        "state": "connected",
        "reason": "",
        "services": {},
        "labels": {"site": "north"},
        "streams": 0,
        "connections": 0,
        "sent_bytes": 0,
        "received_bytes": 0,
        "reconnects": 0,
        "since": 0.0,
        "source": "files",
        "endpoint": "",
        "place": "",
        "channel_id": "",
        "group": "group-0",
        "node": "192.0.2.1",
        **changes,
    }


class PlayedFleet:
    """A fleet that is as a test says."""

    def __init__(self) -> None:
        self.seen_groups = [group_row("group-0"), group_row("group-1", node="n2")]
        self.seen_tunnels = [tunnel_row("press-4"), tunnel_row("press-5")]
        self.late: list[str] = []
        self.moved: list[str] = []
        self.cut: list[str] = []
        self.wanted = 0
        self.plans: list[FleetPlan] = []
        self.before = ray_plan("press-4", "press-9")
        self.drain_seconds: float | None = None

    def groups_wanted(self) -> int:
        return self.wanted

    def up(self, wanted: FleetPlan, _seconds: float, on_wait: Callable[[str], object]) -> Brought:
        self.plans.append(wanted)
        on_wait("waiting for group-1")
        on_wait("waiting for group-1")
        after = ray_plan("press-4", "press-5", groups=wanted.groups, connect_rate=7)
        return Brought(change_between(self.before, after), self.seen_groups, self.late)

    def spread(self, brought: Brought, _seconds: float, _on_wait: object) -> Brought:
        return brought._replace(moved=self.moved)

    def groups(self) -> list[dict[str, Any]]:
        return self.seen_groups

    def tunnels(self) -> list[dict[str, Any]]:
        return self.seen_tunnels

    def targets(self) -> list[dict[str, Any]]:
        return [{"targets": [each["metrics"]], "labels": {}} for each in self.seen_groups]

    def down(self, drain_seconds: float | None) -> Sequence[str]:
        self.drain_seconds = drain_seconds
        return self.cut


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> PlayedFleet:
    made = PlayedFleet()
    nodes = [Node("n1", "192.0.2.1"), Node("n2", "192.0.2.2")]
    monkeypatch.setattr(
        commands,
        "cluster",
        SimpleNamespace(
            joined=lambda _address, _namespace: contextlib.nullcontext(),
            slow_checks=lambda: "this cluster takes about 65 s to notice a frozen node",
            nodes=lambda: nodes,
        ),
    )
    monkeypatch.setattr(commands, "RayFleet", lambda _namespace: made)
    return made


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    token = tmp_path / "token"
    token.write_text("t" * 60)
    token.chmod(0o600)
    path = tmp_path / "fleet.toml"
    path.write_text(with_line('door = "127.0.0.1:1080"'))
    return path


def run(*arguments: str | Path) -> int:
    return main(["ray", *map(str, arguments)])


class TestUp:
    def test_what_has_changed_is_said(
        self, fleet: PlayedFleet, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fleet.seen_groups[0] |= {"problems": ["press-5: there is no such file"]}
        assert run("up", file) == 0
        said = capsys.readouterr()
        assert "2 groups on 2 nodes: 1 tunnel added, 0 changed, 1 removed" in said.out
        assert "connect_rate: groups take it over when they begin anew" in said.err
        assert "group-0 on 192.0.2.1: press-5: there is no such file" in said.err
        # What does nothing on Ray, and what this cluster does badly.
        assert "gateway.door does nothing on Ray" in said.err
        assert "takes about 65 s to notice a frozen node" in said.err
        # One group a node, where nobody has said how many.
        assert [each.groups for each in fleet.plans] == [2]

    def test_a_fleet_that_runs_keeps_its_number_of_groups(
        self, fleet: PlayedFleet, file: Path
    ) -> None:
        fleet.wanted = 5
        assert run("up", file) == 0
        assert run("up", file, "--groups", "3") == 0
        assert [each.groups for each in fleet.plans] == [5, 3]

    def test_who_is_late_is_named_and_the_status_is_1(
        self, fleet: PlayedFleet, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fleet.late = ["group-0", "group-1"]
        fleet.seen_groups[0]["trouble"] = "the directory does not answer"
        fleet.seen_groups[1]["state"] = "away"
        assert run("up", file) == 1
        said = capsys.readouterr().err
        assert "group-0 is not up yet: the directory does not answer" in said
        assert "group-1 is not up yet: away" in said

    def test_groups_that_were_moved_are_named(
        self, fleet: PlayedFleet, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fleet.moved = ["group-1"]
        assert run("up", file, "--spread") == 0
        assert "group-1 was moved" in capsys.readouterr().out

    def test_unequal_nodes_are_told(
        self, fleet: PlayedFleet, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fleet.seen_groups = [group_row(f"group-{number}") for number in range(3)]
        assert run("up", file) == 0
        assert "--spread moves group-2 and others" in capsys.readouterr().err

    def test_more_groups_than_shards(
        self, fleet: PlayedFleet, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file.write_text(with_line("shards = 2"))
        assert run("up", file, "--groups", "3") == 2
        assert "--groups 3: the fleet has 2 shards to share" in capsys.readouterr().err
        assert not fleet.plans

    def test_a_mistake_in_the_file_changes_nothing(
        self, fleet: PlayedFleet, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file.write_text(with_line("dor = 1"))
        assert run("up", file) == 2
        assert "dor" in capsys.readouterr().err
        assert not fleet.plans

    def test_people_see_what_is_waited_for_once(
        self,
        fleet: PlayedFleet,
        file: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert run("up", file) == 0
        assert "waiting for" not in capsys.readouterr().err
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        assert run("up", file) == 0
        assert capsys.readouterr().err.count("waiting for group-1") == 1

    def test_as_json(
        self, fleet: PlayedFleet, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("up", file, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["added"], found["removed"], found["late"]) == (1, 1, [])
        assert found["groups"] == fleet.seen_groups


class TestLook:
    def test_tunnels_and_where_they_are(
        self, fleet: PlayedFleet, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fleet.seen_tunnels[1] |= {"group": "", "state": "stopped"}
        assert run("ls") == 0
        head, first, second, *_rest = capsys.readouterr().out.splitlines()
        assert head.startswith("NAME")
        assert "press-4" in first
        assert "group=group-0" in first
        assert "press-5" in second
        assert "group=" not in second

    def test_groups(self, fleet: PlayedFleet, capsys: pytest.CaptureFixture[str]) -> None:
        fleet.seen_groups[1] |= {"state": "no lease", "metrics": None, "trouble": "frozen"}
        assert run("ls", "--fleet") == 0
        head, first, second = capsys.readouterr().out.splitlines()
        assert head.split()[:3] == ["GROUP", "STATE", "NODE"]
        assert first.split() == (
            ["group-0", "running", "192.0.2.1", "128", "3", "2", "8.5s", "0", "192.0.2.1:9100"]
        )
        assert "no lease" in second
        assert second.endswith("frozen")

    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            (["press-*"], ["press-4", "press-5"]),
            (["press-5", "lathe-1"], ["press-5"]),
            (["--fleet", "group-1"], ["group-1"]),
        ],
        ids=["pattern", "name", "group"],
    )
    def test_only_some(
        self,
        fleet: PlayedFleet,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        names: list[str],
    ) -> None:
        assert fleet.seen_tunnels
        assert run("ls", "--json", *arguments) == 0
        found = json.loads(capsys.readouterr().out)
        key = "group" if "--fleet" in arguments else "name"
        assert [each[key] for each in found] == names

    def test_none(self, fleet: PlayedFleet, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("ls", "lathe-*") == 0
        assert "none is like that" in capsys.readouterr().err
        fleet.seen_tunnels = []
        assert run("ls") == 0
        assert "the fleet has none" in capsys.readouterr().err


class TestTargets:
    def test_a_file_is_there_at_once_whole(
        self, fleet: PlayedFleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("targets") == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed == fleet.targets()
        path = tmp_path / "targets.json"
        assert run("targets", "--output", path) == 0
        assert json.loads(path.read_text()) == printed
        assert [each.name for each in tmp_path.iterdir()] == ["targets.json"]

    def test_a_file_that_cannot_be_written(
        self, fleet: PlayedFleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fleet.targets()
        folder = tmp_path / "targets.json"
        folder.mkdir()
        assert run("targets", "--output", folder) == 2
        assert f"--output: cannot write {folder}: " in capsys.readouterr().err
        assert [each.name for each in tmp_path.iterdir()] == ["targets.json"]


class TestDown:
    def test_all_that_was_open_had_its_time(
        self, fleet: PlayedFleet, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("down", "--drain", "3") == 0
        assert fleet.drain_seconds == 3.0
        assert "the fleet has ended" in capsys.readouterr().out

    def test_what_was_cut_is_told_and_the_status_is_1(
        self, fleet: PlayedFleet, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fleet.cut = ["press-4"]
        assert run("down") == 1
        assert "press-4: its connections were cut" in capsys.readouterr().err
