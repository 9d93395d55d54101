"""docs/testing.md shows only what runs: in the environment of these tests, and in a fresh one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
RUN_SECONDS = 110
NOT_THERE = ("tunnelfleet", "__editable__")
"""What of this environment a fresh one must not see."""


def files() -> dict[str, str]:
    """The Python files of the guide by name, which is their first line."""
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == GUIDE.count("```python")
    return dict(blocks)


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text(files()[name], encoding="utf-8")


def run(folder: Path, *command: str, **environment: str) -> str:
    """Run a command of a user; return what it prints."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "NO_PROXY": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pytest_in(folder: Path, *arguments: str) -> str:
    """Run the tests in a folder, with this plugin alone: the others of this environment are slow.

    A warning, such as of a socket that nobody closed, is an error.
    """
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "tunnelfleet.pytest_plugin"]
    return run(folder, *command, *arguments, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def test_every_file_runs(tmp_path: Path) -> None:
    write(tmp_path, *(name for name in files() if name != "conftest.py"))
    said = pytest_in(tmp_path)
    assert re.search(r"^=+ 8 passed in", said, re.MULTILINE), said
    assert run(tmp_path, sys.executable, "-W", "error", "without_pytest.py") == "hello\n"


def test_one_service_for_all(tmp_path: Path) -> None:
    write(tmp_path, "conftest.py", "test_messages.py", "test_faults.py")
    said = pytest_in(tmp_path, "--setup-show")
    assert re.search(r"^=+ 2 passed in", said, re.MULTILINE), said
    assert said.count("SETUP    S tunnel_service_session") == 1
    assert "SETUP    F tunnel_service" not in said


@pytest.mark.long
def test_a_project_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    (console,) = re.findall(r"^```console\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    make, install, test = (shlex.split(line) for line in console.splitlines())
    project, lent = tmp_path / "project", tmp_path / "lent"
    project.mkdir()
    lent.mkdir()
    write(project, "opener.py", "test_opener.py")
    run(project, *make, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    # What an index would give comes from here, all but tunnelfleet, which is the wheel.
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if not each.name.startswith(NOT_THERE) and each.suffix != ".pth":
            (lent / each.name).symlink_to(each)
    (packages,) = project.glob(".venv/lib/python*/site-packages")
    (packages / "lent.pth").write_text(f"{lent}\n")
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    said = run(project, *install, PIP_FIND_LINKS=str(wheel.parent), **offline)
    assert re.search(r"^Successfully installed tunnelfleet-\S+$", said, re.MULTILINE), said
    found = run(project, *test)
    assert re.search(r"^plugins: .*\btunnelfleet-", found, re.MULTILINE), found
    assert re.search(r"^=+ 3 passed in", found, re.MULTILINE), found
