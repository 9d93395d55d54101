"""How a counter is declared: once, as a field of the class that counts.

    @dataclass(slots=True, eq=False)
    class Counters:
        session_resets: int = counter("SESSION_RESET messages received.", "Tunnels")

That line is the slot and its zero. The sums over a fleet, the catalogue of metrics, its document,
what a scrape shows and the panels of the dashboards are made by walking the fields. The attribute
itself stays a plain number, so that counting costs nothing more than adding to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cache
from typing import Any, Final

DECLARED: Final = "declared"
"""The key of a field's metadata."""


class Kind(StrEnum):
    """The kinds of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Declared:
    """What is known of one counter.

    Attributes:
        name: of the attribute that counts.
        kind: counter, gauge or histogram.
        help: what it counts or measures, with its unit.
        group: the heading under which the document has it.
        metric: the name of the metric, without prefix and suffix.
        label: of a counter by reason, the name of the label that tells the reasons apart.
        known: the reasons that are shown as zero before the first of their kind: a rate needs the
            zero.
        bounds: of a histogram, the upper bounds of its buckets, ascending.
        row: what it is for a single tunnel, if the optional series of single tunnels have it.
        is_peak: of a gauge, that it is the largest value so far, and does not add up.
    """

    name: str
    kind: Kind
    help: str
    group: str
    metric: str = ""
    label: str = ""
    known: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    row: str = ""
    is_peak: bool = False


def counter(help: str, group: str = "", *, metric: str = "", row: str = "") -> Any:  # noqa: A002
    """Declare a number that only grows."""
    return _number(Declared("", Kind.COUNTER, help, group, metric, row=row))


def gauge(
    help: str,  # noqa: A002
    group: str = "",
    *,
    metric: str = "",
    row: str = "",
    is_peak: bool = False,
) -> Any:
    """Declare a number that grows and shrinks, or the largest value so far."""
    return _number(Declared("", Kind.GAUGE, help, group, metric, row=row, is_peak=is_peak))


def counter_by(
    label: str,
    help: str,  # noqa: A002
    group: str = "",
    *,
    known: tuple[str, ...] = (),
    metric: str = "",
    row: str = "",
) -> Any:
    """Declare numbers that only grow, one for each reason: a dict. `count` adds to it."""
    found = Declared("", Kind.COUNTER, help, group, metric, label, known, row=row)
    return field(default_factory=dict, metadata={DECLARED: found})


def histogram(
    empty: Callable[[], object],
    help: str,  # noqa: A002
    group: str = "",
    *,
    bounds: tuple[float, ...],
    metric: str = "",
    row: str = "",
) -> Any:
    """Declare a distribution: an object that sees values. `empty` makes one that has seen none."""
    found = Declared("", Kind.HISTOGRAM, help, group, metric, bounds=bounds, row=row)
    return field(default_factory=empty, metadata={DECLARED: found})


def _number(found: Declared) -> Any:
    return field(default=0, metadata={DECLARED: found})


@cache
def declared(counting: type) -> tuple[Declared, ...]:
    """Return what a class of counters declares, in the order of its fields."""
    return tuple(
        replace(found, name=each.name, metric=found.metric or each.name)
        for each in fields(counting)
        if (found := each.metadata.get(DECLARED)) is not None
    )


OTHER: Final = "other"
"""The name under which everything beyond a limit is counted."""
MAX_KEYS: Final = 64
"""The largest number of distinct reasons or kinds of one counter."""


def count(counts: dict[str, int], key: str) -> None:
    """Add one to `counts[key]`, or to `OTHER` if there are too many keys."""
    if key not in counts and len(counts) >= MAX_KEYS:
        key = OTHER
    counts[key] = counts.get(key, 0) + 1


KERNEL: Final = "Actor kernel"


@dataclass(slots=True)
class DispatcherStats:
    """What a dispatcher has done since it started.

    Any thread may read a field at any time; take a `snapshot()` to iterate over the dicts.
    """

    messages_handled: int = counter("Messages that actors handled.", KERNEL)
    turns: int = counter("Turns of actors.", KERNEL)
    slow_turns: int = counter("Turns longer than 100 ms.", KERNEL)
    longest_turn_seconds: float = gauge("The longest turn since the start.", KERNEL, is_peak=True)
    actors_alive: int = gauge("Actors that are alive.", KERNEL)
    actors_started: int = counter("Actors started.", KERNEL)
    actor_failures: dict[str, int] = counter_by(
        "actor", "Actors ended by an exception, by class.", KERNEL
    )
    restarts: dict[str, int] = counter_by(
        "actor", "Restarts by supervisors, by class.", KERNEL, metric="actor_restarts"
    )
    quarantines: int = counter(
        "Times a supervisor put a child that fails too often in quarantine, or back after a retry.",
        KERNEL,
    )
    dead_letters: int = counter("Messages to actors that had ended.", KERNEL)
    abandoned_children: int = counter(
        "Threads of a host's actors that did not stop in their time and were left behind.", KERNEL
    )

    def snapshot(self) -> DispatcherStats:
        """Return a copy that does not change any more."""
        copy = DispatcherStats()
        for each in declared(DispatcherStats):
            value = getattr(self, each.name)
            setattr(copy, each.name, dict(value) if each.label else value)
        return copy
