"""A fleet on a real Ray cluster of two nodes: TLS tunnels with traffic, and the commands."""

from __future__ import annotations

import re

import pytest

from tests.support.ray_scenarios import play_on_ray

pytestmark = [pytest.mark.timeout(400), pytest.mark.e2e]
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
        assert "\ntunnelfleet_placement_members 2.0" in page
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
