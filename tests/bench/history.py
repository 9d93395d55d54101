"""What was measured before: a line of JSON for each run, in a file that is not committed."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
HISTORY = ROOT / ".bench" / "history.jsonl"

Results = dict[str, dict[str, float]]


def append(path: Path, results: Results) -> None:
    """Add a run, with what it was a run of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    run = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **_machine()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**run, "results": results}) + "\n")


def _commit() -> str:
    """What is checked out; nothing where git is not installed."""
    if shutil.which("git") is None:
        return ""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip()


def _machine() -> dict[str, Any]:
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The runs, oldest first.

    Raises:
        ValueError: a line is none of ours.
    """
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            run = json.loads(line)
            run["results"].items()
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{path}:{number} is no run of `make bench`: remove it") from None
        runs.append(run)
    return runs
