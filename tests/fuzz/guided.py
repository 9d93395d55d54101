"""Coverage-guided fuzzing of one harness with atheris, in a process of its own.

`python -m tests.fuzz` starts it; it does not return, as libFuzzer ends the process. It ends when
the inputs and the CPU time that were asked for are both spent, or at the first finding, which
libFuzzer writes as `crash-*` beside the corpus. In the folder of a run that was ended before, it
goes on with the corpus and the figures that are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from pathlib import Path

PROGRESS_SECONDS = 2.0
"""How often figures are written."""
MEMORY_MB = 1_536
INPUT_SECONDS = 30
"""An input that takes longer hangs."""


def main(name: str, folder: Path, runs: int, cpu_seconds: float) -> None:
    """Run until both are spent; figures are in `progress.json` of the folder."""
    import atheris

    with atheris.instrument_imports(include=["tunnelfleet"]):
        from tests.fuzz import surfaces
        from tests.fuzz.harness import kept, run_measured

        harness = surfaces.load(name)
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate([*harness.seeds, *kept(name).values()]):
        (corpus / f"kept-{number}").write_bytes(data)
    words = folder / "words"
    words.write_text("".join(f'"{escaped(each)}"\n' for each in harness.words))
    progress = Progress(folder / "progress.json", runs, cpu_seconds)

    def one(data: bytes) -> None:
        try:
            slowest_seconds = run_measured(harness, data)
        except BaseException:
            # libFuzzer does the same, unless its own alarm ends the process before.
            (folder / f"crash-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
            raise
        progress.count(slowest_seconds)

    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_len={harness.max_bytes}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={INPUT_SECONDS}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        *([f"-dict={words}"] if harness.words else []),
    ]
    atheris.Setup(arguments, one)
    atheris.Fuzz()


class Progress:
    """Counts inputs, keeps the figures in a file, and ends the process when all is spent.

    Figures that are in the file already are those of the runs before: it adds to them.
    """

    def __init__(self, path: Path, runs: int, cpu_seconds: float) -> None:
        self._path = path
        self._runs = runs
        self._cpu_seconds = cpu_seconds
        before = {"inputs": 0, "cpu_seconds": 0.0, "slowest_seconds": 0.0}
        with contextlib.suppress(FileNotFoundError):
            before = json.loads(path.read_text())
        self._count = int(before["inputs"])
        self._cpu_before = before["cpu_seconds"]
        self._slowest = before["slowest_seconds"]
        self._next = 0.0

    def count(self, slowest_seconds: float) -> None:
        self._count += 1
        self._slowest = max(self._slowest, slowest_seconds)
        if self._count & 0x3F == 0 and time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            self._write()

    def _write(self) -> None:
        used = self._cpu_before + time.process_time()
        figures = {"inputs": self._count, "cpu_seconds": used, "slowest_seconds": self._slowest}
        written = self._path.with_suffix(".new")
        written.write_text(json.dumps(figures))
        written.replace(self._path)
        if self._count >= self._runs and used >= self._cpu_seconds:
            # libFuzzer has written the corpus as it went; there is nothing to wait for.
            os._exit(0)


def escaped(word: bytes) -> str:
    """A word as a dictionary of libFuzzer has it."""
    return "".join(f"\\x{each:02x}" for each in word)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
