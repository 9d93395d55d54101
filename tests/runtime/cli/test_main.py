"""`python -m tunnelfleet.runtime.cli` is the command line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.waiting import WAIT_SECONDS


def test_the_module_runs_as_the_program() -> None:
    command = [sys.executable, "-m", "tunnelfleet.runtime.cli", "version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tunnelfleet ")


def test_its_exit_status_is_the_program_s() -> None:
    command = [sys.executable, "-m", "tunnelfleet.runtime.cli", "no-such-command"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no-such-command" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["localproxy", "-t", "secret\udcff", "-e", "x", "-s", "5"], b""),
        (["migrate", "--state", "sqlite:///\udcff"], b""),
        (["door-user", "alice"], b"\xff\n"),
    ],
    ids=["token", "address", "line"],
)
def test_bytes_that_are_not_utf_8_are_a_mistake(arguments: list[str], given: bytes) -> None:
    """And not told: they may be a token's."""
    command = [sys.executable, "-m", "tunnelfleet.runtime.cli", *arguments]
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        env={**os.environ, "PYTHONUTF8": "1"},
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.endswith("is not UTF-8: write it so")


def test_a_closed_standard_input_is_an_empty_one() -> None:
    """And no socket takes its place, which would wait for itself."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m tunnelfleet.runtime.cli add - <&-', sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "tunnelfleet: stdin: there is no [[tunnel]] in it\n",
    )
