"""What runs a runtime, from its one start to its end, however it ends.

Owns the threads (dispatchers, connector), the root supervisor, the order in which they start and
end, and the forced end of what does not stop in time. It must not know what a tunnel does, nor that
a host may make another runtime in place of one that failed: it only calls `hand_over` then.

An engine runs once, and is in one `EnginePhase` at a time:

    NEW ----- start ----> RUNNING
     |                       |
     | stop                  | stop, or the root ends by itself
     v                       v
    STOPPING <---------------'
     |
     `-- the threads are over, and so are the tunnels or another engine has them --> ENDED

Whoever takes it to STOPPING ends it; all others wait for ENDED. Lock: `_phase_changed`, held for a
start and for a change of the phase, never while an end waits for something. What other threads
read without it (`dispatchers`, `supervisor`, `parts`) is as it is at that moment.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import pykka
from pykka import ActorRef

from tunnelfleet.actors.callbacks import RelayThreads
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import (
    BlockingCallError,
    ChildSpec,
    DeleteChild,
    DispatchedFuture,
    DispatchedRef,
    Dispatcher,
    ExitReason,
    ForkGuard,
    StopChild,
    ask_future,
)
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.tunnel.context import Services, TunnelParts
from tunnelfleet.proto import TunnelClosed, TunnelError, counted

from .supervisor import RuntimeSupervisor, tunnel_child_id
from .tunnel import make_parts

if TYPE_CHECKING:
    from .metrics import DispatcherMeter
    from .registry import TunnelRegistry
    from .tunnel import Tunnel, TunnelStatus


logger = get_logger(__name__)


class EnginePhase(enum.Enum):
    """Where an engine is in its one run."""

    NEW = "new"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


_HAS: Final = {EnginePhase.STOPPING: "begun to stop", EnginePhase.ENDED: "ended"}
_CANNOT_START: Final = {
    EnginePhase.RUNNING: "the runtime is running already: start it once",
    EnginePhase.STOPPING: (
        "the runtime is still stopping, and a runtime runs once: make a new TunnelRuntime"
    ),
    EnginePhase.ENDED: (
        "the runtime has ended, and a runtime runs once: make a new TunnelRuntime and start that"
    ),
}


FORCED_END_SECONDS = 30.0
"""What a dispatcher has to end the actors that are left; it takes longer than one turn."""
NAMED_TUNNELS = 5
"""How many tunnels a log line names."""
CALLBACK_SECONDS = 5.0
"""What callbacks have to return when the runtime ends by itself."""


class Engine:
    """The threads and the root of a runtime. Making one starts nothing. Any thread.

    Args:
        services: what the root keeps up to date.
        kernel: told of the dispatchers.
        registry: the tunnels; they are over when the engine is, unless another takes them over.
        threads: those on which callbacks run.
        dispatchers: how many there are.
        connect_concurrency: threads that connect.
    """

    def __init__(
        self,
        services: Services,
        kernel: DispatcherMeter,
        registry: TunnelRegistry,
        threads: RelayThreads,
        *,
        dispatchers: int = 1,
        connect_concurrency: int = 4,
    ) -> None:
        self._services = services
        self._kernel = kernel
        self._registry = registry
        self.threads = threads
        """The threads on which callbacks run."""
        self._dispatcher_count = dispatchers
        self._connect_concurrency = connect_concurrency
        self._phase_changed = threading.Condition()
        self._phase = EnginePhase.NEW
        self._hand_over: Callable[[], object] | None = None
        """Gives the tunnels to another engine if this one fails; None: they end with it."""
        self._connector: Connector | None = None
        self._parts: TunnelParts | None = None
        self._root: DispatchedRef[Any] | None = None
        self._fork_guard: ForkGuard | None = None
        self.dispatchers: list[Dispatcher] = []
        """The dispatchers that run; none before the start and after the end."""

    def renewed(self) -> Engine:
        """Another one, not started, with the same tunnels, counters and settings."""
        threads = self.threads
        return Engine(
            self._services,
            self._kernel,
            self._registry,
            RelayThreads(totals=threads.totals) if threads.is_closed else threads,
            dispatchers=self._dispatcher_count,
            connect_concurrency=self._connect_concurrency,
        )

    # -- looking

    @property
    def phase(self) -> EnginePhase:
        """Where it is in its run."""
        return self._phase

    @property
    def is_foreign(self) -> bool:
        """Whether it runs in the process that this one was forked from."""
        return self._fork_guard is not None and self._fork_guard.is_foreign

    def check_process(self) -> None:
        """Raise `ForkedProcessError` if it runs in the process that this one was forked from."""
        if self._fork_guard is not None:
            self._fork_guard.check()

    def require_running(self) -> None:
        """Raise `TunnelClosed` if it does not run, `ForkedProcessError` if it does elsewhere."""
        self.check_process()
        if self._phase is not EnginePhase.RUNNING:
            raise self.not_running()

    @property
    def supervisor(self) -> DispatchedRef[Any]:
        """The root; it may have ended already while the engine is stopping.

        Raises:
            TunnelClosed: it does not run.
            ForkedProcessError: it runs in the process that this one was forked from.
        """
        self.check_process()
        root = self._root
        if root is None:
            raise self.not_running()
        return root

    @property
    def parts(self) -> TunnelParts:
        """What a tunnel without a client API is made of: the same for all of one run.

        Raises:
            TunnelClosed: it does not run.
        """
        parts = self._parts
        if parts is None:
            raise self.not_running()
        return parts

    def dispatcher(self, number: int) -> Dispatcher:
        """Return the dispatcher of that number.

        Raises:
            TunnelClosed: it does not run.
        """
        dispatchers = self.dispatchers
        if not dispatchers:
            raise self.not_running()
        return dispatchers[number]

    def not_running(self) -> TunnelClosed:
        """Return the error for whoever needs it to run: it says what to do."""
        if self._phase in (EnginePhase.NEW, EnginePhase.RUNNING):
            return TunnelClosed("the runtime is not running: call start() first")
        return TunnelClosed(
            f"the runtime is not running: it has {_HAS[self._phase]}, and a runtime runs once; "
            "make a new TunnelRuntime, or use its `present` where a supervisor makes one"
        )

    # -- start

    def start(
        self,
        make_children: Callable[[Engine], list[ChildSpec]],
        hand_over: Callable[[], object] | None = None,
    ) -> DispatchedRef[Any]:
        """Start the threads, then the root.

        Args:
            make_children: called with this engine, whose threads run by then.
            hand_over: called when it has failed and its threads are over, in place of ending the
                tunnels; for a runtime that a host's supervisor starts again. None: the root is one
                of its own, and so in pykka's registry.

        Returns:
            The root.

        Raises:
            TunnelError: it was started before, or the system has no descriptors or threads left.
                In the second case nothing runs, and a start may be tried again.
            ForkedProcessError: it runs in the process that this one was forked from.
        """
        self.check_process()
        with self._phase_changed:
            if self._phase is not EnginePhase.NEW:
                raise TunnelError(_CANNOT_START[self._phase])
            try:
                root = self._start_root(make_children, register=hand_over is None)
            except BaseException:
                # Not half of it: what has begun is ended.
                self._end_threads()
                self._root = self._fork_guard = None
                raise
            self._hand_over = hand_over
            self._phase = EnginePhase.RUNNING
        return root

    def _start_root(
        self, make_children: Callable[[Engine], list[ChildSpec]], *, register: bool
    ) -> DispatchedRef[Any]:
        self._fork_guard = ForkGuard("the runtime")
        self._connector = Connector(self._connect_concurrency)
        self._parts = make_parts(self._connector)
        try:
            for number in range(self._dispatcher_count):
                self.dispatchers.append(Dispatcher(f"tunnelfleet-{number}").start())
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TunnelError(
                f"cannot start the threads of the runtime: {reason}: "
                "raise the limits of open files and threads"
            ) from error
        for dispatcher in self.dispatchers:
            self._kernel.attach(dispatcher)
        self._root = root = RuntimeSupervisor.start(
            self._services,
            make_children(self),
            self._on_root_ended,
            dispatcher=self.dispatchers[0],
            register=register,
        )
        return root

    # -- end

    def stop(self, timeout_seconds: float) -> None:
        """End it: the actors in good order, within the time, then the threads. Safe to call twice.

        Callbacks that return take their part of the time. What is late is ended by force, and a
        warning in the log names it. After a second call with less time that holds for both.

        Raises:
            BlockingCallError: a dispatcher's thread called it; nothing has happened.
            ForkedProcessError: it runs in the process that this one was forked from.
        """
        self.check_process()
        is_running = self._phase in (EnginePhase.RUNNING, EnginePhase.STOPPING)
        if is_running and Dispatcher.current() is not None:
            raise BlockingCallError(
                "stop() waits for actors, and this is a thread that runs them: stop the runtime "
                "by its actor_ref, or on another thread"
            )
        deadline = time.monotonic() + timeout_seconds
        with self._phase_changed:
            is_ours = self._phase in (EnginePhase.NEW, EnginePhase.RUNNING)
            if is_ours:
                self._phase = EnginePhase.STOPPING
            if self._phase is EnginePhase.STOPPING:
                # Its user has ended it: a failure meanwhile changes nothing in that.
                self._hand_over = None
        if is_ours:
            try:
                self._stop_root(timeout_seconds)
            finally:
                self._end(_left(deadline))
        else:
            self._wait_for_end(timeout_seconds, deadline)

    def _stop_root(self, timeout_seconds: float) -> bool:
        """End the actors in good order; return whether they ended within the time."""
        root = self._root
        try:
            if root is not None:
                root.stop(block=True, timeout=timeout_seconds)
        except pykka.Timeout:
            self._warn_of_force(timeout_seconds)
            return False
        return True

    def _wait_for_end(self, timeout_seconds: float, deadline: float) -> None:
        root = self._root
        if not self._stop_root(timeout_seconds) and root is not None:
            # Whoever stops it gives it more time than this caller does.
            root.kill()
        if self.threads.runs_here:
            # A callback may end the runtime, but not wait for an end that waits for callbacks.
            return
        with self._phase_changed:
            has_ended = self._phase_changed.wait_for(
                lambda: self._phase is EnginePhase.ENDED,
                min(_left(deadline), threading.TIMEOUT_MAX),
            )
        if not has_ended:
            logger.warning("an end of the runtime is still under way, and goes on")
        elif self._hand_over is None:
            # If it was a callback that ended it, that one has not waited for itself.
            self.threads.close(_left(deadline))

    def _warn_of_force(self, seconds: float) -> None:
        tunnels = self._registry.tunnels()
        late = [each.name for each in tunnels if each.stats.state is not TunnelState.STOPPED]
        names = ", ".join(late[:NAMED_TUNNELS]) + (", ..." if len(late) > NAMED_TUNNELS else "")
        logger.warning(
            "the runtime had not stopped after %g s, and is ended by force, with %d of %s "
            "(%s): what they had read may not have been sent; give stop() more time",
            seconds,
            len(late),
            counted(len(tunnels), "tunnel"),
            names or "none",
        )

    def _on_root_ended(self, reason: ExitReason) -> None:
        """The actors are over, whoever ended them: so is the rest, on a thread that may wait."""
        with self._phase_changed:
            if self._phase is EnginePhase.ENDED:
                # On a thread that was left behind; another engine may have the tunnels by now.
                return
            is_ours = self._phase is EnginePhase.RUNNING
            self._phase = EnginePhase.STOPPING
            if reason.is_normal:
                self._hand_over = None
            is_final = self._hand_over is None
        if is_final:
            self._registry.finish()
        if is_ours:
            threading.Thread(
                target=self._end, args=(CALLBACK_SECONDS,), name="tunnelfleet-end", daemon=True
            ).start()

    def _end(self, callback_seconds: float) -> None:
        """End the threads, then the tunnels; for whoever took it to STOPPING."""
        try:
            self._end_threads()
            with self._phase_changed:
                if self._hand_over is not None:
                    self._mark_tunnels(TunnelState.BACKOFF, "its runtime has failed")
                    # Nobody may see the end before another has the tunnels.
                    self._hand_over()
                    self._enter_ended()
                    return
            self._mark_tunnels(TunnelState.STOPPED, "its runtime has ended")
            self._registry.finish()
            self.threads.close(callback_seconds)
            self._registry.clear()
        finally:
            self._enter_ended()

    def _mark_tunnels(self, state: TunnelState, reason: str) -> None:
        # Actors that were killed have not said so, and their tunnels would look connected.
        for tunnel in self._registry.tunnels():
            if tunnel.stats.state is not TunnelState.STOPPED:
                tunnel.stats.enter(state, reason)

    def _enter_ended(self) -> None:
        with self._phase_changed:
            self._phase = EnginePhase.ENDED
            self._root = self._fork_guard = None
            self._phase_changed.notify_all()

    def _end_threads(self) -> None:
        """End the threads, and by force the actors that are left."""
        dispatchers, self.dispatchers = self.dispatchers, []
        for dispatcher in dispatchers:
            try:
                dispatcher.stop(FORCED_END_SECONDS)
            except TimeoutError as error:
                # Whatever else the runtime has must end all the same.
                logger.error("a thread of the runtime is left behind: %s", error)
        connector, self._connector, self._parts = self._connector, None, None
        if connector is not None:
            connector.close()
            self._kernel.retire()

    # -- one tunnel

    def begin_close(self, tunnel: Tunnel) -> Future[TunnelStatus]:
        """Have a tunnel closed: see `begin_close`.

        Raises:
            TunnelClosed: it does not run.
        """
        with self._phase_changed:
            is_waiting = self._phase is EnginePhase.NEW
            if is_waiting:
                # It has outlived a runtime that failed. A start that comes now leaves it out.
                self._registry.remove(tunnel)
        if not is_waiting:
            return begin_close(tunnel, self.supervisor, self._registry)
        tunnel.finish()
        closed: Future[TunnelStatus] = Future()
        closed.set_result(tunnel.status())
        return closed


def begin_close(
    tunnel: Tunnel, supervisor: ActorRef[Any], registry: TunnelRegistry
) -> Future[TunnelStatus]:
    """Have a tunnel closed.

    Args:
        tunnel: the tunnel.
        supervisor: the root that it is a child of.
        registry: that it is removed from.

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
        registry.remove(tunnel)
        tunnel.finish()
        closed.set_result(tunnel.status())

    ask_future(supervisor, StopChild(child_id)).add_done_callback(on_stopped)
    return closed


MIN_CALLBACK_SECONDS = 1.0


def _left(deadline: float) -> float:
    """Return what callbacks have until then, and at least a moment."""
    return max(deadline - time.monotonic(), MIN_CALLBACK_SECONDS)
