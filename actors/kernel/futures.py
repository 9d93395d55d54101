"""Futures of the kernel, and how a handler answers later.

Owns `Reply`, which an actor keeps to answer an ask after its handler has returned, and the small
steps with pykka's futures: resolving one that somebody else may have resolved, and telling somebody
who waits that nobody will answer. Must not know actors or dispatchers.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from pykka import ActorDeadError, ActorRef, Future, Timeout

from .compat import Envelope
from .context import refuse_to_block
from .log import get_logger

if TYPE_CHECKING:
    from .compat import GetHookFunc, OptExcInfo
    from .context import CellLike


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
        if self._cell.replies is not None:
            self._cell.replies.discard(self)
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
