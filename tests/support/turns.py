"""How much work the turns of a dispatcher are, in the CPU time of its own thread.

Other processes do not count into it, so a bound holds on a busy machine as well.
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.tracing import check_processor_seconds
from tunnelfleet.actors.kernel import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TURN_SECONDS = 0.05
"""What a turn may take, whatever a peer sends."""


class Turns:
    """The turns that were measured."""

    def __init__(self) -> None:
        self.longest: dict[str, float] = {}
        """The CPU seconds of the longest turn by actor class."""
        self.counts: dict[str, int] = {}

    def note(self, name: str, seconds: float) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        self.longest[name] = max(self.longest.get(name, 0.0), seconds)

    def check(self) -> None:
        """Fail if one took too long; where lines are traced, only if there was none."""
        assert self.longest
        for name, seconds in self.longest.items():
            check_processor_seconds(seconds, MAX_TURN_SECONDS, f"a turn of {name}")


@contextmanager
def measured_turns(monkeypatch: Any) -> Iterator[Turns]:
    """Measure every turn of every dispatcher; garbage collection is off meanwhile."""
    turns = Turns()
    turn, ready, after = Dispatcher._turn, Dispatcher._socket_ready, Dispatcher._after_event
    began: dict[Dispatcher, tuple[str, float]] = {}

    def timed_turn(self: Dispatcher, cell: Any, started: float) -> float:
        start = time.thread_time()
        ended = turn(self, cell, started)
        turns.note(cell.actor_class.__name__, time.thread_time() - start)
        return ended

    def timed_ready(self: Dispatcher, registration: Any) -> None:
        began[self] = registration.cell.actor_class.__name__, time.thread_time()
        ready(self, registration)
        began.pop(self, None)

    def timed_after(self: Dispatcher, now: float) -> None:
        # Other actors have their turns in it, which are measured by themselves.
        if self in began:
            name, start = began.pop(self)
            turns.note(name, time.thread_time() - start)
        after(self, now)

    with monkeypatch.context() as patch:
        patch.setattr(Dispatcher, "_turn", timed_turn)
        patch.setattr(Dispatcher, "_socket_ready", timed_ready)
        patch.setattr(Dispatcher, "_after_event", timed_after)
        gc.disable()
        try:
            yield turns
        finally:
            gc.enable()
