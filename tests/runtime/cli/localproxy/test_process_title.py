from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tunnelfleet.runtime.cli.localproxy import command as process_title
from tunnelfleet.runtime.cli.localproxy.command import hide_arguments

SECRET = "a-secret-of-the-command-line"

PROGRAM = """
import json
import sys
from pathlib import Path
from tunnelfleet.runtime.cli.localproxy.command import hide_arguments
hidden = hide_arguments(sys.argv[1], "")
listed = Path("/proc/self/cmdline").read_text().split(chr(0))[3:-1]
print(json.dumps([hidden, listed, sys.argv[1]]))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_secret_leaves_the_process_list_and_stays_in_the_program() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, SECRET, f"--again={SECRET}", "kept"],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    filler = "x" * len(SECRET)
    assert json.loads(run.stdout) == [True, [filler, f"--again={filler}", "kept"], SECRET]


def test_what_is_not_there_is_not_hidden() -> None:
    assert not hide_arguments("a text that is nobody's argument, surely")


def test_nothing_to_hide_is_hidden() -> None:
    assert hide_arguments("")


@pytest.mark.parametrize("stat", [None, "", "1 (python) S 1", "1 (a) S " + "0 " * 60])
def test_without_the_system_s_help_nothing_happens(
    stat: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stat"
    if stat is not None:
        path.write_text(stat)
    monkeypatch.setattr(process_title, "_STAT", path)
    assert not hide_arguments(SECRET)
