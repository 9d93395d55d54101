"""What the dispatchers of a runtime did and how late they are.

Owns the lag probe, which runs as a timer on each dispatcher, and the fold of dispatchers that
have stopped, so that a runtime which takes the place of another goes on counting. It knows no
tunnels and no Prometheus.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from tunnelfleet.actors.kernel.counting import Kind, declared
from tunnelfleet.actors.kernel.dispatcher import DispatcherStats

if TYPE_CHECKING:
    from tunnelfleet.actors.kernel import Dispatcher

__all__ = [
    "DispatcherMeter",
    "DispatcherRow",
    "LagProbe",
]


PROBE_SECONDS: Final = 0.5
"""Between two beats of a lag probe."""
WINDOW_SECONDS: Final = 60.0
"""How long a lag is remembered."""


class LagProbe:
    """A timer on a dispatcher that notes how late it fires.

    Args:
        dispatcher: a running one.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._lags: deque[float] = deque(maxlen=int(WINDOW_SECONDS / PROBE_SECONDS))
        self._due = time.monotonic()

    def start(self) -> None:
        """Begin; it ends with the dispatcher's loop."""
        self._due = time.monotonic()
        self._dispatcher.call_soon(self._beat)

    def _beat(self) -> None:
        now = time.monotonic()
        self._lags.append(max(0.0, now - self._due))
        self._due = now + PROBE_SECONDS
        self._dispatcher.loop.call_later(PROBE_SECONDS, self._beat)

    @property
    def lag_seconds(self) -> float:
        """The longest lag of the last minute, or how overdue the present beat is."""
        overdue = time.monotonic() - self._due
        return max(overdue, 0.0, *self._lags.copy())


class DispatcherRow(NamedTuple):
    """One dispatcher."""

    name: str
    stats: DispatcherStats
    mailbox_messages: int
    lag_seconds: float


class DispatcherMeter:
    """The dispatchers of a runtime. Any thread."""

    def __init__(self) -> None:
        self._running: list[tuple[Dispatcher, LagProbe]] = []
        self._retired: dict[str, DispatcherStats] = {}
        self._lock = threading.Lock()

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """Those that run."""
        with self._lock:
            return [dispatcher for dispatcher, _probe in self._running]

    def attach(self, dispatcher: Dispatcher) -> None:
        """Watch a dispatcher that runs."""
        probe = LagProbe(dispatcher)
        probe.start()
        with self._lock:
            self._running.append((dispatcher, probe))

    def retire(self) -> None:
        """Keep what all of them counted; they have stopped."""
        with self._lock:
            for dispatcher, _probe in self._running:
                self._retired[dispatcher.name] = self._merged(dispatcher)
            self._running.clear()

    def _merged(self, dispatcher: Dispatcher) -> DispatcherStats:
        return merge(self._retired.get(dispatcher.name), dispatcher.stats.snapshot())

    def rows(self) -> list[DispatcherRow]:
        """All dispatchers of the runtime, with those of the same name before them."""
        with self._lock:
            rows = [
                DispatcherRow(d.name, self._merged(d), d.mailbox_messages(), probe.lag_seconds)
                for d, probe in self._running
            ]
            names = {row.name for row in rows}
            for name, stats in self._retired.items():
                if name not in names:
                    rows.append(DispatcherRow(name, merge(None, stats), 0, 0.0))
        return rows


def merge(before: DispatcherStats | None, now: DispatcherStats) -> DispatcherStats:
    """The counts of a dispatcher and of the one that took its place."""
    if before is None:
        return now
    merged = DispatcherStats()
    for each in declared(DispatcherStats):
        name = each.name
        old, new = getattr(before, name), getattr(now, name)
        if each.label:
            setattr(merged, name, {k: old.get(k, 0) + new.get(k, 0) for k in {**old, **new}})
        elif each.is_peak:
            setattr(merged, name, max(old, new))
        else:
            setattr(merged, name, new if each.kind is Kind.GAUGE else old + new)
    return merged
