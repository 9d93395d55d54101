"""What is locked fits what is declared, and the workflows run what anybody can run."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = ROOT / ".github" / "workflows"

PIN = re.compile(r"^(\w\S*==[^\\\n]+?)\s*\\\n((?:    .*\n)+)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")

PINS = {
    canonicalize_name(Requirement(head).name): (Requirement(head), HASH.findall(rest))
    for head, rest in PIN.findall(LOCK)
}
"""What is locked: name -> version and marker, hashes of its files."""

DECLARED = [*PROJECT["dependencies"]] + [
    text for extra in PROJECT["optional-dependencies"].values() for text in extra
]


def locked_version(name: str) -> str:
    (specifier,) = PINS[canonicalize_name(name)][0].specifier
    assert specifier.operator == "=="
    return specifier.version


@pytest.mark.parametrize("text", DECLARED)
def test_what_is_declared_is_locked_within_its_range(text: str) -> None:
    wanted = Requirement(text)
    assert canonicalize_name(wanted.name) in PINS, "run: make lock"
    assert locked_version(wanted.name) in wanted.specifier, "run: make lock"


def test_nothing_is_locked_without_a_version_and_a_hash() -> None:
    lines = [line for line in LOCK.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(lines) == len(PINS) > len(DECLARED)
    assert [name for name, (_, hashes) in PINS.items() if not hashes] == []
    # Whoever reads it shall not be led to an index of somebody else.
    assert not re.search(r"https?://|--(?:extra-)?index|--find-links", LOCK)


def is_installed_as_locked(name: str) -> bool:
    try:
        return importlib.metadata.version(name) == locked_version(name)
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.parametrize("name", [each for each in PINS if is_installed_as_locked(each)])
def test_what_it_needs_itself_is_locked_too(name: str) -> None:
    """As far as this environment has the same versions and can tell."""
    found = importlib.metadata.distribution(name)
    extras = {
        extra
        for text in DECLARED
        if Requirement(text).name == name
        for extra in Requirement(text).extras
    } | {""}
    environment: dict[str, str] = {**default_environment()}  # type: ignore[dict-item]
    for text in found.requires or ():
        needed = Requirement(text)
        marker = needed.marker
        if marker is None or any(marker.evaluate({**environment, "extra": e}) for e in extras):
            assert canonicalize_name(needed.name) in PINS
            assert locked_version(needed.name) in needed.specifier


def test_it_is_written_by_make() -> None:
    assert LOCK.splitlines()[1] == "#    make lock"
    for word in ("--all-extras", "--universal", "--generate-hashes", "requirements.lock"):
        assert word in recipe_of("lock")


def recipe_of(target: str) -> str:
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found, f"make knows no {target}"
    return found[1]


# The workflows


def workflow(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((WORKFLOWS / name).read_text()))


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_may_do_no_more_than_it_needs(path: Path) -> None:
    found = workflow(path.name)
    assert found["permissions"] == {"contents": "read"}
    for name, job in found["jobs"].items():
        assert job["timeout-minutes"] <= 90, name
        for step in job["steps"]:
            assert "@" in step.get("uses", "@"), f"{name}: {step} has no version"


def test_security_runs_on_each_change_and_each_week() -> None:
    found = workflow("security.yml")
    # YAML 1.1 reads the word `on` as a truth.
    assert {"push", "pull_request", "schedule"} == set(found[True])  # type: ignore[index]
    runs = [step["run"] for job in found["jobs"].values() for step in job["steps"] if "run" in step]
    assert runs == ["make audit", "make bandit"]
    uses = [step["uses"] for step in found["jobs"]["codeql"]["steps"]]
    assert [each.split("@")[0] for each in uses[1:]] == [
        "github/codeql-action/init",
        "github/codeql-action/analyze",
    ]
    assert "python" in found["jobs"]["codeql"]["strategy"]["matrix"]["language"]


def test_make_does_what_they_ask_for() -> None:
    assert "pip-audit --requirement requirements.lock --require-hashes" in recipe_of("audit")
    assert "$(BANDIT)" in recipe_of("check")
    assert "$(BANDIT)" in recipe_of("bandit")
    assert "cyclonedx-py environment" in recipe_of("release")
    runs = [step.get("run") for step in workflow("release.yml")["jobs"]["files"]["steps"]]
    assert "make release" in runs
    assert "make release" in (ROOT / "docs" / "releasing.md").read_text()
