"""The last events of a gateway, and those who follow them.

`EventFeed` keeps a bounded ring of what the log tells programs, each with a number; whoever logs
never waits. There is no queue for each reader: one that is too slow is told that events are lost,
and may come again with the last number that it has. `EventReaders` counts readers and lets them go,
and has the form of a server-sent event. Neither knows a request.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable
from typing import NamedTuple, Self

from aiohttp import web

from tunnelfleet.runtime.gateway.log import LOGGER, RateLimit, event_object, is_whole, name_tunnel

from .operations import ApiProblem, ProblemKind


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


MAX_EVENTS = 1_000
"""How many events are kept."""
LIFE_BYTES = 4


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
        """Return what came after an event.

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
        """Call `wake` when there is more, on the thread that logs; it must not wait or log."""
        with self._guard:
            self._wakers[key] = wake

    def unfollow(self, key: object) -> None:
        """Stop calling what `follow` was given."""
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


MAX_READERS = 32
"""How many readers there may be at once; each holds a connection."""
HEARTBEAT_SECONDS = 15.0
"""A quiet stream says something this often: so a reader that has gone is noticed."""
REPLAYED = 'event: replayed\ndata: {"event": "replayed"}\n\n'
"""What had happened when the reader came has been told; the rest comes as it happens."""
WRITE_SECONDS = 30.0
"""How long a reader may take to read what was written."""
BATCH_EVENTS = 64


class EventReaders:
    """Those who follow the events, on one event loop."""

    def __init__(self) -> None:
        self._present: set[_EventReader] = set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._present)

    def open(self, feed: EventFeed, number: int) -> _EventReader:
        """Return a reader that has seen all up to an event.

        Raises:
            ApiProblem: there are too many, or the end has come.
        """
        if self._is_closed:
            raise ApiProblem(ProblemKind.UNAVAILABLE, "the admin API is being stopped")
        if len(self._present) >= MAX_READERS:
            raise ApiProblem(
                ProblemKind.BUSY,
                f"{MAX_READERS} readers follow the events already; end one of them",
            )
        reader = _EventReader(self, feed, number)
        self._present.add(reader)
        return reader

    def forget(self, reader: _EventReader) -> None:
        """Forget a reader that has ended."""
        self._present.discard(reader)

    def close(self) -> None:
        """Let all of them end."""
        self._is_closed = True
        for reader in self._present:
            reader.end()


class _EventReader:
    """One reader. A context manager."""

    def __init__(self, readers: EventReaders, feed: EventFeed, number: int) -> None:
        self._readers = readers
        self._feed = feed
        self._number = number
        self._replay_ends = feed.last
        self._woken = asyncio.Event()
        self._is_ending = False
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> _EventReader:
        self._feed.follow(self, self._wake)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._feed.unfollow(self)
        self._readers.forget(self)

    def _wake(self) -> None:
        # The loop cannot have ended: a reader ends before it.
        self._loop.call_soon_threadsafe(self._woken.set)

    def end(self) -> None:
        """Ask the reader to end soon."""
        self._is_ending = True
        self._woken.set()

    async def run(self, response: web.StreamResponse, may_go_on: Callable[[], bool]) -> None:
        """Write events until the reader is too slow or has to end.

        Args:
            response: to write to.
            may_go_on: asked before each piece that is written; a reload that ends it is an event,
                and so wakes the reader.
        """
        is_first, is_replaying = True, True
        while not self._is_ending and may_go_on():
            if is_replaying and self._number >= self._replay_ends:
                is_replaying = False
                await write(response, REPLAYED)
                continue
            lost, events = self._feed.after(self._number, BATCH_EVENTS)
            told = _lost(lost) if lost else ""
            if lost and not is_first:
                await write(response, told)
                return
            is_first = False
            if events:
                self._number = events[-1].number
                told += "".join(_text(self._feed.life, each) for each in events)
            if told:
                await write(response, told)
            elif not await self._wait() and may_go_on():
                await write(response, ":\n\n")

    async def _wait(self) -> bool:
        """Wait until there may be more; return False if nothing has come for a while."""
        self._woken.clear()
        if self._is_ending or not self._feed.sleep_after(self, self._number):
            return True
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


def _text(life: str, event: Event) -> str:
    # The data is JSON, which has no line break; the name is one of ours.
    return f"id: {life}-{event.number}\nevent: {event.name}\ndata: {event.data}\n\n"


def _lost(count: int) -> str:
    # Without an id: who comes again, does with the last one that was seen.
    return f"event: lost\ndata: {json.dumps({'event': 'lost', 'count': count})}\n\n"


async def write(response: web.StreamResponse, text: str) -> None:
    """Write to a reader.

    Raises:
        TimeoutError: it does not read.
        ConnectionError: it has gone.
    """
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(text.encode())
