"""A fleet on a real Ray cluster of two nodes: TLS tunnels with traffic, and the commands.

Ray gives its own processes 30 s to start, so this needs a machine that is not too busy.
"""

from __future__ import annotations

import re
import secrets

import pytest

from tests.support.ray_scenarios import play_on_ray

pytestmark = [pytest.mark.timeout(800), pytest.mark.e2e, pytest.mark.long]
pytest.importorskip("ray")


def test_a_fleet_lives_on_ray_and_follows_its_files() -> None:
    seen = play_on_ray("life")

    # up: two groups on two nodes, all tunnels carry, each knows its own.
    groups = seen["groups"]
    assert [each["state"] for each in groups] == ["running", "running"]
    assert len({each["node"] for each in groups}) == 2
    assert sum(each["shards"] for each in groups) == 256
    assert {each["name"]: each["state"] for each in seen["tunnels"]} == {
        f"t00{number}": "connected" for number in range(6)
    }
    assert {each["group"] for each in seen["tunnels"]} <= {"group-0", "group-1"}

    # targets: each group shows its metrics, those of its lease as well.
    assert len(seen["metrics"]) == 2
    for page in seen["metrics"]:
        assert "\ntunnelfleet_placement_members " in page
        assert "\ntunnelfleet_tunnels{" in page or "\ntunnelfleet_tunnels " in page

    # up again: what has changed is applied, and nothing else notices.
    assert seen["changed"]["added"] == 1
    assert seen["reloaded"] == {"new": 1}

    # another group: what moves is its share, once each; the others do not notice.
    assert set(seen["moved"].values()) <= {"group-2"}
    assert seen["noticed"] == dict.fromkeys(seen["moved"], 1)
    assert seen["replaced"] == 0

    # An application's own actors on the same cluster: each event opens the next tunnel.
    assert re.findall(r"connected: (.+)", seen["example"]) == ["press-1", "press-2", "press-3"]
    assert "all tunnels have ended" in seen["example"]

    assert "run tunnelfleet ray down first" in seen["refused"]
    assert "the fleet has ended" in seen["ended"]
    assert "there is no fleet on this cluster yet" in seen["gone"]
    assert seen["log_bytes"] > 0
    assert seen["leaked"] == []


def test_the_tunnels_of_a_node_that_is_killed_are_back() -> None:
    seen = play_on_ray("kill", fast_checks=True)
    print(f"killed: {seen['lost']} tunnels back after {seen['back_seconds']} s")
    assert seen["lost"] > 0
    assert seen["back_seconds"] < 20
    assert set(seen["again"].values()) == {1}
    assert set(seen["again"]).isdisjoint(seen["others"])
    assert {each["state"] for each in seen["groups"]} == {"running"}


def test_the_tunnels_of_a_node_that_freezes_are_back_and_do_not_flap_when_it_thaws() -> None:
    seen = play_on_ray("freeze", fast_checks=True)
    print(f"frozen: {seen['lost']} tunnels back after {seen['back_seconds']} s")
    assert seen["lost"] > 0
    assert seen["had_directory"]
    assert seen["back_seconds"] < 30
    assert set(seen["again"].values()) == {1}
    assert set(seen["again"]).isdisjoint(seen["others"])
    assert seen["after_thaw"] == {}


def test_a_second_node_takes_its_part_and_the_directory_may_die() -> None:
    seen = play_on_ray("scale")
    print(f"scaled: {len(seen['moved'])} moved, away for {seen['away']}")
    assert len(set(seen["nodes"])) == 2
    assert seen["to"] == ["group-2", "group-3"]
    assert seen["again"] == dict.fromkeys(seen["moved"], 1)
    # The directory was killed, and a tunnel added: nothing else has noticed.
    assert seen["after_death"] == {"late": 1}
    # Back to one group: each tunnel of the others moved once.
    assert set(seen["shrunk"].values()) == {1}


def test_groups_are_spread_over_a_second_node() -> None:
    seen = play_on_ray("spread")
    print(f"spread: {seen['moved']}, away for {seen['away']}")
    assert "--spread" in seen["uneven"]
    assert len(seen["moved"]) == 2
    assert sorted(map(seen["nodes"].count, set(seen["nodes"]))) == [2, 2]
    assert seen["after"] == seen["before"]
    # What has moved was handed over and taken back; nobody else's tunnel was touched.
    moved = {name for name, group in seen["before"].items() if group in seen["moved"]}
    assert seen["again"] == dict.fromkeys(moved, 2)
    assert seen["replaced"] == 0


def test_a_cluster_that_asks_for_a_token_has_a_fleet_and_refuses_others() -> None:
    token = secrets.token_hex(32)
    seen = play_on_ray("auth", more={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token})
    assert [each["state"] for each in seen["groups"]] == ["running"]
    assert [each["state"] for each in seen["tunnels"]] == ["connected"]
    assert "the fleet has ended" in seen["ended"]
    for said in seen["others"].values():
        assert said.startswith("2 ")
        assert "no Ray cluster answers at" in said
        assert "RAY_AUTH_TOKEN here as well" in said
        assert "Traceback" not in said
        assert token not in said
    assert seen["log_bytes"] > 0
    assert not seen["leaked"]
