"""What the routes of the admin API work with, kept in their application.

Owns the parts and their end; a handler gets them with `parts(request)`. One part is `Work`: the
threads for what waits (for actors, files, the store) and must not hold up the event loop, with a
limit on how much may wait for them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from tunnelfleet.runtime.admin import Readiness
from tunnelfleet.runtime.gateway.gateway import Gateway

from .feed import EventFeed, EventReaders
from .problem import ApiProblem, ProblemKind
from .wishes import ApiWishes

T = TypeVar("T")


class Work:
    """Runs functions that may block, on threads of their own.

    Args:
        name: of the threads.
        threads: at most so many at once; with one, they run one after another.
        max_waiting: more requests than that at once are refused.
    """

    def __init__(self, name: str, threads: int, max_waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._max_waiting = max_waiting
        self._guard = threading.Lock()
        self._waiting = 0

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call the function on a thread and wait for it.

        Raises:
            ApiProblem: too much waits already, or the end has come.
            Exception: what the function raised.
        """
        with self._guard:
            if self._waiting >= self._max_waiting:
                raise ApiProblem(ProblemKind.BUSY, "too many requests wait already; ask again")
            self._waiting += 1
        try:
            future = self._executor.submit(function, *args)
        except RuntimeError:
            self._is_done()
            raise ApiProblem(ProblemKind.UNAVAILABLE, "the admin API is being stopped") from None
        future.add_done_callback(self._is_done)
        return await asyncio.wrap_future(future)

    def _is_done(self, _future: Future[Any] | None = None) -> None:
        with self._guard:
            self._waiting -= 1

    def stop(self) -> None:
        """Start nothing more. What runs has limits of its own, and is not waited for."""
        with self._guard:
            is_idle = self._waiting == 0
        self._executor.shutdown(wait=is_idle, cancel_futures=True)


QUESTION_THREADS = 4
MAX_QUESTIONS = 64
MAX_CHANGES = 64
MAX_RELOADS = 8
MAX_SURVEYS = 8
READY_FRACTION = 0.9
READY_HYSTERESIS = 0.1
"""As `/readyz` judges."""


@dataclass(slots=True)
class ApiPlaces:
    """Where the gateway's other doors are, for whoever asks.

    Attributes:
        door: the front door's address, or None.
        connect: the path of the private door of `tunnelfleet connect`, or None.
        metrics: the URL of the metrics and of the status page, without a path, or None.
    """

    door: str | None = None
    connect: str | None = None
    metrics: str | None = None


@dataclass(slots=True)
class ApiParts:
    """What the routes work with.

    Attributes:
        gateway: that is administered.
        places: where its doors and its pages are.
        wishes: the tunnels that the API wants; for `changes` alone.
        questions: runs what only looks.
        changes: runs what changes tunnels, one after another.
        reloads: runs what reads the files, one after another.
        surveys: runs what asks other gateways, one after another.
        readiness: judges the fleet; for `questions`.
        feed: keeps the events, or None.
        readers: of the events.
        started: when, in seconds of the Unix epoch.
    """

    gateway: Gateway
    places: ApiPlaces
    wishes: ApiWishes
    questions: Work
    changes: Work
    reloads: Work
    surveys: Work
    readiness: Readiness
    feed: EventFeed | None = None
    readers: EventReaders = field(default_factory=EventReaders)
    started: float = field(default_factory=time.time)

    @classmethod
    def of(cls, gateway: Gateway, places: ApiPlaces, feed: EventFeed | None) -> ApiParts:
        """Make the parts for a gateway."""
        return cls(
            gateway,
            places,
            ApiWishes(gateway),
            Work("tunnelfleet-api-look", QUESTION_THREADS, MAX_QUESTIONS),
            Work("tunnelfleet-api-change", 1, MAX_CHANGES),
            Work("tunnelfleet-api-reload", 1, MAX_RELOADS),
            Work("tunnelfleet-api-fleet", 1, MAX_SURVEYS),
            Readiness(READY_FRACTION, READY_HYSTERESIS),
            feed,
        )

    def stop(self) -> None:
        """Start nothing more."""
        self.questions.stop()
        self.changes.stop()
        self.reloads.stop()
        self.surveys.stop()


PARTS = web.AppKey("tunnelfleet-api", ApiParts)


def parts(request: web.Request) -> ApiParts:
    """Return the parts of the application that a request came to."""
    return request.app[PARTS]
