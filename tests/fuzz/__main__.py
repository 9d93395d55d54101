"""`make fuzz`: each harness under atheris, then how much of its code the inputs reach.

Atheris is no part of what development needs: it has wheels for some versions of Python alone. `make
fuzz` installs it, by the group `fuzz` of pyproject.toml.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz import surfaces
from tests.fuzz.harness import CORPUS

ROOT = Path(__file__).parents[2]
MILLION = 1_000_000
MALLOC = {"PYTHONMALLOC": "malloc", "MALLOC_ARENA_MAX": "2"}
"""Then a leak is one for the limit of memory that libFuzzer has."""


def main(arguments: list[str] | None = None) -> int:
    """Run the harnesses one after another; 1 if one of them has found something."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="HARNESS", help="all without one")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU time of each, at least")
    parser.add_argument("--runs", type=int, default=MILLION, help="inputs of each, at least")
    parser.add_argument("--folder", type=Path, help="for what is found; a new one without it")
    parser.add_argument("--keep", action="store_true", help="keep what reaches more in the corpus")
    parser.add_argument("--list", action="store_true", help="the names of the harnesses")
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(surfaces.NAMES))
        return 0
    unknown = sorted(set(given.names) - set(surfaces.NAMES))
    if unknown:
        parser.error(f"there is no harness {unknown[0]!r}; there are {', '.join(surfaces.NAMES)}")
    if importlib.util.find_spec("atheris") is None:
        parser.error(
            "it needs atheris, which is not installed: pip install --group fuzz (or `make fuzz`); "
            "it has wheels for CPython 3.11 to 3.13 on Linux"
        )
    folder = given.folder or Path(tempfile.mkdtemp(prefix="tunnelfleet-fuzz-"))
    print(f"what is found goes to {folder}")
    print(HEAD)
    is_well = True
    for name in given.names or surfaces.NAMES:
        is_well &= fuzz(name, folder / name, given.runs, given.minutes * 60, is_kept=given.keep)
    return 0 if is_well else 1


HEAD = "harness            inputs  CPU min  slowest turn  branches  corpus"


def fuzz(name: str, folder: Path, runs: int, cpu_seconds: float, *, is_kept: bool) -> bool:
    """Run one harness, and print its row; whether nothing was found."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.guided", name, folder, str(runs), str(cpu_seconds)],
            cwd=ROOT,
            env={**os.environ, **MALLOC},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    found = sorted(each.name for each in folder.glob("*-*") if each.name.startswith(FINDINGS))
    try:
        figures: dict[str, Any] = json.loads((folder / "progress.json").read_text())
    except FileNotFoundError:
        figures = {"inputs": 0, "cpu_seconds": 0.0, "slowest_seconds": 0.0}
    if found or ended.returncode:
        which = ", ".join(found) or f"status {ended.returncode}"
        print(f"{name:14} FOUND {which} after {figures['inputs']:,} inputs; see {folder}/log")
        return False
    measured = measure(name, folder / "corpus", is_kept=is_kept)
    print(
        f"{name:14} {figures['inputs']:>10,} {figures['cpu_seconds'] / 60:>8.1f} "
        f"{figures['slowest_seconds'] * 1000:>10.1f} ms {measured['percent']:>7.1f} % "
        f"{measured['replayed']:>7}",
        flush=True,
    )
    return True


FINDINGS = ("crash-", "timeout-", "oom-", "leak-")
"""How libFuzzer calls the inputs that it has stopped at."""


def measure(name: str, corpus: Path, *, is_kept: bool) -> dict[str, Any]:
    """How much of the code all inputs of a corpus reach."""
    kept = [str(CORPUS / name)] if is_kept else []
    command = [sys.executable, "-m", "tests.fuzz.measure", name, str(corpus), *kept]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
