"""EventFeed: the last events of a gateway, for those who follow them.

Owns a bounded ring of what the log tells programs, each with a number, and who is woken when there
is more. There is no queue for each reader: whoever is too slow finds that some are gone. Whoever
logs never waits.
"""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import threading
from typing import TYPE_CHECKING, NamedTuple, Self

from tunnelfleet.runtime.gateway.log import LOGGER, RateLimit, event_object, is_whole, name_tunnel

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_EVENTS", "Event", "EventFeed", "Found"]

MAX_EVENTS = 1_000
"""That are kept."""
LIFE_BYTES = 4


class Event(NamedTuple):
    """Something that has happened.

    Attributes:
        number: counted from 1, in this life of the feed.
        name: of the event, as in the log's JSON.
        data: that JSON.
    """

    number: int
    name: str
    data: str


class Found(NamedTuple):
    """What came after an event: how many are gone already, and those that are there."""

    lost: int
    events: list[Event]


class EventFeed(logging.Handler):
    """Keeps the last events. A context manager: it hears while the block runs.

    It hears what the level of the project's logger lets through, INFO and above.

    Args:
        capacity: how many events it keeps.
    """

    def __init__(self, capacity: int = MAX_EVENTS) -> None:
        super().__init__(logging.INFO)
        self._limit = RateLimit()
        self._events: collections.deque[Event] = collections.deque(maxlen=capacity)
        self._last = 0
        self._guard = threading.Lock()
        self._wakers: dict[object, Callable[[], None]] = {}
        self._asleep: set[object] = set()
        self.life = os.urandom(LIFE_BYTES).hex()
        """Tells the events of this feed from those of an earlier process."""

    def __enter__(self) -> Self:
        logging.getLogger(LOGGER).addHandler(self)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        logging.getLogger(LOGGER).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep an event, and wake those who follow; never waits."""
        # What cannot be kept must not harm whoever logs.
        with contextlib.suppress(Exception):
            name_tunnel(record)
            # As in the log: one that says the same again and again must not push out what happens
            # to all others.
            left_out = 0 if is_whole(record) else self._limit.admit_record(record)
            if left_out is None:
                return
            found = event_object(record, left_out)
            self._keep(str(found["event"]), json.dumps(found))

    def _keep(self, name: str, data: str) -> None:
        with self._guard:
            self._last += 1
            self._events.append(Event(self._last, name, data))
            # Once for a burst: who is awake looks again before it sleeps.
            wakers = [self._wakers[key] for key in self._asleep]
            self._asleep.clear()
        for wake in wakers:
            wake()

    @property
    def last(self) -> int:
        """The number of the last event; 0 before the first."""
        with self._guard:
            return self._last

    def after(self, number: int, limit: int = MAX_EVENTS) -> Found:
        """What came after an event.

        Args:
            number: of the event; 0 for the beginning.
            limit: at most so many, the oldest first.
        """
        with self._guard:
            lost = max(0, self._last - len(self._events) - number)
            skipped = max(0, len(self._events) - (self._last - number)) if number else 0
            events = [
                self._events[index]
                for index in range(skipped, min(skipped + limit, len(self._events)))
            ]
        return Found(lost, events)

    # -- those who follow

    def follow(self, key: object, wake: Callable[[], None]) -> None:
        """Have somebody woken, on whatever thread logs; must not wait, or log."""
        with self._guard:
            self._wakers[key] = wake

    def unfollow(self, key: object) -> None:
        """Wake them no more."""
        with self._guard:
            self._wakers.pop(key, None)
            self._asleep.discard(key)

    def sleep_after(self, key: object, number: int) -> bool:
        """Say that somebody has seen all up to an event and waits to be woken.

        Returns:
            False if there is more by now: they are not woken, and have to look.
        """
        with self._guard:
            if self._last > number:
                return False
            self._asleep.add(key)
            return True
