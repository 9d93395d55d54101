"""Those who follow the events of a gateway: how many there are, where each is, when one is let go.

A reader that is too slow is told that events are lost, and ends; it may come again with the last id
that it has. Owns the form of a server-sent event. It knows no request.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from .problem import ApiProblem, ProblemKind

if TYPE_CHECKING:
    from aiohttp import web

    from .feed import Event, EventFeed

__all__ = ["EventReaders", "write"]

MAX_READERS = 32
"""At once; each holds a connection."""
HEARTBEAT_SECONDS = 15.0
"""A quiet stream says something this often: so a reader that has gone is noticed."""
REPLAYED = 'event: replayed\ndata: {"event": "replayed"}\n\n'
"""What had happened when the reader came has been told; the rest comes as it happens."""
WRITE_SECONDS = 30.0
"""In which a reader has to take what was written."""
BATCH_EVENTS = 64


class EventReaders:
    """Those who follow the events, on one event loop."""

    def __init__(self) -> None:
        self._present: set[_EventReader] = set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._present)

    def open(self, feed: EventFeed, number: int) -> _EventReader:
        """A reader that has seen all up to an event.

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
        """It has ended."""
        self._present.discard(reader)

    def close(self) -> None:
        """Let all of them end."""
        self._is_closed = True
        for reader in self._present:
            reader.end()


class _EventReader:
    """One of them. A context manager."""

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
        """Have it end soon."""
        self._is_ending = True
        self._woken.set()

    async def run(self, response: web.StreamResponse) -> None:
        """Write events until it is too slow, or the end."""
        is_first, is_replaying = True, True
        while not self._is_ending:
            if is_replaying and self._number >= self._replay_ends:
                is_replaying = False
                await write(response, REPLAYED)
            lost, events = self._feed.after(self._number, BATCH_EVENTS)
            if lost:
                await write(response, _lost(lost))
                if not is_first:
                    return
            is_first = False
            if events:
                self._number = events[-1].number
                await write(response, "".join(_text(self._feed.life, each) for each in events))
            elif not await self._wait():
                await write(response, ":\n\n")

    async def _wait(self) -> bool:
        """Until there may be more; False if nothing has come for a while."""
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
