"""What a process holds at a moment: memory, descriptors, threads, actors, a turn's cost."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable

KIB_PER_MIB = 1_024
SCRAPE_SECONDS = 60.0


def pss_mib(process_id: int) -> float:
    """Its memory, where what it shares is divided by those who share it."""
    text = Path(f"/proc/{process_id}/smaps_rollup").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / KIB_PER_MIB


def anon_mib(process_id: int) -> float:
    """What of its resident memory is its own, and not of files that it has mapped."""
    text = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) / KIB_PER_MIB


class ProcessSampler:
    """Samples one process.

    Args:
        name: in front of each figure.
        process_id: of the process.
        kernel: tells how many actors live, and how many turns were taken, altogether.
        heap: tells what is in use of its memory, figure by figure.
    """

    def __init__(
        self,
        name: str,
        process_id: int,
        kernel: Callable[[], tuple[float, float]],
        heap: Callable[[], dict[str, float]],
    ) -> None:
        self._name = name
        self._process = psutil.Process(process_id)
        self._kernel = kernel
        self._heap = heap
        self._before: tuple[float, float] | None = None

    def sample(self, beat_us: float) -> dict[str, float]:
        """Return its figures now; the time of a turn is that since the last look.

        Args:
            beat_us: of `Pace`, since the last look.
        """
        process = self._process
        actors, turns = self._kernel()
        times = process.cpu_times()
        spent = times.user + times.system
        found = {
            "rss MiB": process.memory_info().rss / KIB_PER_MIB**2,
            "anon MiB": anon_mib(process.pid),
            "pss MiB": pss_mib(process.pid),
            "descriptors": float(process.num_fds()),
            "threads": float(process.num_threads()),
            "actors": actors,
            **self._heap(),
        }
        if self._before is not None and turns > self._before[1]:
            # Of the whole process, with all its threads: what a turn costs, and not how long others
            # kept the processor from it.
            turn_us = 1e6 * (spent - self._before[0]) / (turns - self._before[1])
            found |= {"turn us": turn_us, "turn %": 100.0 * turn_us / beat_us}
        self._before = spent, turns
        return {f"{self._name} {figure}": value for figure, value in found.items()}


def scraped(url: str) -> dict[str, float]:
    """The samples of a metrics page by name, the rows of each added up; with `:STATE`, too."""
    with urllib.request.urlopen(url, timeout=SCRAPE_SECONDS) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            for key in (each.name, f"{each.name}:{each.labels.get('state', '')}"):
                sums[key] = sums.get(key, 0.0) + each.value
    return sums


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __call__(self) -> float:
        """How many."""
        return time.monotonic() - self._begun
