"""The mailbox of a dispatched actor, the ref by which others reach it, and the futures of answers.

Owns how messages get to an actor from any thread, how it is stopped from outside, how its end is
waited for, and `Reply`, by which it answers an ask after its handler has returned. What actors do
with messages is the cell's.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import uuid
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pykka import Actor, ActorDeadError, ActorRef, Future, Timeout

from .compat import ActorStop, Envelope, ProxiedRef
from .context import current_dispatcher, refuse_to_block
from .few import without
from .log import get_logger

if TYPE_CHECKING:
    from .compat import GetHookFunc, OptExcInfo
    from .context import CellLike, DispatcherLike


class Reply:
    """The answer to an ask that is given after the handler has returned.

    Obtained from `DispatchedActor.defer_reply`. An actor that ends without answering answers
    `ActorDeadError`. For a message that was told, not asked, answering does nothing.
    """

    __slots__ = ("_cell", "_future")

    def __init__(self, cell: CellLike, future: Future[Any] | None) -> None:
        self._cell = cell
        self._future = future

    @property
    def is_wanted(self) -> bool:
        """Whether somebody asked, and has no answer yet."""
        return self._future is not None

    def set(self, value: Any = None) -> None:
        """Answer with a value; only the first answer counts."""
        future = self._take()
        if future is not None:
            resolve(future, value)

    def fail(self, exception: BaseException) -> None:
        """Let the asker's `get()` raise `exception`; the answering actor lives on."""
        future = self._take()
        if future is not None:
            resolve_exception(future, exception)

    def _take(self) -> Future[Any] | None:
        future, self._future = self._future, None
        self._cell.replies = without(self._cell.replies, self)
        return future


T = TypeVar("T")

logger = get_logger(__name__)

# One lock for the state of all futures: held for a few assignments, never while calling out.
_state_lock = threading.Lock()


def _renew_lock() -> None:
    global _state_lock  # noqa: PLW0603 - another thread may have held it when the host forked
    _state_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class DispatchedFuture(Future[T]):
    """What `ask(..., block=False)` on a dispatched actor returns. Works as pykka documents futures.

    `get()` on a dispatcher thread raises `BlockingCallError` unless the result is there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._resolved = False
        self._value: Any = None
        self._exception: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._waiter: threading.Event | None = None
        self._callbacks: list[Callable[[DispatchedFuture[T]], object]] | None = None

    @property
    def is_resolved(self) -> bool:
        """Whether `get()` would return or raise at once."""
        return self._resolved

    def get(self, *, timeout: float | None = None) -> Any:
        """Return the value, or raise the exception, waiting for it if need be.

        Args:
            timeout: seconds to wait; None waits without end.

        Raises:
            BlockingCallError: it is not there yet, and this is a dispatcher thread.
            pykka.Timeout: it did not come in time.
        """
        if self._get_hook is not None:
            return super().get(timeout=timeout)
        if not self._resolved:
            self._wait(timeout)
        if self._exception is not None:
            raise self._exception.with_traceback(self._traceback)
        return self._value

    def _wait(self, timeout: float | None) -> None:
        refuse_to_block("Future.get()")
        with _state_lock:
            if self._resolved:
                return
            waiter = self._waiter = self._waiter or threading.Event()
        if not waiter.wait(timeout):
            msg = f"{timeout} seconds"
            raise Timeout(msg)

    def set(self, value: Any = None) -> None:
        """Resolve with a value. Raises `queue.Full` if already resolved, as pykka does."""
        self._resolve(value, None, None)

    def set_exception(self, exc_info: OptExcInfo | None = None) -> None:
        """Resolve with an exception: the given `sys.exc_info()` triple, or the current one."""
        exception_type, exception, traceback = exc_info or sys.exc_info()
        if exception is None:
            exception = (exception_type or RuntimeError)()
        self._resolve(None, exception, traceback)

    def set_get_hook(self, func: GetHookFunc[T]) -> None:
        """Compute the value with `func(timeout)` at the first `get()`."""
        with _state_lock:
            if self._resolved:
                raise queue.Full
            super().set_get_hook(func)

    def add_done_callback(self, function: Callable[[DispatchedFuture[T]], object]) -> None:
        """Call `function(self)` once resolved: at once if it is, else on the resolving thread.

        Raises:
            TypeError: the future has a get hook (`map`, `filter`, ...), so nothing resolves it.
        """
        if self._get_hook is not None:
            msg = "a derived future is never resolved by itself; use the future it came from"
            raise TypeError(msg)
        with _state_lock:
            if not self._resolved:
                self._callbacks = [*(self._callbacks or ()), function]
                return
        self._call_back(function)

    def _resolve(
        self, value: Any, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with _state_lock:
            if self._resolved or self._get_hook is not None:
                raise queue.Full
            self._value, self._exception, self._traceback = value, exception, traceback
            self._resolved = True
            waiter, callbacks = self._waiter, self._callbacks
            self._callbacks = None
        if waiter is not None:
            waiter.set()
        for function in callbacks or ():
            self._call_back(function)

    def _call_back(self, function: Callable[[DispatchedFuture[T]], object]) -> None:
        try:
            function(self)
        except BaseException:  # whoever resolves a future must not end by what waits for it
            logger.exception("callback of a future failed")


def ask_future(ref: ActorRef[Any], message: Any) -> DispatchedFuture[Any]:
    """Ask any pykka actor, a ThreadingActor too, with a future that `pipe_to_self` can take."""
    future: DispatchedFuture[Any] = DispatchedFuture()
    if ref.is_alive():
        ref.actor_inbox.put(Envelope(message, reply_to=future))
    else:
        error = ActorDeadError(f"{ref} not found")
        future.set_exception((ActorDeadError, error, None))
    return future


def resolve(future: Future[Any], value: Any) -> None:
    """Resolve a reply with a value; one that the asker has resolved itself is left as it is."""
    try:
        future.set(value)
    except queue.Full:
        logger.debug("a reply had already been set by its asker")


def resolve_exception(
    future: Future[Any], exception: BaseException, traceback: TracebackType | None = None
) -> None:
    """Resolve a reply with an exception; one that the asker has resolved is left as it is."""
    try:
        future.set_exception((type(exception), exception, traceback))
    except queue.Full:
        logger.debug("a reply had already been set by its asker")


NO_MAIL: Final[deque[Any]] = deque(maxlen=0)
"""The mail of every actor that has none; nothing stays in it. A deque of its own takes 760 bytes,
and of many actors most are idle."""


class Mailbox:
    """What waits for an actor, whether it has ended, and its URN.

    Args:
        dispatcher: the one whose thread runs the actor.
        first: what it begins with.

    Attributes:
        items: its mail, the oldest first; `NO_MAIL` when it is not queued.
        queued: it is in the run queue, in its turn, or not launched, so it need not be queued.
        ended: it takes nothing more.
        end_event: set when the actor has ended and its watchers are to be told; None until waited.
    """

    __slots__ = ("_urn", "dispatcher", "end_event", "ended", "items", "queued")

    def __init__(self, dispatcher: DispatcherLike, first: object) -> None:
        self.dispatcher = dispatcher
        self.items: deque[Any] = deque((first,))
        self.queued = True
        self.ended = False
        self.end_event: threading.Event | None = None
        self._urn: str | None = None

    def send(self, item: Any) -> bool:
        """Append to the mailbox; return False if the actor has ended."""
        dispatcher = self.dispatcher
        if get_ident() != dispatcher.thread_id:
            return dispatcher.post(self, item)
        if self.ended:
            return False
        if self.queued:
            self.items.append(item)
        else:
            try:
                self.items = items = dispatcher.spare_mail.pop()
            except IndexError:
                self.items = items = deque()
            items.append(item)
            self.queued = True
            dispatcher.run_queue.append(self)
            if dispatcher.idle:
                dispatcher.schedule_run()
        return True

    @property
    def urn(self) -> str:
        """Return the URN, which is made when it is first asked for; most actors never need one."""
        if self._urn is None:
            urn = uuid.uuid4().urn
            with self.dispatcher.lock:
                if self._urn is None:
                    self._urn = urn
        return self._urn

    def wait_ended(self, timeout: float | None) -> bool:
        """Block until ended, at most `timeout` seconds; return whether it has."""
        self.dispatcher.check_process()
        with self.dispatcher.lock:
            if self.ended:
                return True
            event = self.end_event = self.end_event or threading.Event()
        return event.wait(timeout)


class StopFlag:
    """What `actor_stopped` is for a dispatched actor: a `threading.Event` made when waited for."""

    __slots__ = ("_cell",)

    def __init__(self, cell: CellLike) -> None:
        self._cell = cell

    def is_set(self) -> bool:
        """Whether the actor has ended."""
        return self._cell.ended

    def set(self) -> None:
        """End the actor without `on_stop`, as setting pykka's event does."""
        self._cell.kill()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the actor has ended, at most `timeout` seconds; return whether it has."""
        return self._cell.wait_ended(timeout)


A = TypeVar("A", bound=Actor)


class DispatchedRef(ProxiedRef[A]):
    """Reference to a dispatched actor; safe to pass around and to use from any thread.

    As pykka's, with these differences on a dispatcher's thread: `tell` to an actor that has ended
    is counted as a dead letter and does not raise, and a blocking `ask` or `stop` raises
    `BlockingCallError` instead of a deadlock.
    """

    __slots__ = ("_cell", "actor_class")

    def __init__(self, cell: CellLike, actor_class: type[A]) -> None:
        self._cell = cell
        self.actor_class = actor_class

    @property
    def actor_urn(self) -> str:  # type: ignore[override]
        """See `pykka.Actor.actor_urn`."""
        return self._cell.urn

    @property
    def actor_inbox(self) -> Any:  # type: ignore[override]
        """See `pykka.Actor.actor_inbox`."""
        return self._cell

    @property
    def actor_stopped(self) -> StopFlag:  # type: ignore[override]
        """See `pykka.Actor.actor_stopped`; has `is_set`, `set` and `wait`."""
        return StopFlag(self._cell)

    @property
    def dispatcher(self) -> DispatcherLike:
        """The dispatcher on whose thread the actor runs."""
        return self._cell.dispatcher

    @property
    def cell(self) -> Any:
        """The actor's `ActorCell`, for the kernel."""
        return self._cell

    def held_actor(self) -> A | None:
        """Return the actor, which its cell holds until it ends. For pykka's proxies."""
        actor: A | None = self._cell.actor
        return actor

    def is_alive(self) -> bool:
        """Return whether the actor has not ended. It may end at any moment."""
        return not self._cell.ended

    def tell(self, message: Any) -> None:
        """Send without waiting for a reply.

        Raises:
            ActorDeadError: the actor has ended, and this is not a dispatcher's thread.
        """
        if not self._cell.send(message):
            dispatcher = current_dispatcher()
            if dispatcher is None:
                msg = f"{self} not found"
                raise ActorDeadError(msg)
            dispatcher.count_dead_letter(self, message)

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send and wait for the reply, or with `block=False` return a `DispatchedFuture` of it.

        Args:
            message: the message.
            block: whether to wait.
            timeout: seconds to wait; None waits without end.

        Raises:
            BlockingCallError: `block` is true on a dispatcher's thread; nothing is sent.
            pykka.Timeout: no reply in time.
            ActorDeadError: the actor has ended, or did before it replied.
            BaseException: whatever the handler raised; the actor has ended of it.
        """
        if block:
            refuse_to_block("a blocking ask")
        future: DispatchedFuture[Any] = DispatchedFuture()
        if not self._cell.send(Envelope(message, reply_to=future)):
            error = ActorDeadError(f"{self} not found")
            future.set_exception((ActorDeadError, error, None))
        return future.get(timeout=timeout) if block else future

    def stop(self, *, block: bool = True, timeout: float | None = None) -> Any:
        """Ask the actor to stop once it has handled the mail it has; see `on_stop_requested`.

        Returns:
            True once it has ended, False if it already had; with `block=False` a future of that.

        Raises:
            BlockingCallError: `block` is true on a dispatcher's thread; nothing is sent.
            pykka.Timeout: it did not end in time.
        """
        if block:
            refuse_to_block("a blocking stop")
        future: DispatchedFuture[bool] = DispatchedFuture()
        if not self._cell.send(Envelope(ActorStop(), reply_to=future)):
            future.set(False)
        return future.get(timeout=timeout) if block else future

    def kill(self) -> None:
        """End the actor in its next turn, whatever is in its mailbox.

        Neither `on_stop` nor `on_failure` is called; its timers, sockets and watches are released
        and its watchers told `KILLED`.
        """
        self._cell.kill()


def kill(ref: ActorRef[Any]) -> None:
    """Kill a dispatched actor: see `DispatchedRef.kill`.

    Raises:
        TypeError: the ref is not of a dispatched actor; a thread cannot be killed.
    """
    if not isinstance(ref, DispatchedRef):
        msg = f"{ref} is not a dispatched actor: nothing can kill a thread"
        raise TypeError(msg)
    ref.kill()
