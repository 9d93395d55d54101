"""What a quickstart has started ends with it, also when it is killed."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.waiting import eventually
from tunnelfleet.runtime.quickstart.processes import owned

OWNER = """
import subprocess, sys
from tunnelfleet.runtime.quickstart.processes import owned
child = subprocess.Popen(owned([sys.executable, "-c", "print(1, flush=True); input()"]))
print(child.pid, flush=True)
child.wait()
"""


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
        # A zombie is over; its new parent has not looked yet.
        return file.read().rpartition(")")[2].split()[0] == "Z"


def test_a_process_ends_with_its_owner_that_was_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        lines = sorted((owner.stdout.readline(), owner.stdout.readline()), key=int)
        child = int(lines[1])
        owner.kill()
        eventually(lambda: is_gone(child))


def test_its_status_is_the_program_s_own() -> None:
    command = owned([sys.executable, "-c", "import sys; sys.exit(int(sys.argv[1]))", "7"])
    assert subprocess.run(command, check=False).returncode == 7
