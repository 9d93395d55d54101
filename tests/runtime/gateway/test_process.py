from __future__ import annotations

import resource

import pytest

from tests.support.fleet import Fleet, wanted
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway.process import (
    OWN_FILES,
    actor_tree,
    describer,
    needed_files,
    raise_file_limit,
)


def test_a_tunnel_needs_its_link_and_a_source_its_listeners() -> None:
    services = {"d": None, **{name: TcpAddress("127.0.0.1", 0) for name in "abc"}}
    source = wanted("b", mode=Mode.SOURCE, services=services)
    assert needed_files([wanted(), source]) == OWN_FILES + 1 + 4


class Limits:
    """Stands for the process's limits, which a test must not change."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def getrlimit(self, _what: int) -> tuple[int, int]:
        return self.now

    def setrlimit(self, _what: int, limits: tuple[int, int]) -> None:
        assert limits[0] <= limits[1] or limits[1] == resource.RLIM_INFINITY
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "needed", "after", "says"),
    [
        (1_024, 524_288, 100, 1_224, ""),
        (1_024, 524_288, 10_064, 21_152, ""),
        (1_024, 4_096, 2_000, 4_096, ""),
        (1_024, 3_000, 2_000, 3_000, "the limit of open files is 3000"),
        (1_024, resource.RLIM_INFINITY, 2_000, 5_024, ""),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 2_000, resource.RLIM_INFINITY, ""),
    ],
)
def test_the_limit_is_raised_as_far_as_it_goes(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, needed: int, after: int, says: str
) -> None:
    limits = Limits(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", limits.setrlimit)
    assert raise_file_limit(needed).startswith(says)
    assert bool(raise_file_limit(needed)) == bool(says)
    assert limits.now == (after, hard)


def test_a_fleet_that_does_not_fit_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(256, 512)
    monkeypatch.setattr(resource, "getrlimit", limits.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", limits.setrlimit)
    with pytest.raises(ConfigError, match="need 1064 open files, and the limit is 512"):
        raise_file_limit(1_064)


def test_the_tree_of_actors(fleet: Fleet) -> None:
    fleet.files.tunnels = {"one": fleet.tunnel("one")}
    fleet.start()
    fleet.wait_state("one", "connected")
    lines = [str(node) for node in actor_tree(fleet.gateway.supervisor)]
    assert lines[0] == "gateway (GatewaySupervisor) running"
    assert "  runtime (RuntimeSupervisor) running" in lines
    assert "    tunnel one (TunnelSupervisor) running" in lines
    assert lines[-2:] == ["  placement (PlacementActor) running", "  fleet (FleetActor) running"]
    fleet.gateway.runtime.drain_tunnel("one")
    fleet.wait_state("one", "stopped")
    lines = [str(node) for node in actor_tree(fleet.gateway.supervisor)]
    assert any(line.startswith("        websocket (down) stopped") for line in lines)


def test_the_tree_says_how_tunnels_are_and_who_waits(fleet: Fleet) -> None:
    fleet.files.tunnels = {"one": fleet.tunnel("one")}
    gateway = fleet.start()
    fleet.wait_state("one", "connected")
    gateway.runtime.suspend_connects("no lease")
    tree = actor_tree(gateway.supervisor, describe=describer(gateway.runtime))
    lines = [str(node) for node in tree]
    assert "    tunnel one (TunnelSupervisor) running, connected" in lines
    assert (
        "    governor (ConnectGovernor) running, connects: 0 wait, 0 under way; "
        "suspended: no lease" in lines
    )


def test_without_time_there_is_the_root_alone(fleet: Fleet) -> None:
    fleet.start()
    assert len(actor_tree(fleet.gateway.supervisor, timeout_seconds=0)) == 1
