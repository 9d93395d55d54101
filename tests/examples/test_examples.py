"""Every example runs as it stands, by one command, and says what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.programs import require_program

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
RUN_SECONDS = 200


class Row(NamedTuple):
    """An example, its arguments, and what it prints, in any order."""

    name: str
    prints: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


ROWS = [
    Row("create_tunnel", (r"connected> has the services ECHO",)),
    Row(
        "callbacks",
        (
            r"source +ConnectionSuccess",
            r"destination +StreamStarted",
            r"destination +ConnectionStarted",
            r"Message has payload: b'any payload'",
            r"source +SendMessageComplete",
            r"destination +Stopped",
        ),
    ),
    Row("start_and_stop", (r"start 1: connected", r"stop 1:", r"start 2: connected", r"stop 2:")),
    Row(
        "send_message",
        (r"written", r"got 'any payload'", r"ServiceIdUnknown:", r"PayloadTooLarge:"),
    ),
    Row("echo_device", (r"echoed: hello", r"echoed: from the other side", r"ConnectionStarted")),
    Row("asyncio_client", (r"temperature is 42\npressure is 42\nquit is 42",)),
    Row(
        "embedded_in_actor_app",
        (
            r"journal: device is connected",
            r"somebody opened CTRL",
            r"answer: ARE YOU THERE\?",
            r"journal: device is stopped",
        ),
    ),
    Row(
        "management",
        (
            r"opened arn:aws:iot:us-east-1:000000000000:tunnel/",
            r"through the tunnel: hello press-4",
            r"source is CONNECTED",
            r"connected with the new token",
            r"to look after press-4: CLOSED",
        ),
    ),
    Row(
        "bastion",
        (r"device-1: tunnelled", r"device-2: tunnelled", r"device-3: tunnelled"),
        ("--devices", "3", "--", "echo", "tunnelled"),
        ("ssh", "sshd", "ssh-keygen"),
    ),
]


def run_example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if "TUNNEL" not in key}
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_it_runs_as_it_stands(row: Row) -> None:
    for program in row.needs:
        require_program(program)
    done = run_example(row.name, *row.arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    for pattern in row.prints:
        assert re.search(pattern, done.stdout), f"no {pattern!r} in {done.stdout}"
    assert "Traceback" not in done.stderr


def test_a_command_that_fails_on_a_device_is_told() -> None:
    for program in ("ssh", "sshd", "ssh-keygen"):
        require_program(program)
    done = run_example("bastion", "--devices", "1", "--", "false")
    assert done.returncode == 1
    assert "device-1: FAILED" in done.stdout


def test_every_example_is_run() -> None:
    programs = {path.stem for path in EXAMPLES.glob("*.py")} - {"local_tunnel"}
    # On a cluster of tests/e2e/test_ray.py.
    programs.remove("ray_actors")
    assert programs == {row.name for row in ROWS}
