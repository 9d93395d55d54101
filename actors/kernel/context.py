"""Which dispatcher the calling thread belongs to, and what the parts of the kernel ask of it.

A ref, a timer, a watched socket, a reply and a death notice reach back into an actor's cell and its
dispatcher. They name the protocols here, so that each can be read without the two classes, which
are in `cell` and `dispatcher`. Owns also the error about a call that would block.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from typing import Any, Protocol

from pykka import ActorRef


class DispatcherLike(Protocol):
    """A dispatcher, as its actors' parts see it."""

    thread_id: int
    run_queue: deque[Any]
    idle: bool
    lock: threading.Lock

    def schedule_run(self) -> None:
        """Look at the run queue once the loop has polled."""
        ...

    def post(self, cell: Any, item: Any) -> bool:
        """Hand an item to an actor from another thread; return False if that has ended."""
        ...

    def check_process(self) -> None:
        """Raise in a child that was forked from the process in which this runs."""
        ...

    @property
    def timer_context(self) -> contextvars.Context:
        """The context in which timers run."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Its event loop."""
        ...

    def label_here(self) -> str:
        """Return the label of the actor whose turn it is, for the log."""
        ...

    def count_dead_letter(self, ref: ActorRef[Any], message: object) -> None:
        """Count a message to an actor that has ended."""
        ...

    def timer_fired(self, cell: Any, timer: Any) -> None:
        """Put the message of a timer into its actor's mailbox."""
        ...


class CellLike(Protocol):
    """An actor's cell, as its parts see it."""

    actor: Any
    ended: bool
    timers: set[Any] | None
    registrations: set[Any] | None
    replies: set[Any] | None

    @property
    def dispatcher(self) -> DispatcherLike:
        """Where the actor runs."""
        ...

    @property
    def urn(self) -> str:
        """See `pykka.Actor.actor_urn`."""
        ...

    def send(self, item: Any) -> bool:
        """Append to the mailbox; return False if the actor has ended. Any thread."""
        ...

    def kill(self) -> None:
        """End the actor in its next turn, without a hook. Any thread."""
        ...

    def wait_ended(self, timeout: float | None) -> bool:
        """Block until the actor has ended; return whether it has."""
        ...

    def add_watcher(self, watcher: ActorRef[Any]) -> bool:
        """Remember whom to tell of the end; return False if the actor has already ended."""
        ...

    def remove_watcher(self, watcher: ActorRef[Any]) -> None:
        """Undo `add_watcher`."""
        ...


class BlockingCallError(RuntimeError):
    """Raised on a dispatcher thread by a call that would block it.

    The reply would be made by a turn of the very thread that waits for it. Use `tell`, `watch`,
    or `ask(..., block=False)` with `pipe_to_self` instead.
    """


class _ThreadContext(threading.local):
    dispatcher: DispatcherLike | None = None


_context = _ThreadContext()


def current_dispatcher() -> DispatcherLike | None:
    """Return the dispatcher whose thread this is, or None on any other thread."""
    return _context.dispatcher


def label_here() -> str:
    """Return the label of the actor whose turn this is, for the log; empty on other threads."""
    dispatcher = _context.dispatcher
    return "" if dispatcher is None else dispatcher.label_here()


def set_current_dispatcher(dispatcher: DispatcherLike | None) -> None:
    """Bind the calling thread to a dispatcher; only the dispatcher's own thread calls this."""
    _context.dispatcher = dispatcher


def refuse_to_block(call: str) -> None:
    """Raise BlockingCallError if the calling thread is a dispatcher's.

    Args:
        call: what was called, for the message.
    """
    dispatcher = _context.dispatcher
    if dispatcher is not None:
        msg = (
            f"{call} would block the thread of {dispatcher}, and with it every actor there; "
            "use tell, watch, or ask(..., block=False) with pipe_to_self"
        )
        raise BlockingCallError(msg)
