"""A dispatcher: one thread, one event loop and a run queue of actors that have mail.

Owns the thread, the order of turns and the time that each may take. Must not know what actors do.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, cast

from pykka import ActorRef

from .cell import LAUNCH, ActorCell, kind_of
from .context import ForkGuard, current_dispatcher, set_current_dispatcher, tell_of_forks
from .counting import DispatcherStats
from .few import without
from .log import get_logger
from .loop_io import Registration, SocketReadiness, new_event_loop
from .mailbox import NO_MAIL
from .watch import KILLED

if TYPE_CHECKING:
    from .loop_io import Timer


TURNS_BETWEEN_POLLS: Final = range(1, 257)
SECONDS_BETWEEN_POLLS: Final = 0.002
TURN_SECONDS: Final = 0.005
"""A turn takes no further message after this time, since one message may be long work."""
CHECK_TIME_MASK: Final = 3
"""A turn looks at the clock behind every fourth message."""
SPARE_MAIL: Final = 16
NO_THREAD: Final = 0
"""The identity of the thread of a dispatcher that does not run. No thread has it."""

logger = get_logger(__name__)


def _end_child(*_args: object) -> NoReturn:
    """End a forked child whose only thread has nothing more to do."""
    os._exit(0)


_of_parents: Final[list[Dispatcher]] = []
"""The event loops of a forked child. They are kept, since freeing one would close it."""


def _on_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the loop. asyncio's own way would end with a log handler that raises."""
    logger.error("an event loop: %s", context.get("message"), exc_info=context.get("exception"))


class Dispatcher:
    """One OS thread, one event loop, and the actors that take turns on them.

    Args:
        name: of the thread, for logs.
        batch_messages: messages one actor may handle before the next has its turn.
        slow_turn_seconds: a turn longer than this is counted and logged.
        loop_factory: makes the event loop; the default takes uvloop's, as `uv_loop` makes it, if it
            is installed. A loop has to report an error of a socket until it was taken.
    """

    def __init__(
        self,
        name: str = "dispatcher",
        *,
        batch_messages: int = 64,
        slow_turn_seconds: float = 0.1,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop,
    ) -> None:
        if batch_messages < 1:
            msg = f"batch_messages must be at least 1, not {batch_messages}"
            raise ValueError(msg)
        self.name = name
        self.stats = DispatcherStats()
        self.loop: asyncio.AbstractEventLoop
        self._batch_messages = batch_messages
        self._slow_turn_seconds = slow_turn_seconds
        self._noted_seconds = 0.0
        """A turn that takes no longer is neither slow nor the longest so far."""
        self._loop_factory = loop_factory
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._start_error: BaseException | None = None
        # Shared with other threads; `lock` is held for a few assignments, never while calling out.
        self.lock = threading.Lock()
        self._incoming: list[tuple[ActorCell | None, Any]] = []
        self._woken = False
        self._closed = True
        self._fork_guard = ForkGuard(f"the dispatcher {name!r}")
        # The dispatcher thread's own, used by cells on that thread.
        self.thread_id = NO_THREAD
        self.run_queue: deque[ActorCell] = deque()
        self.spare_mail: deque[deque[Any]] = deque(maxlen=SPARE_MAIL)
        """Empty deques for the mail of actors that get some: making one takes a fifth of a turn."""
        self.idle = True
        """True while nothing looks at the run queue until `schedule_run` is called."""
        self._run_scheduled = False
        self._cells: dict[ActorCell, None] = {}
        self._current: ActorCell | None = None
        self.readiness: SocketReadiness
        """The sockets of actors."""
        self.timer_context: Final = contextvars.Context()
        """All timers share one context; otherwise each would keep a copy of its own."""

    def __repr__(self) -> str:
        return f"<Dispatcher {self.name!r}>"

    @staticmethod
    def current() -> Dispatcher | None:
        """Return the dispatcher whose thread this is, or None."""
        return cast("Dispatcher | None", current_dispatcher())

    def label_here(self) -> str:
        """The label of the actor whose turn this is, on this dispatcher's thread; else empty."""
        current = self._current if current_dispatcher() is self else None
        return "" if current is None else current.label

    @property
    def is_running(self) -> bool:
        """Whether actors can be started on it."""
        return not self._closed

    def mailbox_messages(self) -> int:
        """Return how many messages wait to be handled, about. Any thread."""
        # Copying a deque is one step of the interpreter: the dispatcher's thread cannot interfere.
        waiting = sum([len(cell.items) for cell in self.run_queue.copy()])
        return waiting + len(self._incoming)

    # Start and stop: any thread but its own.

    def start(self) -> Self:
        """Start the thread; return when it takes actors.

        Raises:
            RuntimeError: it was started before; a dispatcher runs once.
        """
        if self._thread is not None:
            msg = f"{self} has been started before; make a new one"
            raise RuntimeError(msg)
        self._thread = threading.Thread(target=self._run_thread, name=self.name, daemon=True)
        self._thread.start()
        self._started.wait()
        if self._start_error is not None:
            self._thread.join()
            raise self._start_error
        return self

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Kill the actors that are left, end the thread, close the loop. A second call is harmless.

        Raises:
            RuntimeError: called on the dispatcher's own thread, or in a forked child.
            TimeoutError: a turn has been running for `timeout_seconds`; it goes on.
        """
        if self._thread is None:
            return
        if get_ident() == self.thread_id:
            msg = f"{self} cannot be stopped from its own thread"
            raise RuntimeError(msg)
        self.post(None, (self._shut_down, ()))
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            current = self._current
            busy = current.actor_class.__name__ if current is not None else "a callback"
            msg = f"{self} did not stop in {timeout_seconds} s: a turn of {busy} is still running"
            raise TimeoutError(msg)

    def __enter__(self) -> Self:
        return self.start() if self._thread is None else self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._fork_guard.is_foreign:
            self.stop()

    def _run_thread(self) -> None:
        try:
            self.loop = loop = self._loop_factory()
        except BaseException as exception:  # noqa: BLE001 - raised again by start()
            self._start_error = exception
            self._started.set()
            return
        self.readiness = SocketReadiness(loop, self._socket_ready)
        self.thread_id = get_ident()
        set_current_dispatcher(self)
        tell_of_forks(self)
        self._closed = False
        loop.set_exception_handler(_on_loop_error)
        loop.call_soon(self._started.set)
        try:
            while not (self._closed or loop.is_closed()):
                self._run_loop(loop)
        finally:
            set_current_dispatcher(None)
            if not self._fork_guard.is_foreign:
                self._shut_down()
                self.thread_id = NO_THREAD
                loop.close()

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run until the dispatcher is stopped, or a callback raised what ends event loops."""
        try:
            loop.run_forever()
        except BaseException:  # every actor would be gone with the thread
            logger.exception("the event loop of %s was ended, and goes on", self)

    def forget_parent(self) -> None:
        """Do nothing any more, in a child that the host has forked.

        Nothing may touch the event loop: its descriptors are the parent's as well, and closing it
        would take the parent's own wake-up off the list of what is polled.
        """
        _of_parents.append(self)
        was_here = get_ident() == self.thread_id
        self.lock = threading.Lock()
        self._closed = True
        self.thread_id = NO_THREAD
        self._incoming = []
        self.run_queue.clear()
        for cell in self._cells:
            # Emptied as well: the turn that forked has it in hand, and would go on with it.
            cell.items.clear()
            cell.items = NO_MAIL
        self._cells.clear()
        if was_here:
            # The host has forked in one of its actors: when that handler returns, nothing can
            # follow in the child. The event loop is the parent's.
            set_current_dispatcher(None)
            self._after_event = self._run_ended = _end_child  # type: ignore[method-assign,assignment]

    def check_process(self) -> None:
        """Raise in a child that was forked from the process in which this runs.

        Raises:
            ForkedProcessError: it is one.
        """
        if self._started.is_set():
            self._fork_guard.check()

    def _shut_down(self) -> None:
        with self.lock:
            self._closed = True
            incoming, self._incoming = self._incoming, []
        for alive in reversed(list(self._cells)):
            alive.exit_reason = KILLED
            alive.end()
        for cell, item in incoming:
            self._refuse_incoming(cell, item)
        self.run_queue.clear()
        self.loop.stop()

    def _refuse_incoming(self, cell: ActorCell | None, item: Any) -> None:
        if cell is None:
            return
        if not cell.ended:
            cell.exit_reason = KILLED
            cell.end()
        cell.refuse(item)

    # The way in from other threads.

    def post(self, cell: ActorCell | None, item: Any) -> bool:
        """Hand an item to an actor of this dispatcher from another thread.

        With None for the cell, the item is a function and its arguments, to be called.

        Returns:
            False if the actor has ended or the dispatcher stopped.

        Raises:
            ForkedProcessError: the process is a forked child.
        """
        self.check_process()
        with self.lock:
            if self._closed or (cell is not None and cell.ended):
                return False
            self._incoming.append((cell, item))
            if self._woken:
                return True
            self._woken = True
        try:
            self.loop.call_soon_threadsafe(self._take_incoming)
        except RuntimeError:
            # The loop was closed between the two; what it left has been refused.
            logger.debug("%s was stopped while a message came in", self)
        return True

    def _take_incoming(self) -> None:
        with self.lock:
            incoming, self._incoming = self._incoming, []
            self._woken = False
        self.idle = False
        for cell, item in incoming:
            if cell is None:
                function, args = item
                self._call_guarded(function, args)
            else:
                cell.deliver(item)
        # The traceback of a failure may keep this frame: not the messages with it.
        del incoming
        cell = item = None
        self._after_event(monotonic())

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Run `function(*args)` on the dispatcher's thread; an exception is logged. Any thread.

        Raises:
            RuntimeError: the dispatcher does not run.
        """
        if get_ident() == self.thread_id:
            self.loop.call_soon(self._run_function, function, args)
        elif not self.post(None, (function, args)):
            msg = f"{self} does not run"
            raise RuntimeError(msg)

    def _run_function(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.idle = False
        self._call_guarded(function, args)
        # As above.
        del function, args
        self._after_event(monotonic())

    def _call_guarded(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            function(*args)
        except BaseException:  # a dispatcher outlives whatever is called on it
            logger.exception("a function called on %s failed", self)

    # Actors.

    def launch(self, cell: ActorCell) -> None:
        """Give a new actor its first turn. Any thread.

        Raises:
            RuntimeError: the dispatcher does not run.
        """
        if get_ident() == self.thread_id:
            self._launch(cell)
        elif not self.post(cell, LAUNCH):
            msg = f"{self} does not run: call start() first, and start no actors after stop()"
            raise RuntimeError(msg)

    def _launch(self, cell: ActorCell) -> None:
        self._cells[cell] = None
        self.stats.actors_started += 1
        self.stats.actors_alive += 1
        self.run_queue.append(cell)
        if self.idle:
            self.schedule_run()

    def forget(self, cell: ActorCell) -> None:
        """Drop an actor that has ended."""
        if cell in self._cells:
            del self._cells[cell]
            self.stats.actors_alive -= 1

    def count_failure(self, actor_class_name: str) -> None:
        """Count an unhandled exception of an actor."""
        failures = self.stats.actor_failures
        failures[actor_class_name] = failures.get(actor_class_name, 0) + 1

    def count_dead_letter(self, ref: ActorRef[Any], message: Any) -> None:
        """Count a message that nobody will handle. Its content is not logged."""
        self.stats.dead_letters += 1
        logger.debug("dead letter: %s to %s", type(message).__name__, ref.actor_class.__name__)

    # Sockets and timers.

    def _socket_ready(self, registration: Registration) -> None:
        cell = registration.cell
        if cell.ended:
            return
        self.idle = False
        self._current = cell
        method = registration.method
        started = monotonic()
        try:
            method()
        except BaseException as exception:  # noqa: BLE001 - ends the actor, whatever it is
            cell.fail(exception)
        if cell.exit_reason is not None:
            cell.end()
        self.stats.turns += 1
        ended = monotonic()
        if ended - started > self._noted_seconds:
            self._note_long_turn(cell, method, 0, ended - started)
        # A traceback may keep this frame: not the actor with it.
        del method, registration
        self._after_event(ended)

    def timer_fired(self, cell: ActorCell, timer: Timer) -> None:
        """Put a timer whose time is up into its actor's mailbox."""
        self.idle = False
        cell.timers = without(cell.timers, timer)
        cell.send(timer)
        self._after_event(monotonic())

    # Turns.

    def schedule_run(self) -> None:
        """Look at the run queue once the loop has polled."""
        self.idle = False
        self._run_scheduled = True
        self.loop.call_soon(self._scheduled_run)

    def _scheduled_run(self) -> None:
        self._run_scheduled = False
        self._run_turns(monotonic())

    def _after_event(self, now: float) -> None:
        # When a run is scheduled the queue is saturated: its turns come after the poll, once.
        if not self._run_scheduled:
            self._run_turns(now)
        elif self.readiness.fresh:
            self.readiness.drop_stale()

    def _run_turns(self, now: float) -> None:
        run_queue = self.run_queue
        deadline = now + SECONDS_BETWEEN_POLLS
        turns = 0
        try:
            if run_queue:
                for turns in TURNS_BETWEEN_POLLS:  # noqa: B007 - is added up below
                    now = self._turn(run_queue.popleft(), now)
                    if not run_queue or now >= deadline:
                        break
        finally:
            self.stats.turns += turns
            self._run_ended()

    def _run_ended(self) -> None:
        self._current = None
        if self.readiness.fresh:
            self.readiness.drop_stale()
        if self.run_queue:
            self.schedule_run()
        else:
            self.idle = True

    def _turn(self, cell: ActorCell, started: float) -> float:
        """Handle a batch of one actor's mail; return the time at its end."""
        actor = cell.actor
        if actor is None:
            return started
        self._current = cell
        items = cell.items
        find, otherwise = actor.HANDLING
        item: Any = None
        handled = 0
        try:
            while items:
                item = items.popleft()
                handled += 1
                find(type(item), otherwise)(actor, item)
                if not items or cell.exit_reason is not None or handled == self._batch_messages:
                    break
                if not handled & CHECK_TIME_MASK and monotonic() > started + TURN_SECONDS:
                    break
        except BaseException as exception:  # noqa: BLE001 - ends the actor, whatever it is
            cell.fail(exception)
        if cell.exit_reason is not None:
            cell.end()
        elif items:
            self.run_queue.append(cell)
        else:
            cell.queued = False
            cell.items = NO_MAIL
            self.spare_mail.append(items)
        self.stats.messages_handled += handled
        ended = monotonic()
        if ended - started > self._noted_seconds:
            self._note_long_turn(cell, item, handled, ended - started)
        # A traceback may keep this frame: not the actor, nor the message, with it.
        actor = item = None
        return ended

    def _note_long_turn(self, cell: ActorCell, item: Any, handled: int, seconds: float) -> None:
        stats, slow_seconds = self.stats, self._slow_turn_seconds
        stats.longest_turn_seconds = max(stats.longest_turn_seconds, seconds)
        self._noted_seconds = min(stats.longest_turn_seconds, slow_seconds)
        if seconds <= slow_seconds:
            return
        stats.slow_turns += 1
        logger.warning(
            "slow turn: %s took %.3f s for %d message(s), the last a %s; "
            "every actor of %s waited meanwhile",
            cell.actor_class.__name__,
            seconds,
            handled,
            kind_of(item),
            self,
        )
