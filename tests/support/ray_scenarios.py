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
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent.parent
NAMESPACES = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
WITH_LOOPBACK = 'ip link set lo up && exec "$@"'
PLAY_SECONDS = 280.0
SEEN = "SEEN "


def play_on_ray(scenario: str, **environment: str) -> dict[str, Any]:
    """Play a scenario, and return what it has seen."""
    # A short name: Ray puts sockets below it.
    folder = Path(tempfile.mkdtemp(prefix="tfr"))
    command = [sys.executable, "-m", "tests.support.ray_scenarios", scenario]
    if _may_unshare():
        command = [*NAMESPACES, "sh", "-c", WITH_LOOPBACK, "sh", *command]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **_environment(folder), **environment},
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
    seen = [line for line in output.splitlines() if line.startswith(SEEN)]
    assert process.returncode == 0, output
    assert len(seen) == 1, output
    found: dict[str, Any] = json.loads(seen[0].removeprefix(SEEN))
    return found


def _may_unshare() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    command = [*NAMESPACES, "sh", "-c", WITH_LOOPBACK, "sh", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _environment(folder: Path) -> dict[str, str]:
    from tunnelfleet.runtime.ray_fleet.cluster import fast_checks_environment

    return {
        **fast_checks_environment(),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
        "RAY_enable_metrics_collection": "0",
        "PYTHONWARNINGS": "ignore",
        "HTTPS_PROXY": "",
        "https_proxy": "",
    }


# -- scenarios


def life(folder: Path) -> dict[str, Any]:
    """From `ray up` to `ray down`, with a change of the files, another group, and the example."""
    from tests.support.ray_world import RayWorld

    with RayWorld(folder, tunnels=6) as world:
        begun = world.up("--groups", "2")
        world.carry()
        tunnels = world.ls()
        groups = world.ls("--fleet")
        targets = world.call("targets")
        metrics = world.scrape(targets)
        before = world.connects()
        world.add_tunnel("new")
        changed = world.up()
        world.carry(["new"])
        reloaded = world.connects() - before
        owners = {each["name"]: each["group"] for each in world.ls()}
        before = world.connects()
        grown = world.up("--groups", "3")
        eventually(lambda: world.is_spread(3), "three groups share the fleet", 6 * WAIT_SECONDS)
        world.carry()
        moved = {
            each["name"]: each["group"]
            for each in world.ls()
            if owners[each["name"]] != each["group"]
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


def _played(scenario: str) -> dict[str, Any]:
    scenarios: dict[str, Callable[[Path], dict[str, Any]]] = {
        each.__name__: each for each in (life,)
    }
    return scenarios[scenario](Path(os.environ["RAY_TMPDIR"]))


if __name__ == "__main__":
    began = time.monotonic()
    facts = _played(sys.argv[1])
    facts["seconds"] = round(time.monotonic() - began, 1)
    sys.stdout.write(f"{SEEN}{json.dumps(facts)}\n")
