from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.fleet import Fleet, wanted
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway.process import (
    OWN_FILES,
    GrowingFleet,
    actor_tree,
    describer,
    freeze_garbage,
    needed_files,
    raise_file_limit,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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


@pytest.fixture
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("unfrozen")
def test_what_is_alive_is_put_out_of_the_collector_s_sight() -> None:
    before = gc.get_freeze_count()
    freeze_garbage()
    assert gc.get_freeze_count() > before


COUNT_ARENAS = """
import ctypes, sys, threading
from tunnelfleet.runtime.gateway.process import limit_arenas

if sys.argv[2] == "limited":
    limit_arenas()
libc = ctypes.CDLL(None)
if not hasattr(libc, "malloc_info"):
    sys.exit("no glibc")
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
all_have, may_end = threading.Barrier(5), threading.Event()

def take():
    libc.malloc(ctypes.c_size_t(5_000))
    all_have.wait()
    may_end.wait()

threads = [threading.Thread(target=take) for _ in range(4)]
for each in threads:
    each.start()
all_have.wait()
out = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fclose(ctypes.c_void_p(out))
may_end.set()
"""


@pytest.mark.parametrize(
    ("how", "environment", "arenas"),
    [
        pytest.param("limited", {}, 1, id="limited"),
        pytest.param("limited", {"MALLOC_ARENA_MAX": "3"}, 3, id="the operator decides"),
        pytest.param("free", {"MALLOC_ARENA_MAX": "5"}, 5, id="free"),
    ],
)
def test_all_threads_share_a_heap(
    tmp_path: Path, how: str, environment: dict[str, str], arenas: int
) -> None:
    path = tmp_path / "malloc.xml"
    others = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"}
    found = subprocess.run(
        [sys.executable, "-c", COUNT_ARENAS, str(path), how],
        env={**others, **environment},
        capture_output=True,
        check=False,
        text=True,
    )
    if found.stderr.startswith("no glibc"):
        pytest.skip("malloc is not glibc's")
    assert found.returncode == 0, found.stderr
    assert path.read_text().count("<heap nr=") == arenas


@pytest.mark.usefixtures("unfrozen")
def test_a_fleet_that_grows_is_frozen_now_and_then() -> None:
    growing = GrowingFleet()
    before = gc.get_freeze_count()
    assert not growing.note(10)
    assert gc.get_freeze_count() == before
    assert growing.note(1_000)
    assert gc.get_freeze_count() > before
    assert not growing.note(1_100)
    assert growing.note(1_200)
    times = sum(growing.note(tunnels) for tunnels in range(1_200, 20_001))
    assert 10 < times < 40


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
