"""What the routes of the admin API work with, kept in their application.

Owns the parts and their end. A handler gets them with `parts(request)`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from tunnelfleet.runtime.admin import Readiness

from .readers import EventReaders
from .wishes import ApiWishes
from .work import Work

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.gateway import Gateway

    from .feed import EventFeed

__all__ = ["PARTS", "ApiParts", "ApiPlaces", "parts"]

QUESTION_THREADS = 4
MAX_QUESTIONS = 64
MAX_CHANGES = 64
MAX_RELOADS = 8
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
    readiness: Readiness
    feed: EventFeed | None = None
    readers: EventReaders = field(default_factory=EventReaders)
    started: float = field(default_factory=time.time)

    @classmethod
    def of(cls, gateway: Gateway, places: ApiPlaces, feed: EventFeed | None) -> ApiParts:
        """Make them."""
        return cls(
            gateway,
            places,
            ApiWishes(gateway),
            Work("tunnelfleet-api-look", QUESTION_THREADS, MAX_QUESTIONS),
            Work("tunnelfleet-api-change", 1, MAX_CHANGES),
            Work("tunnelfleet-api-reload", 1, MAX_RELOADS),
            Readiness(READY_FRACTION, READY_HYSTERESIS),
            feed,
        )

    def stop(self) -> None:
        """Start nothing more."""
        self.questions.stop()
        self.changes.stop()
        self.reloads.stop()


PARTS = web.AppKey("tunnelfleet-api", ApiParts)


def parts(request: web.Request) -> ApiParts:
    """Those of the application that a request came to."""
    return request.app[PARTS]
