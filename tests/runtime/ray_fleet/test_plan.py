"""What travels to the groups of a fleet on Ray: from the files, and back to what runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fleet import wanted
from tunnelfleet.proto import Endpoint
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway.config import (
    Authorities,
    ConfigProblems,
    FleetConfig,
    GatewaySettings,
    load,
)
from tunnelfleet.runtime.ray_fleet.plan import FleetPlan, not_on_ray

SECRET = b"s" * 40


def plan(config: FleetConfig) -> FleetPlan:
    return FleetPlan.of_bytes(FleetPlan.of_config(config, SECRET, 2).to_bytes())


def settings(**given: object) -> GatewaySettings:
    return GatewaySettings(name="gw", admin="off", **given)  # type: ignore[arg-type]


def test_a_tunnel_travels_whole() -> None:
    before = wanted(labels={"site": "lyon"}, bandwidth=1e6, bind="127.0.0.1")
    found = plan(FleetConfig(settings(connect_rate=5.0, drain_seconds=2.0), {"a": before}))
    config = found.to_config("group-1", "192.0.2.1", Authorities())
    assert config.tunnels == {"a": before}
    assert config.gateway.name == "group-1"
    assert (config.gateway.connect_rate, config.gateway.drain_seconds) == (5.0, 2.0)
    assert found.client_tokens.derive("x") == FleetPlan.of_config(
        config, SECRET, 2
    ).client_tokens.derive("x")


def test_a_tunnel_that_cannot_run_on_a_node_keeps_no_other_from_running(tmp_path: Path) -> None:
    there = wanted("there")
    missing = wanted(
        "missing",
        endpoint=Endpoint.parse("wss://127.0.0.1:1"),
        ca=str(tmp_path / "nowhere.pem"),
    )
    config = plan(FleetConfig(settings(), {"there": there, "missing": missing})).to_config(
        "group-0", "192.0.2.1", Authorities()
    )
    assert list(config.tunnels) == ["there"]
    assert any("nowhere.pem" in str(each) for each in config.warnings)


@pytest.mark.parametrize(
    ("given", "metrics"),
    [
        ({}, None),
        ({"metrics": TcpAddress("127.0.0.1", 9464)}, TcpAddress("127.0.0.1", 0)),
        (
            {"metrics": TcpAddress("127.0.0.1", 9464), "metrics_open": True},
            TcpAddress("192.0.2.1", 0),
        ),
        (
            {"metrics": TcpAddress("127.0.0.1", 9464), "metrics_token": "t" * 32},
            TcpAddress("192.0.2.1", 0),
        ),
    ],
)
def test_metrics_are_for_others_if_the_files_say_so(
    given: dict[str, object], metrics: TcpAddress | None
) -> None:
    config = plan(FleetConfig(settings(**given))).to_config("g", "192.0.2.1", Authorities())
    assert config.gateway.metrics == metrics


def test_nothing_of_a_plan_is_shown() -> None:
    config = FleetConfig(settings(metrics_token="m" * 32), {"a": wanted()})
    shown = repr(plan(config))
    assert "t" * 40 not in shown
    assert "m" * 32 not in shown
    assert SECRET.decode() not in shown
    assert SECRET.hex() not in shown


def test_what_ray_does_not_do_is_said(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[gateway]\nplacement = "ray"\nworkers = 2\ndoor = "127.0.0.1:1080"\n')
    assert not_on_ray(load([path], {})) == ["gateway.door", "gateway.workers"]


def test_keys_of_a_lease_are_for_engines_that_have_one(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[gateway]\nplacement = "ray"\nlease_seconds = 5\nshards = 64\n')
    assert load([path], {}).gateway.shards == 64
    path.write_text('[gateway]\nplacement = "ray"\nplacement_members = 2\n')
    with pytest.raises(ConfigProblems, match="placement_members"):
        load([path], {})
