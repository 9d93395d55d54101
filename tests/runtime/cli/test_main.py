"""`python -m tunnelfleet.runtime.cli` is the command line."""

from __future__ import annotations

import subprocess
import sys


def test_the_module_runs_as_the_program() -> None:
    command = [sys.executable, "-m", "tunnelfleet.runtime.cli", "version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tunnelfleet ")


def test_its_exit_status_is_the_program_s() -> None:
    command = [sys.executable, "-m", "tunnelfleet.runtime.cli", "no-such-command"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no-such-command" in done.stderr
