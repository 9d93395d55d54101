"""What the small parts of the kernel ask of an actor's cell and of its dispatcher.

A ref, a timer, a watched socket, a deferred reply and a death notice all reach back into the cell
and its dispatcher, which own them. They name these protocols instead of the two classes, so that
each of them can be read without the whole machine; the classes are in `cell` and `dispatcher`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    import contextvars
    import threading
    from collections import deque

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
