"""Where code runs: on which dispatcher's thread, and in which process.

A ref, a timer, a watched socket, a reply and a death notice reach back into an actor's cell and its
dispatcher. They name the protocols here, so that each can be read without the two classes. Owns
also what a host's fork means, and the errors about a call that would block or comes from a forked
child.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import weakref
from collections import deque
from typing import Any, Protocol

from pykka import ActorRef

from .few import Few


class HasFileno(Protocol):
    """A socket, or anything else with a file descriptor."""

    def fileno(self) -> int:
        """Return the descriptor; negative once closed."""
        ...


class DispatcherLike(Protocol):
    """A dispatcher, as its actors' parts see it."""

    thread_id: int
    run_queue: deque[Any]
    spare_mail: deque[deque[Any]]
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

    def launch(self, cell: Any) -> None:
        """Give a new actor its first turn."""
        ...

    def forget(self, cell: Any) -> None:
        """Drop an actor that has ended."""
        ...

    def count_failure(self, actor_class_name: str) -> None:
        """Count an unhandled exception of an actor."""
        ...

    def timer_fired(self, cell: Any, timer: Any) -> None:
        """Put the message of a timer into its actor's mailbox."""
        ...


class CellLike(Protocol):
    """An actor's cell, as its parts see it."""

    actor: Any
    ended: bool
    timers: Few[Any]
    registrations: Few[Any]
    replies: Few[Any]

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


class ForkedProcessError(RuntimeError):
    """Raised in a forked child by a call to what runs in the process that it was forked from."""


class Forkable(Protocol):
    """An object that has to know when it is a copy in a forked child."""

    def forget_parent(self) -> None:
        """Called in the child, on its only thread; must not block: any lock may be held."""


class _Forks:
    generation = 0
    """The number of forks between this process and the first one that imported this module."""
    has_children = False
    """Whether this process has forked: a descriptor that it closes may live on in a child."""


_forkable: weakref.WeakSet[Forkable] = weakref.WeakSet()


class ForkGuard:
    """Remembers the process in which it was made.

    Args:
        what: is used, for the error.
    """

    __slots__ = ("_generation", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._generation = _Forks.generation

    @property
    def is_foreign(self) -> bool:
        """Whether this process is another one than that."""
        return self._generation != _Forks.generation

    def check(self) -> None:
        """Raise in another process.

        Raises:
            ForkedProcessError: the process was forked.
        """
        if self._generation != _Forks.generation:
            msg = (
                f"{self._what} runs in the process that this one (pid {os.getpid()}) was forked "
                "from, and cannot be used here: make a new one in this process, or start the "
                "process with multiprocessing's 'spawn' or 'forkserver'"
            )
            raise ForkedProcessError(msg)


def has_forked() -> bool:
    """Return whether this process has children that may hold its descriptors."""
    return _Forks.has_children


def tell_of_forks(thing: Forkable) -> None:
    """Have `thing.forget_parent()` called in every child, for as long as the thing lives."""
    _forkable.add(thing)


def _in_parent() -> None:
    _Forks.has_children = True


def _in_child() -> None:
    _Forks.generation += 1
    _Forks.has_children = False
    for thing in list(_forkable):
        thing.forget_parent()
    _forkable.clear()


os.register_at_fork(after_in_parent=_in_parent, after_in_child=_in_child)
