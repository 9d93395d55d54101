"""The routes of the gateway itself: how it is, a reload, its actors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import tunnelfleet
from tests.support.fleet import wanted
from tests.support.gateway_api import ApiClient, ApiRig, api_entry
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime.gateway.api import ApiPlaces
from tunnelfleet.runtime.gateway.config import Problem

if TYPE_CHECKING:
    from pathlib import Path

PROBLEM = Problem("fleet.toml", 4, "tunnel[a].mode", 'write "source" or "destination"')
WARNING = Problem("fleet.toml", 1, "gateway", "look at it", is_error=False)
PROBLEM_JSON = {
    "file": "fleet.toml",
    "line": 4,
    "key": "tunnel[a].mode",
    "message": 'write "source" or "destination"',
    "severity": "error",
}


class TestGateway:
    def test_what_it_says(self, rig: ApiRig, client: ApiClient) -> None:
        eventually(lambda: client.get("/v1/gateway").json["running"] == 1)
        found = client.get("/v1/gateway").json
        assert (found["name"], found["version"]) == ("gw", tunnelfleet.__version__)
        assert found["pid"] == os.getpid()
        assert found["wanted"] == 1
        assert sum(found["tunnels"].values()) == 1
        assert found["placement"]["kind"] == "static"
        assert (found["door"], found["connect"], found["metrics"]) == (None, None, None)
        assert found["config"]["last_reload_successful"] is True
        assert found["config"]["problems"] == []
        assert found["started"] <= found["config"]["last_reload"] + WAIT_SECONDS

    def test_where_its_doors_and_pages_are(self, tmp_path: Path) -> None:
        places = {
            "door": "127.0.0.1:1080",
            "connect": "/run/connect.sock",
            "metrics": "http://127.0.0.1:9464",
        }
        with ApiRig(tmp_path, places=ApiPlaces(**places)) as rig:
            found = rig.client.get("/v1/gateway").json
            assert {key: found[key] for key in places} == places

    def test_ready_when_there_is_nothing_to_wait_for(self, tmp_path: Path) -> None:
        with ApiRig(tmp_path) as rig:
            found = rig.client.get("/v1/gateway").json
            assert (found["ready"], found["reasons"]) == (True, [])

    def test_unready_says_why(self, client: ApiClient) -> None:
        def reasons() -> list[str]:
            found: list[str] = client.get("/v1/gateway").json["reasons"]
            return found

        eventually(lambda: reasons() == ["not connected: 1 of 1 tunnel"])
        assert client.get("/v1/gateway").json["ready"] is False

    def test_while_it_stops(self, rig: ApiRig, client: ApiClient) -> None:
        rig.gateway.leave(WAIT_SECONDS)
        found = client.get("/v1/gateway").json
        assert "the gateway is stopping" in found["reasons"]
        assert found["ready"] is False


class TestReload:
    def test_what_changes(self, rig: ApiRig, client: ApiClient) -> None:
        rig.files.tunnels = {
            "a": wanted("a", labels={"site": "nice"}),
            "new": wanted("new"),
        }
        found = client.ask("POST", "/v1/reload")
        assert found.status == 200
        assert found.json == {
            "added": ["new"],
            "changed": ["a"],
            "removed": [],
            "unchanged": [],
            "changes": {"a": {"keys": ["labels"], "action": "in place"}},
            "needs_restart": [],
            "problems": [],
        }
        assert client.get("/v1/tunnels/new").status == 200

    def test_a_dry_run_changes_nothing(self, rig: ApiRig, client: ApiClient) -> None:
        client.ask("POST", "/v1/tunnels", api_entry("b"))
        rig.files.tunnels = {"b": wanted("b"), "new": wanted("new")}
        found = client.ask("POST", "/v1/reload?dry_run=true").json
        assert (found["added"], found["removed"]) == (["new"], ["a"])
        assert found["changed"] == ["b"]
        assert found["changes"]["b"]["action"] == "new token"
        assert [row["name"] for row in client.get("/v1/tunnels").json["tunnels"]] == ["a", "b"]
        assert client.ask("POST", "/v1/reload?dry_run=false").json["added"] == ["new"]

    @pytest.mark.parametrize("query", ["", "?dry_run=true"])
    def test_files_with_mistakes_change_nothing(
        self, rig: ApiRig, client: ApiClient, query: str
    ) -> None:
        rig.files.problems = (PROBLEM, WARNING)
        found = client.ask("POST", f"/v1/reload{query}").problem(422, "wrong-files")
        assert found["problems"][0] == PROBLEM_JSON
        assert found["problems"][1]["severity"] == "warning"
        assert client.get("/v1/tunnels/a").status == 200

    def test_the_gateway_says_what_the_last_one_found(self, rig: ApiRig, client: ApiClient) -> None:
        rig.files.problems = (PROBLEM,)
        client.ask("POST", "/v1/reload")
        found = client.get("/v1/gateway").json["config"]
        assert found["last_reload_successful"] is False
        assert found["problems"] == [PROBLEM_JSON]
        rig.files.problems = ()
        client.ask("POST", "/v1/reload")
        found = client.get("/v1/gateway").json["config"]
        assert (found["last_reload_successful"], found["problems"]) == (True, [])

    def test_other_requests_do_not_wait_for_it(self, rig: ApiRig, client: ApiClient) -> None:
        rig.files.may_read.clear()
        with_reload = client.connection()
        with_reload.request("POST", "/v1/reload")
        eventually(lambda: rig.files.readings == 2)
        assert client.get("/v1/gateway").status == 200
        assert client.ask("POST", "/v1/tunnels", api_entry("b")).status == 201
        rig.files.may_read.set()
        assert with_reload.getresponse().status == 200
        with_reload.close()

    @pytest.mark.parametrize("query", ["dry_run=yes", "dry_run=", "dry=true", "dry_run=true&" * 2])
    def test_a_parameter_that_is_none(self, client: ApiClient, query: str) -> None:
        client.ask("POST", f"/v1/reload?{query}").problem(400, "bad-request")


def test_actors(client: ApiClient) -> None:
    tree = client.get("/v1/actors").json["tree"]
    assert (tree[0]["id"], tree[0]["kind"], tree[0]["depth"]) == (
        "gateway",
        "GatewaySupervisor",
        0,
    )
    assert {"runtime", "placement", "fleet"} <= {each["id"] for each in tree}


def test_the_fleet_that_does_not_answer(
    rig: ApiRig, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rig.gateway.refs.by_id, "fleet", None)
    answer = client.get("/v1/tunnels")
    answer.problem(503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    client.ask("POST", "/v1/tunnels", api_entry("b")).problem(503, "unavailable")


def test_a_mistake_of_ours_harms_one_request(
    rig: ApiRig,
    client: ApiClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = "what was " + "sent"

    def fail(*_args: object) -> None:
        raise ZeroDivisionError(text)

    monkeypatch.setattr(rig.gateway, "snapshot", fail)
    found = client.get("/v1/tunnels").problem(500, "failed")
    assert text not in str(found) + caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert client.get("/v1/actors").status == 200
