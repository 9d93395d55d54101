"""What continuous integration runs is what the project promises, and stands in one place."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
HOOKS = ROOT / ".pre-commit-config.yaml"


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def recipe(target: str) -> str:
    """What make does for a target."""
    found = re.search(
        rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert found, f"make knows no {target}"
    return found[1]


def test_every_python_that_is_promised_is_tested() -> None:
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(pyproject()["project"]["classifiers"]))
    matrix = re.search(r"^ +python: \[(.+)\]$", WORKFLOW.read_text(), re.MULTILINE)
    assert matrix
    assert [each.strip(' "') for each in matrix[1].split(",")] == promised
    assert pyproject()["project"]["requires-python"] == f">={promised[0]}"


def test_the_workflow_runs_what_anybody_can_run() -> None:
    assert re.search(r"^ +run: .*\.ci/run$", WORKFLOW.read_text(), re.MULTILINE)
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in commands if line.startswith("make ")] == ["make test", "make check"]


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy", "codespell"])
def test_the_hooks_before_a_commit_are_the_tools_of_make_check(tool: str) -> None:
    assert re.search(rf"^\t\$\(BIN\)/{tool}\b", recipe("check"), re.MULTILINE)
    assert f"entry: .venv/bin/{tool}" in HOOKS.read_text()


def test_mypy_reads_packages_tests_tools_and_examples() -> None:
    packages = pyproject()["tool"]["mypy"]["packages"]
    assert {"tunnelfleet", "tests", "tools"} < set(packages)
    assert "$(BIN)/mypy examples\n" in recipe("check")


def test_coverage_counts_branches_and_has_its_floors() -> None:
    coverage = pyproject()["tool"]["coverage"]
    assert coverage["run"]["branch"] is True
    assert coverage["report"]["fail_under"] >= 97
    # Folders and not packages: then a file that no test imports counts as well.
    assert coverage["run"]["source"] == ["actors", "package", "proto", "runtime"]
    assert "--include '*/proto/*' --fail-under 100\n" in recipe("coverage")
    assert re.search(r"^ +run: .*\bmake coverage$", WORKFLOW.read_text(), re.MULTILINE)
