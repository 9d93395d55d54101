"""`make test` where programs are missing: what is installed, what is said, what is skipped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import SYSTEM_PACKAGES, listed_programs

if TYPE_CHECKING:
    from pathlib import Path

ROOT = SYSTEM_PACKAGES.parent.parent
TESTS = ROOT / "tests"

NEEDED = re.compile(r"(?:require_program|mark\.programs)\(([^)]*)\)")
STRING = re.compile(r'"([^"]+)"')


class Machine:
    """A machine with few programs: a folder that is the whole PATH.

    Args:
        folder: for its programs.
        programs: that it has beside those of the script itself.
    """

    def __init__(self, folder: Path, *programs: str) -> None:
        self.folder = folder
        self.asked = folder / "asked"
        for name in ("sh", "sed", "cat"):
            (folder / name).symlink_to(str(shutil.which(name)))
        self.add("id", "echo 1000")
        self.add("python3", f'exec "{sys.executable}" "$@"')
        for name in programs:
            self.add(name, "exit 0")

    def add(self, name: str, text: str) -> None:
        """Give it a program, a line of sh."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def add_sudo(self, status: int = 0) -> None:
        """Give it a sudo that asks for no password, and keeps what it was to run as root."""
        self.add("apt-get", "exit 0")
        self.add(
            "sudo",
            f'[ "$2" != true ] || exit 0; printf "%s\\n" "$*" >"{self.asked}"; exit {status}',
        )

    def run(self, **environment: str) -> str:
        """Run the script; returns what it said."""
        done = subprocess.run(
            ["/bin/sh", self.script()],
            env={"PATH": str(self.folder), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        return done.stderr

    def script(self) -> str:
        """The script, which looks for programs on the PATH of this machine alone."""
        text = SYSTEM_PACKAGES.read_text()
        line = 'PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"\n'
        assert line in text
        copy = self.folder / "system-packages"
        copy.write_text(text.replace(line, ""))
        return str(copy)


def test_a_machine_with_all_programs_hears_nothing(tmp_path: Path) -> None:
    assert Machine(tmp_path, *listed_programs()).run() == ""


def test_with_sudo_it_says_which_packages_it_installs(tmp_path: Path) -> None:
    machine = Machine(tmp_path, *(listed_programs() - {"promtool", "prometheus", "sshd"}))
    machine.add_sudo()
    said = machine.run()
    assert "openssh-server prometheus (" in said
    assert machine.asked.read_text() == "-n sh -eu -s openssh-server prometheus\n"


def test_what_cannot_be_installed_is_said_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, *(listed_programs() - {"promtool", "curl"}))
    machine.add_sudo(status=100)
    said = machine.run()
    assert said.splitlines()[1:] == [
        "missing programs: curl promtool (apt-get failed); the tests that need them are skipped"
    ]


@pytest.mark.parametrize(
    ("environment", "has_apt", "expected"),
    [
        ({"SYSTEM": "no"}, True, "SYSTEM=no"),
        ({}, True, "only root can install them: apt-get install curl prometheus"),
        ({}, False, "there is no apt-get"),
    ],
)
def test_otherwise_it_says_which_are_missing(
    tmp_path: Path, environment: dict[str, str], has_apt: bool, expected: str
) -> None:
    machine = Machine(tmp_path, *(listed_programs() - {"promtool", "curl"}))
    if has_apt:
        machine.add("apt-get", "exit 1")
    (line,) = machine.run(**environment).splitlines()
    assert line.startswith("missing programs: curl promtool (")
    assert expected in line


def test_make_test_calls_it_before_the_tests(tmp_path: Path) -> None:
    make = subprocess.run(
        ["make", "--dry-run", "test", "SYSTEM=no"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = make.stdout.splitlines()
    system = [number for number, line in enumerate(lines) if "SYSTEM=no" in line]
    tests = [number for number, line in enumerate(lines) if "-m pytest" in line]
    assert "tools/system-packages" in lines[system[0]]
    assert system[0] < tests[0]


def test_continuous_integration_tests_and_checks() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands[-3:] == ["tools/system-packages", "make test", "make check"]
    assert "apt-get" not in "".join(commands), "the list of packages stands in one place"


def test_tests_name_listed_programs_only() -> None:
    named = {
        name
        for path in TESTS.rglob("*.py")
        for found in NEEDED.findall(path.read_text())
        for name in STRING.findall(found)
    }
    assert {"sshd", "curl", "promtool"} <= named
    assert named - listed_programs() <= {"no-such-program"}


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_a_test_whose_program_is_missing(tmp_path: Path, ci: str, outcome: str) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        "import pytest\n"
        "@pytest.mark.programs('no-such-program')\n"
        "def test_it():\n"
        "    raise AssertionError\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), str(test)],
        cwd=ROOT,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in done.stdout, done.stdout + done.stderr
    assert "no-such-program is not installed" in done.stdout
