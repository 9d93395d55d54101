"""The lives of a runtime, from `start` to its end, however it ends.

Owns the order in which a runtime starts and closes, who may end it, and the forced end of what does
not stop in time. Must not know tunnels.
"""

from __future__ import annotations

import functools
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pykka

from tunnelfleet.actors.callbacks import RelayThreads
from tunnelfleet.actors.kernel import (
    BlockingCallError,
    DeleteChild,
    Dispatcher,
    StopChild,
    ask_future,
)
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.state import TunnelState
from tunnelfleet.proto import TunnelError

from .supervisor import tunnel_child_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka import ActorRef

    from tunnelfleet.actors.callbacks import CallbackTotals
    from tunnelfleet.actors.kernel import ChildSpec, DispatchedFuture, DispatchedRef, ExitReason

    from .engine import Engine
    from .registry import TunnelBook
    from .tunnel import Tunnel, TunnelStatus

__all__ = [
    "RuntimeLife",
    "begin_close",
]


def begin_close(
    tunnel: Tunnel, supervisor: ActorRef[Any], book: TunnelBook
) -> Future[TunnelStatus]:
    """Have a tunnel closed.

    Args:
        tunnel: the tunnel.
        supervisor: the root that it is a child of.
        book: that it is struck out of.

    Returns:
        What it looked like at its end; done-callbacks run on a thread of the runtime.
    """
    child_id = tunnel_child_id(tunnel.name)
    closed: Future[TunnelStatus] = Future()

    def on_stopped(_reply: DispatchedFuture[Any]) -> None:
        # Everything of it is over: a failed reply says that the runtime is as well.
        reply = ask_future(supervisor, DeleteChild(child_id))
        reply.add_done_callback(on_deleted)

    def on_deleted(_reply: DispatchedFuture[Any]) -> None:
        # Its name is free before its user hears of the end: they may start it again.
        book.remove(tunnel)
        tunnel.finish()
        closed.set_result(tunnel.status())

    ask_future(supervisor, StopChild(child_id)).add_done_callback(on_stopped)
    return closed


NAMED_TUNNELS = 5
"""How many tunnels a log line names."""
CALLBACK_SECONDS = 5.0
"""What callbacks have to return when the runtime ends by itself."""
MIN_CALLBACK_SECONDS = 1.0

logger = get_logger(__name__)


class RuntimeLife:
    """Starts and ends a runtime, any number of times. Any thread.

    Args:
        make_engine: makes the engine of one life, not started.
        make_children: the root's children when an engine starts.
        book: the tunnels; an end that is final strikes them out.
        totals: counts the callbacks of all lives.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        make_children: Callable[[Engine], list[ChildSpec]],
        book: TunnelBook,
        totals: CallbackTotals,
    ) -> None:
        self._make_engine = make_engine
        self._make_children = make_children
        self._book = book
        self._totals = totals
        self._turns = threading.Condition()
        self._has_turn = False
        self._stopping: Engine | None = None
        """The last that a stop() has asked to end; the stop ends its threads too."""
        self._ended: Engine | None = None
        """The last whose end was final, and is over."""
        self._is_child = False
        """A supervisor of the host starts it again when it has failed."""
        self.engine = make_engine()
        """Of this life, or else of the last one; what belongs to it must not end the next."""
        self.threads = RelayThreads(totals=totals)
        """Those on which callbacks run."""

    def start(self, *, register: bool = True) -> DispatchedRef[Any]:
        """Start the threads and the root supervisor, with the tunnels that are in the book.

        Returns:
            The root.

        Raises:
            TunnelError: it runs already, or is still stopping.
            ForkedProcessError: it runs in the process that this one was forked from.
        """
        self.engine.check_process()
        with self._turns:
            if self._has_turn:
                raise TunnelError("the runtime is still stopping: start it when it has stopped")
            if self.engine.is_running:
                raise TunnelError("the runtime is running already: start it once")
            self._has_turn = True
        try:
            return self._start(register=register)
        finally:
            self._end_turn()

    def start_as_child(self) -> DispatchedRef[Any]:
        """The same for a host's supervisor: a failure is not the end, it is started again."""
        self._is_child = True
        return self.start(register=False)

    def _start(self, *, register: bool) -> DispatchedRef[Any]:
        engine = self.engine = self._make_engine()
        if self.threads.is_closed:
            self.threads = RelayThreads(totals=self._totals)
        on_ended = functools.partial(self._on_supervisor_ended, engine)
        return engine.start(self._make_children, on_ended, register=register)

    def stop(self, timeout_seconds: float) -> None:
        """End it: the actors in good order, within the time, then the threads. Safe to call twice.

        Callbacks that return take their part of the time. What is late is ended by force, and a
        warning in the log names it.

        Raises:
            BlockingCallError: a dispatcher's thread called it; nothing has happened.
            ForkedProcessError: it runs in the process that this one was forked from.
        """
        engine, threads = self.engine, self.threads
        engine.check_process()
        if Dispatcher.current() is not None and engine.is_running:
            raise BlockingCallError(
                "stop() waits for actors, and this is a thread that runs them: stop the runtime "
                "by its actor_ref, or on another thread"
            )
        deadline = time.monotonic() + timeout_seconds
        self._is_child = False
        self._stopping = engine
        try:
            engine.stop(timeout_seconds)
        except pykka.Timeout:
            self._warn_of_force(timeout_seconds)
        finally:
            callback_seconds = max(deadline - time.monotonic(), MIN_CALLBACK_SECONDS)
            was_ended_here = self._end(engine, callback_seconds, wait_seconds=callback_seconds)
            if not was_ended_here and not threads.runs_here:
                # A callback ended it: it has not waited for itself.
                threads.close(max(deadline - time.monotonic(), MIN_CALLBACK_SECONDS))

    def _warn_of_force(self, seconds: float) -> None:
        tunnels = self._book.tunnels()
        late = [each.name for each in tunnels if each.stats.state is not TunnelState.STOPPED]
        names = ", ".join(late[:NAMED_TUNNELS]) + (", ..." if len(late) > NAMED_TUNNELS else "")
        logger.warning(
            "the runtime had not stopped after %g s, and is ended by force, with %d of %d tunnels "
            "(%s): what they had read may not have been sent; give stop() more time",
            seconds,
            len(late),
            len(tunnels),
            names or "none",
        )

    def _on_supervisor_ended(self, engine: Engine, reason: ExitReason) -> None:
        """The actors are over, whoever ended them: so is the rest, on a thread that may wait."""
        is_final = reason.is_normal or not self._is_child
        if is_final:
            self._book.finish()
        if self._stopping is engine:
            return
        threading.Thread(
            target=self._end,
            args=(engine, CALLBACK_SECONDS),
            kwargs={"is_final": is_final},
            name="tunnelfleet-end",
            daemon=True,
        ).start()

    def _end(
        self,
        engine: Engine,
        callback_seconds: float,
        *,
        is_final: bool = True,
        wait_seconds: float | None = None,
    ) -> bool:
        """End the threads of one life, unless another has; from any thread that may wait.

        Args:
            engine: of that life.
            callback_seconds: what callbacks have to return.
            is_final: whether no host starts it again.
            wait_seconds: for an end that is under way elsewhere; None waits for as long as it
                takes.

        Returns:
            Whether it was done here.
        """
        if not self._take_turn_to_end(engine, wait_seconds):
            return False
        try:
            engine.end()
            if is_final:
                self._book.finish()
                self.threads.close(callback_seconds)
                self._book.clear()
                self._ended = engine
        finally:
            self._end_turn()
        return True

    def _take_turn_to_end(self, engine: Engine, wait_seconds: float | None) -> bool:
        deadline = time.monotonic() + (
            threading.TIMEOUT_MAX if wait_seconds is None else wait_seconds
        )
        with self._turns:
            while self._has_turn:
                # A callback may end the runtime, but not wait for an end that waits for callbacks.
                if self.threads.runs_here:
                    return False
                left_seconds = deadline - time.monotonic()
                if left_seconds <= 0:
                    logger.warning("an end of the runtime is still under way, and goes on")
                    return False
                self._turns.wait(min(left_seconds, threading.TIMEOUT_MAX))
            self._has_turn = self.engine is engine and self._ended is not engine
            return self._has_turn

    def _end_turn(self) -> None:
        with self._turns:
            self._has_turn = False
            self._turns.notify_all()
