"""How fast the machine is at the moment: the processor time of a fixed piece of work.

Others are on the same hardware, and what a turn of an actor costs rises and falls by a third with
what they do. A process of its own wakes up, does the work and sleeps, as an actor's thread does;
what a turn costs is looked at beside that.
"""

from __future__ import annotations

import json
import random
import select
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType

BEAT_SECONDS: Final = 0.01
OBJECTS: Final = 60_000
"""So many are spread over more memory than the processor's caches have,"""
OBJECTS_A_BEAT: Final = 150
"""and so many are looked at, one behind the other."""
END_SECONDS: Final = 10.0


class Pace(AbstractContextManager["Pace"]):
    """The process that does the work, from the block's begin to its end."""

    def __enter__(self) -> Pace:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.pace"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=END_SECONDS)

    def beat_us(self) -> float:
        """The processor time of one piece of work, on average since the last time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def main() -> None:
    """Work; answer each line with the time of a piece, and end with the input."""
    rng = random.Random(1)
    objects = [(number, (number, str(number))) for number in range(OBJECTS)]
    order = [rng.randrange(OBJECTS) for _ in range(OBJECTS)]
    beats, spent_ns, place = 0, 0, 0
    while True:
        asked = select.select([sys.stdin], [], [], BEAT_SECONDS)[0]
        begun_ns = time.thread_time_ns()
        total = sum(len(objects[each][1][1]) for each in order[place : place + OBJECTS_A_BEAT])
        json.loads(json.dumps({"names": [1, 2, {"name": "value"}], "total": total}))
        spent_ns += time.thread_time_ns() - begun_ns
        beats += 1
        place = (place + OBJECTS_A_BEAT) % (OBJECTS - OBJECTS_A_BEAT)
        if asked:
            if not sys.stdin.readline():
                return
            print(spent_ns / beats / 1_000, flush=True)
            beats = spent_ns = 0


if __name__ == "__main__":
    main()
