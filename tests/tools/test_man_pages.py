"""The manual pages: fresh, one for each command, and without a complaint of what formats them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import run_program
from tunnelfleet.runtime.cli.app import COMMANDS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "man"
PAGES = sorted(path.name for path in FOLDER.glob("*.[15]"))


def test_they_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "tools/generate_man_pages.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_there_is_one_for_each_command() -> None:
    commands = {f"tunnelfleet-{name.replace(' ', '-')}.1" for name in COMMANDS}
    assert set(PAGES) == commands | {"tunnelfleet.1", "tunnelfleet.toml.5"}


@pytest.mark.programs("groff")
@pytest.mark.parametrize("page", PAGES)
def test_groff_has_nothing_to_say(page: str) -> None:
    shown = run_program(["groff", "-man", "-Tutf8", "-ww", "-P-c", FOLDER / page])
    assert shown.stderr == b""
    text = re.sub(".\b", "", shown.stdout.decode())
    assert "\n\nNAME\n" in text
    assert "`" not in text
