"""How much of a surface's code inputs reach, and which few of many reach as much.

Branches are counted by coverage.py, over the files that the harness names. It runs in a process of
its own, as what was imported before is not counted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import coverage

from tests.fuzz import surfaces
from tests.fuzz.harness import CORPUS, Harness

ROOT = Path(__file__).parents[2]
KEPT_BYTES = 4_096
"""A larger input is not kept."""
MAX_KEPT = 150
"""So many inputs of a surface are kept in all."""


def main(name: str, folder: Path, kept: Path | None) -> None:
    """Write coverage as JSON to standard output; with `kept`, what reaches more goes there."""
    whole = counting()
    whole.start()
    harness = surfaces.load(name)
    inputs = [*harness.seeds]
    for each in (folder, CORPUS / name):
        inputs += [path.read_bytes() for path in sorted(each.glob("*")) if each.is_dir()]
    for data in inputs:
        harness.run(data)
    whole.stop()
    files = [str(ROOT / each) for each in harness.covers]
    percent = whole.report(include=files, file=io.StringIO())
    if kept is not None:
        keep(harness, files, inputs, kept)
    print(json.dumps({"replayed": len(inputs), "percent": round(percent, 1)}))
    sys.stdout.flush()
    # What a harness has started runs as long as its process.
    os._exit(0)


def counting(files: Sequence[str] = ()) -> coverage.Coverage:
    """What counts branches of these files, or of all."""
    include = [*files] or [f"{ROOT}/{part}/*" for part in ("actors", "package", "proto", "runtime")]
    # Threads, as servers run on theirs.
    return coverage.Coverage(
        data_file=None, config_file=False, branch=True, include=include, concurrency="thread"
    )


def keep(harness: Harness, files: Sequence[str], inputs: Sequence[bytes], kept: Path) -> None:
    """Keep the inputs that reach branches which the seeds and smaller ones do not."""
    reached: set[object] = set()
    for data in harness.seeds:
        reached |= branches(harness, files, data)
    kept.mkdir(parents=True, exist_ok=True)
    for old in kept.glob("[0-9a-f]" * 12):
        old.unlink()
    for data in sorted(set(inputs), key=lambda each: (len(each), each)):
        more = branches(harness, files, data) - reached if len(data) <= KEPT_BYTES else set()
        if more and len([*kept.iterdir()]) < MAX_KEPT:
            reached |= more
            (kept / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)


def branches(harness: Harness, files: Sequence[str], data: bytes) -> set[object]:
    """The branches that one input takes."""
    harness.forget()
    one = counting(files)
    one.start()
    harness.run(data)
    one.stop()
    found = one.get_data()
    return {(file, arc) for file in found.measured_files() for arc in found.arcs(file) or ()}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
