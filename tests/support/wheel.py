"""The wheel, built from a copy of the tree: what an earlier build left there would get into it."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE")
FOLDERS = ("actors", "package", "proto", "runtime")
MIN_SETUPTOOLS = 77
"""The first that reads the licence fields of pyproject.toml."""


def pip(*arguments: str) -> None:
    """Run pip, which has to succeed."""
    run = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def build_wheel(folder: Path) -> Path:
    """Build it there, without a network; return where it is."""
    installed = int(importlib.metadata.version("setuptools").split(".")[0])
    assert installed >= MIN_SETUPTOOLS, f"needs setuptools>={MIN_SETUPTOOLS}: run make setup"
    tree = folder / "tree"
    tree.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-build-isolation", "--no-deps", "--no-index"]
    pip("wheel", *options, "--wheel-dir", str(folder), str(tree))
    (built,) = folder.glob("*.whl")
    return built
