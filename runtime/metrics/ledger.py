"""The ledger of a runtime's tunnels: those that are open, and what the closed ones came to.

Owns that no counter goes back and that nothing of a closed tunnel remains but its share in the
totals. It decides which tunnels have a row of their own: the first ones up to a limit, each for as
long as it is open; the others are summed in one row, for good. It knows no Prometheus.
"""

from __future__ import annotations

import threading
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from .labels import MAX_REASONS, MAX_SERVICE_IDS, NO_SERVICE, OTHER, LabelCap
from .totals import Totals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tunnelfleet.actors.stats import TunnelStats

    from .breather import Breather

__all__ = ["OTHER", "Entry", "Ledger", "Reading"]

CHUNK_TUNNELS: Final = 64
"""Summed between two looks at the clock."""


class Entry(NamedTuple):
    """An open tunnel.

    Attributes:
        name: its name.
        mode: source or destination.
        stats: its counters, which its actors go on writing.
        has_row: whether per-tunnel series show it by name.
    """

    name: str
    mode: str
    stats: TunnelStats
    has_row: bool


class Reading(NamedTuple):
    """What a scrape begins with; all of one moment.

    Attributes:
        totals: of the tunnels closed so far; a copy.
        rest: by mode, of the closed tunnels that had no row of their own; a copy.
        entries: the open tunnels.
        opened: tunnels opened so far.
        closed: tunnels closed so far.
    """

    totals: Totals
    rest: dict[str, Totals]
    entries: Sequence[Entry]
    opened: int
    closed: int


class Ledger:
    """Tunnels for metrics. Any thread.

    Args:
        rows: how many tunnels have per-tunnel series; 0 turns these off.
    """

    def __init__(self, rows: int = 0) -> None:
        self.rows = rows
        self.service_label = LabelCap(MAX_SERVICE_IDS, NO_SERVICE)
        self.reason_label = LabelCap(MAX_REASONS)
        self._open: dict[str, Entry] = {}
        self._rows_used = 0
        self._totals = Totals()
        self._rest: dict[str, Totals] = {}
        self._opened = 0
        self._closed = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of open tunnels."""
        return len(self._open)

    def open(self, name: str, mode: str, stats: TunnelStats) -> None:
        """Take a tunnel in."""
        with self._lock:
            has_row = self._rows_used < self.rows and name != OTHER
            self._rows_used += has_row
            self._opened += 1
            self._open[name] = Entry(name, mode, stats, has_row)

    def close(self, name: str) -> None:
        """Fold a tunnel that will count no more into the totals; an unknown name is ignored."""
        with self._lock:
            entry = self._open.pop(name, None)
            if entry is None:
                return
            self._closed += 1
            self._fold(self._totals, entry)
            if entry.has_row:
                self._rows_used -= 1
            elif self.rows:
                self._fold(self._rest.setdefault(entry.mode, Totals()), entry)

    def _fold(self, totals: Totals, entry: Entry) -> None:
        totals.add([(entry.mode, entry.stats)], self.service_label, self.reason_label)
        totals.drop_gauges()

    def read(self) -> Reading:
        """Look at all of it at one moment, so that each tunnel counts once."""
        with self._lock:
            return Reading(
                self._totals.copy(),
                {mode: totals.copy() for mode, totals in self._rest.items()},
                list(self._open.values()),
                self._opened,
                self._closed,
            )

    def sum(self, reading: Reading, breather: Breather) -> tuple[Totals, dict[str, Totals]]:
        """Add up what is open; pauses now and then. `reading` is used up.

        Returns:
            The totals of all tunnels, and by mode those of the tunnels without a row.
        """
        totals, rest = reading.totals, reading.rest
        with_row = [entry for entry in reading.entries if entry.has_row]
        self._add(totals, with_row, breather)
        for mode in sorted({entry.mode for entry in reading.entries}):
            without = [e for e in reading.entries if not e.has_row and e.mode == mode]
            found = Totals()
            self._add(found, without, breather)
            totals.merge(found)
            if without and self.rows:
                rest.setdefault(mode, Totals()).merge(found)
        return totals, rest

    def _add(self, totals: Totals, entries: Sequence[Entry], breather: Breather) -> None:
        for chunk in chunks(entries):
            pairs = [(entry.mode, entry.stats) for entry in chunk]
            totals.add(pairs, self.service_label, self.reason_label)
            breather.breathe()


def chunks(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Split into parts of `CHUNK_TUNNELS`."""
    rest = iter(entries)
    while chunk := list(islice(rest, CHUNK_TUNNELS)):
        yield chunk
