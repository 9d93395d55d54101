"""What a schedule comes to, and what is watched while it runs: the log, threads, descriptors."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tunnelfleet.actors.kernel import DispatchedActor

if TYPE_CHECKING:
    import ssl

QUIET_SECONDS: Final = 60.0
"""For everybody to end, or to be back, once nothing is broken any more: far more than it takes."""


class InjectedError(Exception):
    """Raised in an actor because the schedule says so."""


@dataclass(frozen=True)
class Certificate:
    """What TLS needs, made once for all schedules."""

    certificate: Path
    private_key: Path
    context: ssl.SSLContext


@dataclass
class Result:
    """What came of one schedule.

    Attributes:
        seed: of the schedule.
        violations: what may not be.
        survived: how often each kind of fault happened.
        crashed: how often an actor of a class was made to fail, at which message.
        endings: how conversations ended, by what client and server saw.
        tolerated: documented exceptions, how often.
        verified_bytes: how many were compared at their place.
        seconds: how long it took.
    """

    seed: int
    violations: list[str] = field(default_factory=list)
    survived: Counter[str] = field(default_factory=Counter)
    crashed: Counter[tuple[str, str]] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    tolerated: Counter[str] = field(default_factory=Counter)
    verified_bytes: int = 0
    seconds: float = 0.0


class LogWatch(logging.Handler):
    """Listens to the log for what must not be there, and for tunnels that go on without marks."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.unexpected: list[str] = []
        self.unmarked: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record, on any thread."""
        if "it goes on without" in str(record.msg) and record.args:
            self.unmarked.add(str(record.args[0]))  # type: ignore[index]
        if record.levelno < logging.ERROR:
            return
        error = record.exc_info[1] if record.exc_info else None
        is_ours = isinstance(error, InjectedError) or str(error) == "crash"
        if not is_ours:
            self.unexpected.append(f"{record.getMessage()} {error!r}")


@dataclass(frozen=True)
class Standing:
    """What a process has at one moment: what a schedule must not leave over."""

    threads: frozenset[str]
    descriptors: frozenset[str]

    @classmethod
    def now(cls) -> Standing:
        """This process's."""
        # Those of `asyncio.to_thread` stay with the loop.
        names = (each.name for each in threading.enumerate() if not each.name.startswith("asyncio"))
        return cls(frozenset(names), frozenset(_descriptors()))

    def beyond(self, before: Standing) -> list[str]:
        """What there is more than before."""
        found = [f"thread {each} is left over" for each in sorted(self.threads - before.threads)]
        if len(self.descriptors) > len(before.descriptors):
            more = sorted(self.descriptors - before.descriptors)
            found.append(f"descriptors are left over: {', '.join(more)}")
        return found


def _descriptors() -> list[str]:
    folder = Path("/proc/self/fd")
    found = []
    for each in list(folder.iterdir()):
        # The one by which the folder is read is gone by now.
        with contextlib.suppress(OSError):
            found.append(f"{each.name} is {each.readlink()}")
    return found


def live_actors() -> int:
    """How many actors are objects still, after a collection: none, once all runtimes have ended."""
    gc.collect()
    return sum(isinstance(each, DispatchedActor) for each in gc.get_objects())
