"""Lets a host's ThreadingActors watch and be watched.

Owns the mix-in that finds out how a ThreadingActor ended, which pykka does not tell. Must not know
supervisors.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

from pykka import ActorRef, ThreadingActor

from .reasons import KILLED, SHUTDOWN, ExitReason
from .watch import start_watching, stop_watching, tell_terminated

if TYPE_CHECKING:
    from types import TracebackType


class _Book:
    """Who watches one actor; shared by threads."""

    __slots__ = ("lock", "reason", "told", "watchers")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.watchers: set[ActorRef[Any]] = set()
        self.reason: ExitReason | None = None
        self.told = False


_making_books = threading.Lock()


class TerminationReporter(ThreadingActor):
    """Mix-in for a ThreadingActor that a dispatched actor is to watch or supervise.

    Put it before `ThreadingActor` among the bases:

        class Camera(TerminationReporter, pykka.ThreadingActor): ...

    Its watchers are told once, when its thread is through: `SHUTDOWN` after a stop, else `FAILED`.
    The rules for failures stay pykka's own: an exception under `ask` does not end it, and a
    BaseException makes pykka stop every actor in the registry.

    With the mix-in it can also watch others, and gets `Terminated` in its `on_receive`.
    """

    _termination_book: _Book | None = None

    def watch(self, ref: ActorRef[Any]) -> None:
        """Have `Terminated(ref, reason)` sent to this actor once, when the other has ended.

        Raises:
            TypeError: the other is a ThreadingActor without this mix-in.
        """
        start_watching(ref, self.actor_ref)

    def unwatch(self, ref: ActorRef[Any]) -> None:
        """Undo `watch`. A message that is in the inbox already is still handled."""
        stop_watching(ref, self.actor_ref)

    def add_watcher(self, watcher: ActorRef[Any]) -> bool:
        """Tell `watcher` when this actor has ended; return False if it has. Any thread."""
        book = self._book()
        with book.lock:
            if book.told:
                return False
            book.watchers.add(watcher)
            return True

    def remove_watcher(self, watcher: ActorRef[Any]) -> None:
        """Undo `add_watcher`. Any thread."""
        book = self._book()
        with book.lock:
            book.watchers.discard(watcher)

    def _book(self) -> _Book:
        # Made when first needed, as a host's constructor may not call this class's.
        with _making_books:
            if self._termination_book is None:
                self._termination_book = _Book()
            return self._termination_book

    def _handle_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exception_value is not None:
            self._book().reason = ExitReason.failed(exception_value)
        super()._handle_failure(exception_type, exception_value, traceback)

    def _stop(self) -> None:
        fatal = sys.exc_info()[1]
        book = self._book()
        book.reason = SHUTDOWN if fatal is None else ExitReason.failed(fatal)
        super()._stop()
        if fatal is not None:
            # pykka now stops every actor and waits for them, our watchers perhaps: tell them first.
            self._tell_watchers()

    def _actor_loop(self) -> None:
        book = self._book()
        try:
            super()._actor_loop()
        except BaseException as exception:
            book.reason = ExitReason.failed(exception)
            self.actor_stopped.set()
            raise
        finally:
            self._tell_watchers()

    def _tell_watchers(self) -> None:
        book = self._book()
        with book.lock:
            if book.told:
                return
            book.told = True
            watchers = list(book.watchers)
        for watcher in watchers:
            tell_terminated(watcher, self.actor_ref, book.reason or KILLED)
