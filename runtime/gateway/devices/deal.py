"""Which connection to a broker asks for which things. Pure.

Owns AWS's limits: a SUBSCRIBE has at most 8 filters, a connection at most 50 subscriptions (AWS IoT
Core endpoints and quotas, "Maximum subscriptions per subscribe request" and "Subscriptions per
connection"). A thing stays with its connection as long as it is wanted, so one that comes or goes
disturbs no other; at a start they are dealt in the order of the files, which gives each session
that a broker has kept the same things again.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["MAX_FILTERS", "ThingDeal", "batches"]

MAX_FILTERS: Final = 8
"""Topic filters in one SUBSCRIBE or UNSUBSCRIBE."""


class ThingDeal:
    """The things of one broker, dealt to numbered connections.

    Args:
        limit: things a connection has at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: dict[int, dict[str, None]] = {}
        self._of: dict[str, int] = {}

    def change(self, things: Iterable[str]) -> None:
        """These are the things from now on; those that stay keep their connection."""
        wanted = dict.fromkeys(things)
        for thing in [each for each in self._of if each not in wanted]:
            number = self._of.pop(thing)
            del self._connections[number][thing]
            if not self._connections[number]:
                del self._connections[number]
        number = 1
        for thing in [each for each in wanted if each not in self._of]:
            while len(self._connections.get(number, ())) >= self._limit:
                number += 1
            self._connections.setdefault(number, {})[thing] = None
            self._of[thing] = number

    @property
    def connections(self) -> dict[int, tuple[str, ...]]:
        """The things of each connection by its number, which is 1 for the first."""
        return {number: tuple(self._connections[number]) for number in sorted(self._connections)}


def batches(topics: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """The topics in lots of one SUBSCRIBE."""
    left = iter(topics)
    while lot := tuple(itertools.islice(left, MAX_FILTERS)):
        yield lot
