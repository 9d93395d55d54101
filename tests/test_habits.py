"""Continuous integration runs what the project promises; a helper of tests is in one place."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tools import coverage_floors

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    assert coverage["report"]["fail_under"] >= 96
    # Folders and not packages: then a file that no test imports counts as well.
    assert coverage["run"]["source"] == ["actors", "package", "proto", "runtime"]
    assert "$(BIN)/python tools/coverage_floors.py build/coverage.json\n" in recipe("coverage")
    assert set(coverage_floors.WHOLE) == {"proto", "actors/kernel"}
    assert coverage_floors.REST_FLOOR.branches >= 93
    assert re.search(r"^ +run: .*\bmake coverage$", WORKFLOW.read_text(), re.MULTILINE)


# Helpers of tests

TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"
PROGRAMS = tuple(TESTS / name for name in ("bench", "chaos", "fuzz", "soak"))
"""Programs of their own, and harnesses; they are no helpers."""

SHORT_LINES = 3
"""A definition of fewer lines may stand twice."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(source: str) -> Iterator[Definition]:
    """What stands at the top of a file, other than tests."""
    for node in ast.parse(source).body:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if isinstance(node, kinds) and not node.name.lower().startswith("test"):
            yield node


def is_fixture(node: Definition) -> bool:
    """Whether it is a fixture, or a hook of pytest: a room may have its own of the same name."""
    marks = [ast.unparse(each) for each in node.decorator_list]
    return node.name.startswith("pytest_") or any("fixture" in mark for mark in marks)


def content(node: Definition) -> str:
    """What a definition does, whatever it is called and however it is documented."""
    lines = node.end_lineno - node.lineno + 1 if node.end_lineno else 0
    if lines < SHORT_LINES:
        return ""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    given = ast.dump(node.args) if not isinstance(node, ast.ClassDef) else ""
    return given + "".join(map(ast.dump, body))


def test_a_helper_of_tests_is_in_one_place() -> None:
    misplaced = [
        path.relative_to(TESTS).as_posix()
        for path in TESTS.rglob("*.py")
        if not path.is_relative_to(SUPPORT)
        and not any(map(path.is_relative_to, PROGRAMS))
        and not path.name.startswith("test_")
        and path.name != "conftest.py"
    ]
    assert misplaced == [], "move it to tests/support"


def test_a_name_of_a_helper_stands_once() -> None:
    shared = {
        node.name: path
        for path in SUPPORT.glob("*.py")
        for node in definitions(path.read_text())
        if not node.name.startswith("_")
    }
    again = [
        f"{node.name} of {path.relative_to(TESTS)} is in {shared[node.name].relative_to(TESTS)}"
        for path in TESTS.rglob("*.py")
        if not any(map(path.is_relative_to, PROGRAMS))
        for node in definitions(path.read_text())
        if node.name in shared and path != shared[node.name] and not is_fixture(node)
    ]
    assert shared
    assert again == []


def test_nothing_is_defined_twice() -> None:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in TESTS.rglob("*.py"):
        for node in definitions(path.read_text()):
            found[content(node)].append(f"{path.relative_to(TESTS)}: {node.name}")
    found.pop("", None)
    assert [sorted(places) for places in found.values() if len(places) > 1] == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("def f(x):\n  y = x\n  return y", "def g(x):\n  'Why.'\n  y = x\n  return y", True),
        ("def f(x):\n  y = x\n  return y", "def f(x):\n  y = 1\n  return y", False),
        ("class A:\n  x = 1\n  y = 2", "class B:\n  x = 1\n  y = 2", True),
        ("def f():\n  return 1", "def g():\n  return 2", True),
    ],
)
def test_it_sees_what_is_the_same(one: str, other: str, same: bool) -> None:
    ((first,), (second,)) = list(definitions(one)), list(definitions(other))
    assert (content(first) == content(second)) is same
