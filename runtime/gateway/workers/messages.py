"""What the actors of worker processes tell each other in the gateway, and the words of the wire.

A word of the wire is the value of `do` in what a worker is told, or of `is` in what it tells. All
that is about a tunnel has its `serial`, which no two lives of a tunnel share.
"""

from __future__ import annotations

import socket
from enum import StrEnum
from typing import Any, NamedTuple

from pykka import ActorRef


class Do(StrEnum):
    """What a worker is told."""

    BEGIN = "begin"
    """The first command: begin, with this share of the connects."""
    OPEN = "open"
    CLOSE = "close"
    DRAIN = "drain"
    TOKEN = "token"  # noqa: S105 - a word of the wire
    LIMITS = "limits"
    CARRY = "carry"
    """The socket that comes with it goes to a source's service."""
    GATE = "gate"
    """Connects are suspended, or allowed again."""
    TREE = "tree"
    FREEZE = "freeze"
    """The fleet is up: keep what there is out of the garbage collector's sight."""


class Is(StrEnum):
    """What a worker tells."""

    STARTED = "started"
    BEAT = "beat"
    """A sign of life, with what the worker's governor has done."""
    REPORT = "report"
    EVENT = "event"
    CLOSED = "closed"
    FAILED = "failed"
    """A tunnel could not be opened."""
    CARRIED = "carried"
    LOG = "log"
    TREE = "tree"


class ToWorker(NamedTuple):
    """Tell the worker this, and give it a copy of the socket."""

    message: dict[str, Any]
    sock: socket.socket | None = None


class AskTree(NamedTuple):
    """Asks a worker for its actors: a list of `ActorNode`."""


class WorkerUp(NamedTuple):
    """The worker of a tunnel has started: it can be told things through this actor."""

    worker: ActorRef[Any]


class WorkerLost(NamedTuple):
    """The worker of a tunnel has ended, with all that it had; `reason` is for people."""

    reason: str


class Told(NamedTuple):
    """A worker has reported something about a tunnel."""

    kind: Is
    message: dict[str, Any]
