"""What happens to a fleet on Ray, each in a process and a network of its own.

As a program it plays one scenario and writes what it has seen as one line of JSON. As a module it
owns starting that: where it is permitted in new namespaces, so that Ray finds only loopback and
nothing of it can be left over.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.tracing import is_traced
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime.ray_fleet.cluster import fast_checks_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parent.parent.parent
NAMESPACES = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
WITH_LOOPBACK = 'ip link set lo up && exec "$@"'
PLAY_SECONDS = 560.0 if is_traced() else 280.0
SEEN = "SEEN "
MANY = 30
NOT_STARTED = "The current node timed out during startup"
MORE_STARTS = 1
"""Ray gives its processes 30 s to start, which a busy machine may not do."""
QUIET_SECONDS = 20.0
WRITTEN = Path(__file__).parent / "written_every_second"


def play_on_ray(
    scenario: str, *, fast_checks: bool = False, more: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Play a scenario, and return what it has seen.

    Args:
        scenario: the name of its function.
        more: of the environment.
        fast_checks: whether Ray notices soon that a node is frozen. On a machine that is very busy
            it may then take one for frozen that is not.
    """
    checks = {**(fast_checks_environment() if fast_checks else {}), **(more or {})}
    status, output = _played_once(scenario, checks)
    for _ in range(MORE_STARTS):
        if NOT_STARTED not in output:
            break
        status, output = _played_once(scenario, checks)
    if NOT_STARTED in output:
        pytest.skip("the machine is so busy that Ray's own processes do not start in its 30 s")
    assert status == 0, output
    seen = [line for line in output.splitlines() if line.startswith(SEEN)]
    assert len(seen) == 1, output
    found: dict[str, Any] = json.loads(seen[0].removeprefix(SEEN))
    return found


def _played_once(scenario: str, checks: Mapping[str, str]) -> tuple[int, str]:
    # A short name: Ray puts sockets below it.
    folder = Path(tempfile.mkdtemp(prefix="tfr"))
    command = [sys.executable, "-m", "tests.support.ray_scenarios", scenario]
    if _may_unshare():
        command = [*NAMESPACES, "sh", "-c", WITH_LOOPBACK, "sh", *command]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **_environment(folder), **checks},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=PLAY_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"{scenario} takes too long:\n{output}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return process.returncode, output


def _may_unshare() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    command = [*NAMESPACES, "sh", "-c", WITH_LOOPBACK, "sh", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _environment(folder: Path) -> dict[str, str]:
    return _when_measured() | {
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
        "RAY_enable_metrics_collection": "0",
        # By itself 15: on a busy machine an actor of ours then takes longer to begin than we wait.
        "RAY_worker_niceness": "0",
        "PYTHONWARNINGS": "ignore",
        "HTTPS_PROXY": "",
        "https_proxy": "",
    }


def _when_measured() -> dict[str, str]:
    """Ray ends the processes of actors at once: what coverage has seen there is written before."""
    if not is_traced():
        return {}
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(WRITTEN), *([before] if before else [])])}


# -- scenarios


def life(folder: Path) -> dict[str, Any]:
    """From `ray up` to `ray down`, with a change of the files, another group, and the example."""
    from tests.support.ray_world import RayWorld

    with RayWorld(folder, tunnels=6) as world:
        begun = world.up("--groups", "2")
        world.carry()
        tunnels, groups = world.settled(2)
        targets = world.call("targets")
        metrics = world.scrape(targets)
        before = world.connects()
        world.add_tunnel("new")
        changed = world.up()
        world.carry(["new"])
        reloaded = world.connects() - before
        owners = {each["name"]: each["group"] for each in world.settled(2)[0]}
        before = world.connects()
        grown = world.up("--groups", "3")
        after, _groups = world.settled(3)
        world.carry()
        moved = {
            each["name"]: each["group"] for each in after if owners[each["name"]] != each["group"]
        }
        noticed = world.connects() - before
        example = world.example()
        refused = world.run("up", world.file_with("shards = 128"), status=2).stderr
        ended = world.run("down").stdout
        gone = world.run("ls", status=1).stderr
        text = world.logs()
        return {
            "begun": begun,
            "tunnels": tunnels,
            "groups": groups,
            "metrics": metrics,
            "changed": changed,
            "reloaded": reloaded,
            "grown": grown,
            "moved": moved,
            "noticed": noticed,
            "replaced": world.replaced(),
            "example": example,
            "refused": refused,
            "ended": ended,
            "gone": gone,
            "log_bytes": len(text),
            "leaked": [name for name, each in world.rig.entries.items() if each.token in text],
        }


def kill(folder: Path) -> dict[str, Any]:
    """All processes of a node are killed at once."""
    from tests.support.ray_world import RayWorld

    with RayWorld(folder, tunnels=MANY) as world:
        world.up("--groups", "2")
        world.carry()
        world.settled(2)
        lost = world.of_node(world.other_node())
        killed_at = world.send(world.processes(), signal.SIGKILL)
        back_at = world.wait_connects(lost, killed_at)
        world.carry()
        _tunnels, groups = world.settled(2)
        return {
            "lost": len(lost),
            "back_seconds": round(back_at - killed_at, 1),
            "again": world.connects(killed_at),
            "others": [name for name in world.rig.entries if name not in lost],
            "groups": groups,
        }


def freeze(folder: Path) -> dict[str, Any]:
    """A node freezes that has the directory as well, and thaws when others have what it had."""
    from tests.support.ray_world import RayWorld
    from tunnelfleet.runtime.ray_fleet import cluster
    from tunnelfleet.runtime.ray_fleet.directory import Directory

    with RayWorld(folder, tunnels=MANY) as world:
        node = world.other_node()
        space = cluster.NAMESPACE
        cluster.make_actor(Directory, cluster.DIRECTORY, space, space, node_id=node)
        world.up("--groups", "2")
        world.carry()
        world.settled(2)
        lost = world.of_node(node)
        frozen = world.processes()
        titles = [" ".join(each.cmdline()) for each in frozen]
        frozen_at = world.send(frozen, signal.SIGSTOP)
        back_at = world.wait_connects(lost, frozen_at)
        world.carry()
        thawed_at = world.send(frozen, signal.SIGCONT)
        eventually(
            lambda: not any(each.is_running() and not _is_over(each) for each in frozen[1:]),
            "what thawed has ended",
            6 * WAIT_SECONDS,
            0.1,
        )
        # Would anything flap, it would do so within two leases.
        threading.Event().wait(QUIET_SECONDS)
        world.carry()
        return {
            "lost": len(lost),
            "had_directory": any("Directory" in each for each in titles),
            "back_seconds": round(back_at - frozen_at, 1),
            "again": world.connects(frozen_at),
            "after_thaw": world.connects(thawed_at),
            "replaced": world.replaced(),
            "others": [name for name in world.rig.entries if name not in lost],
        }


def scale(folder: Path) -> dict[str, Any]:
    """A second node joins, and the fleet gets more groups; then the directory dies."""
    from tests.support.ray_world import RayWorld

    with RayWorld(folder, tunnels=MANY, nodes=0) as world:
        world.up("--groups", "2")
        world.carry()
        before = {each["name"]: each["group"] for each in world.settled(2)[0]}
        world.add_node()
        grown_at = time.time()
        world.up("--groups", "4")
        tunnels, groups = world.settled(4)
        after = {each["name"]: each["group"] for each in tunnels}
        moved = [name for name in before if before[name] != after[name]]
        again = world.connects(grown_at)
        away = {name: round(world.away_seconds(name, grown_at), 2) for name in moved}

        directory = world.worker("Directory")
        dead_at = world.send([directory], signal.SIGKILL)
        world.settled(4)
        world.add_tunnel("late")
        world.up()
        world.carry()
        after_death = world.connects(dead_at)

        shrunk_at = time.time()
        world.up("--groups", "1")
        world.settled(1)
        world.carry()
        return {
            "moved": moved,
            "to": sorted({after[name] for name in moved}),
            "again": again,
            "away": away,
            "nodes": [each["node"] for each in groups],
            "after_death": after_death,
            "shrunk": world.connects(shrunk_at),
        }


def spread(folder: Path) -> dict[str, Any]:
    """A second node joins, and groups are moved to it."""
    from tests.support.ray_world import RayWorld

    with RayWorld(folder, tunnels=MANY, nodes=0) as world:
        world.up("--groups", "4")
        world.carry()
        before = {each["name"]: each["group"] for each in world.settled(4)[0]}
        world.add_node()
        uneven = world.run("up", world.rig.folder).stderr
        since = time.time()
        brought = world.up("--spread")
        tunnels, groups = world.settled(4)
        world.carry()
        return {
            "uneven": uneven,
            "moved": brought["moved"],
            "before": before,
            "after": {each["name"]: each["group"] for each in tunnels},
            "nodes": [each["node"] for each in groups],
            "again": world.connects(since),
            "away": {name: world.away_seconds(name, since) for name in world.connects(since)},
            "replaced": world.replaced(),
        }


def auth(folder: Path) -> dict[str, Any]:
    """A cluster that asks for a token: commands with it, with another one, and without."""
    from tests.support.ray_world import RayWorld

    with RayWorld(folder, tunnels=1, nodes=0) as world:
        brought = world.run("up", world.rig.folder, "--groups", "1", "--json").stdout
        world.carry()
        rows = world.run("ls", "--json").stdout
        others = {
            "another": world.refused({"RAY_AUTH_TOKEN": "0" * 64}),
            "none": world.refused({"RAY_AUTH_MODE": "disabled"}),
        }
        world.carry()
        text = world.logs()
        return {
            "groups": json.loads(brought)["groups"],
            "tunnels": json.loads(rows),
            "ended": world.run("down").stdout,
            "others": others,
            "log_bytes": len(text),
            "leaked": os.environ["RAY_AUTH_TOKEN"] in text,
        }


def _is_over(process: Any) -> bool:
    import psutil

    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def _played(scenario: str) -> dict[str, Any]:
    scenarios: dict[str, Callable[[Path], dict[str, Any]]] = {
        each.__name__: each for each in (life, kill, freeze, scale, spread, auth)
    }
    return scenarios[scenario](Path(os.environ["RAY_TMPDIR"]))


if __name__ == "__main__":
    began = time.monotonic()
    facts = _played(sys.argv[1])
    facts["seconds"] = round(time.monotonic() - began, 1)
    sys.stdout.write(f"{SEEN}{json.dumps(facts)}\n")
