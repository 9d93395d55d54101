"""`make chaos`: schedules of faults, one after the other, until one violates an invariant.

    python -m tests.chaos --seeds 200              the seeds 0 to 199
    python -m tests.chaos --seed 123               one, with its schedule
    python -m tests.chaos --processes --seeds 10   real processes that are killed, and more

A schedule that fails is printed, tried again, and made smaller as long as it still fails. The exit
status is 1 if any failed. With `--record`, what came of it is kept every few schedules, and the
seeds that are kept of the same code are left out: a run that was interrupted is started in the same
way again.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.support.memory import rss_bytes
from tunnelfleet.runtime import make_ssl_context
from tunnelfleet.runtime.service.tls import ensure_certificate

from .fleet import Fleet
from .report import Sums, code_of, recorded, write_record
from .results import Certificate, Result, live_actors
from .schedule import Schedule, schedule_of, smaller

WARM_SEEDS: Final = 3
"""What the first schedules load stays, and counts for nothing."""
AFTER_SEEDS: Final = 50
"""The memory of the process is taken from here on, and looked at in the end."""
GROWTH_BYTES: Final = 60_000_000
"""By how much it may grow over any number of schedules: far less than they carry."""
SHRINK_TRIES: Final = 30
REPEATS: Final = 2
"""How often a smaller schedule is tried: chance has a part in it."""
SAVE_SEEDS: Final = 25
"""What so many schedules came to is recorded at once."""


def make_certificate(folder: Path) -> Certificate:
    """Make what TLS needs, in a folder."""
    files = ensure_certificate(folder, "127.0.0.1")
    return Certificate(files.certificate, files.private_key, make_ssl_context(files.ca))


def run_schedule(schedule: Schedule, certificate: Certificate) -> Result:
    """Carry out a schedule."""
    return asyncio.run(Fleet(schedule, certificate).run())


def warm(certificate: Certificate) -> None:
    """Load what stays."""
    for seed in range(WARM_SEEDS):
        asyncio.run(Fleet(schedule_of(seed), certificate, is_first=True).run())


def shrink(schedule: Schedule, certificate: Certificate) -> Schedule:
    """Return the smallest schedule found that still violates an invariant."""
    tries = 0
    while True:
        for candidate in smaller(schedule):
            if tries >= SHRINK_TRIES:
                return schedule
            tries += 1
            results = (run_schedule(candidate, certificate) for _ in range(REPEATS))
            if any(result.violations for result in results):
                schedule = candidate
                break
        else:
            return schedule


def tell(result: Result, *, is_loud: bool) -> None:
    """Print what came of a schedule, if it is to be seen."""
    if result.violations or is_loud:
        survived = ", ".join(f"{name} {count}" for name, count in result.survived.items())
        print(f"seed {result.seed}: {result.seconds:.2f} s; {survived or 'no fault happened'}")
        for ending, count in sorted(result.endings.items()):
            print(f"    {count:3d} conversations: {ending}")
    for text in result.violations:
        print(f"    VIOLATED: {text}")


class Recorder:
    """Keeps what a run comes to in the record, if it is to be kept.

    Args:
        given: the command line.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self._is_on = given.record
        self._name = "Real processes" if given.processes else "In one process"
        self._what = (
            "real processes" if given.processes else "proxies, service, runtime, applications"
        )
        self._code = code_of() if given.record else ""
        """That of the beginning: files may change while it runs."""

    def begin(self) -> Sums:
        """Return the sums to go on with."""
        return recorded(self._name, self._code) if self._is_on else Sums()

    def save(self, sums: Sums) -> None:
        """Keep what has come of it so far."""
        if self._is_on:
            date = datetime.datetime.now(datetime.UTC).date().isoformat()
            write_record(self._name, sums, self._what, date, self._code)


def seeds_of(given: argparse.Namespace, sums: Sums) -> list[int]:
    """Return the seeds that the command line asks for and that are not recorded yet."""
    if given.seed is not None:
        return [given.seed]
    asked = range(given.first, given.first + given.seeds)
    return [each for each in asked if not sums.has(each)]


def run_in_process(given: argparse.Namespace, certificate: Certificate, recorder: Recorder) -> Sums:
    """Carry out the schedules of the seeds in this process."""
    sums, base_bytes, started = recorder.begin(), 0, time.monotonic()
    for count, seed in enumerate(seeds_of(given, sums)):
        if given.minutes and time.monotonic() - started > 60 * given.minutes:
            print(f"{given.minutes:g} minutes are over: the seeds from {seed} on are left")
            break
        schedule = schedule_of(seed)
        if given.seed is not None:
            print("\n".join(schedule.lines()))
        result = run_schedule(schedule, certificate)
        tell(result, is_loud=given.seed is not None)
        sums.add(result)
        if result.violations:
            print("\n".join(schedule.lines()), flush=True)
            if given.shrink:
                print("the smallest that fails:")
                print("\n".join(shrink(schedule, certificate).lines()), flush=True)
        if count == AFTER_SEEDS:
            base_bytes = rss_bytes()
        if count % SAVE_SEEDS == SAVE_SEEDS - 1:
            recorder.save(sums)
        if count % 50 == 49:
            rate = (count + 1) / (time.monotonic() - started) * 60
            print(
                f"{count + 1} schedules, {sums.violations} failed, {rate:.0f} a minute", flush=True
            )
    gc.collect()
    grown = rss_bytes() - base_bytes if base_bytes else 0
    if (left := live_actors()) or grown > GROWTH_BYTES:
        print(f"VIOLATED: {left} actors are left over, the memory grew by {grown:,} bytes")
        sums.violations += 1
    print(f"memory grew by {grown:,} bytes after the first {AFTER_SEEDS} schedules")
    return sums


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--minutes", type=float, help="begin no schedule after so long")
    parser.add_argument("--seed", type=int, help="one seed alone, and its schedule")
    parser.add_argument("--no-shrink", dest="shrink", action="store_false")
    parser.add_argument("--processes", action="store_true", help="kill real processes")
    parser.add_argument("--record", action="store_true", help="into docs/reliability.md")
    given = parser.parse_args()
    logging.getLogger("tunnelfleet").addHandler(logging.NullHandler())
    logging.getLogger("tunnelfleet").propagate = False
    recorder = Recorder(given)
    with tempfile.TemporaryDirectory() as folder:
        if given.processes:
            from .processes import run_processes

            sums = recorder.begin()
            run_processes(seeds_of(given, sums), sums, Path(folder), recorder.save)
        else:
            certificate = make_certificate(Path(folder) / "tls")
            warm(certificate)
            sums = run_in_process(given, certificate, recorder)
    print(f"{sums.schedules} schedules, {sums.violations} with a violated invariant")
    for name, count in sums.survived.most_common():
        print(f"{count:7,d}  {name}")
    recorder.save(sums)
    return 1 if sums.violations else 0


if __name__ == "__main__":
    sys.exit(main())
