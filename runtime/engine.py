"""What runs a runtime between one start and its end: dispatchers, connector, root supervisor.

Owns these threads and the end of each, forced if need be. It must not know tunnels, callbacks, or
that a runtime can be started again: an engine is started once, and a start makes a new one.

No lock: `RuntimeLife` starts and ends one engine at a time. Other threads read what is there at
that moment, and are told `TunnelClosed` when it is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunnelfleet.actors.kernel import Dispatcher, ForkGuard
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.proto import TunnelClosed, TunnelError

from .supervisor import RuntimeSupervisor

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.actors.kernel import ChildSpec, DispatchedRef, ExitReason
    from tunnelfleet.actors.tunnel.context import Services

    from .metrics import KernelMeter

__all__ = ["Engine"]

FORCED_END_SECONDS = 30.0
"""What a dispatcher has to end the actors that are left; it takes longer than one turn."""
NOT_RUNNING = "the runtime is not running: call start() first"

logger = get_logger(__name__)


class Engine:
    """The threads and the root of one life. Making one starts nothing.

    Args:
        services: what the root keeps up to date.
        kernel: told of the dispatchers.
        dispatchers: how many there are.
        connect_concurrency: threads that connect.
    """

    def __init__(
        self,
        services: Services,
        kernel: KernelMeter,
        *,
        dispatchers: int = 1,
        connect_concurrency: int = 4,
    ) -> None:
        self._services = services
        self._kernel = kernel
        self._dispatcher_count = dispatchers
        self._connect_concurrency = connect_concurrency
        self._connector: Connector | None = None
        self._supervisor: DispatchedRef[Any] | None = None
        self._fork_guard: ForkGuard | None = None
        self.dispatchers: list[Dispatcher] = []
        """Those that run; none before the start and after the end."""

    @property
    def is_running(self) -> bool:
        """Whether it was started, and nobody ends it."""
        return self._supervisor is not None

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
        if not self.is_running:
            raise TunnelClosed(NOT_RUNNING)

    @property
    def supervisor(self) -> DispatchedRef[Any]:
        """The root.

        Raises:
            TunnelClosed: it does not run.
            ForkedProcessError: it runs in the process that this one was forked from.
        """
        self.check_process()
        supervisor = self._supervisor
        if supervisor is None:
            raise TunnelClosed(NOT_RUNNING)
        return supervisor

    @property
    def connector(self) -> Connector:
        """The threads that connect.

        Raises:
            TunnelClosed: it does not run.
        """
        connector = self._connector
        if connector is None:
            raise TunnelClosed(NOT_RUNNING)
        return connector

    def start(
        self,
        make_children: Callable[[Engine], list[ChildSpec]],
        on_ended: Callable[[ExitReason], None],
        *,
        register: bool,
    ) -> DispatchedRef[Any]:
        """Start the threads, then the root.

        Args:
            make_children: called with this engine, whose threads run by then.
            on_ended: called in the root's last turn with its reason; must not block.
            register: whether the root is in pykka's registry.

        Returns:
            The root.

        Raises:
            TunnelError: the system has no descriptors or threads left; nothing runs.
        """
        self._fork_guard = ForkGuard("the runtime")
        self._connector = Connector(self._connect_concurrency)
        self._start_dispatchers()
        for dispatcher in self.dispatchers:
            self._kernel.attach(dispatcher)
        supervisor = self._supervisor = RuntimeSupervisor.start(
            self._services,
            make_children(self),
            on_ended,
            dispatcher=self.dispatchers[0],
            register=register,
        )
        return supervisor

    def _start_dispatchers(self) -> None:
        try:
            for number in range(self._dispatcher_count):
                self.dispatchers.append(Dispatcher(f"tunnelfleet-{number}").start())
        except (OSError, RuntimeError) as error:
            # Not half of them: what has begun is ended, and a start may be tried again.
            self.end()
            reason = getattr(error, "strerror", None) or error
            raise TunnelError(
                f"cannot start the threads of the runtime: {reason}: "
                "raise the limits of open files and threads"
            ) from error

    def stop(self, timeout_seconds: float) -> None:
        """Have the actors end in good order; the threads go on. Harmless when it does not run.

        Raises:
            pykka.Timeout: they did not in time.
        """
        supervisor = self._supervisor
        if supervisor is not None:
            supervisor.stop(block=True, timeout=timeout_seconds)

    def end(self) -> None:
        """End the threads, and by force the actors that are left. Safe to call twice."""
        dispatchers, self.dispatchers = self.dispatchers, []
        connector, self._connector = self._connector, None
        self._supervisor = self._fork_guard = None
        for dispatcher in dispatchers:
            _stop_dispatcher(dispatcher)
        if connector is not None:
            connector.close()
            self._kernel.retire()


def _stop_dispatcher(dispatcher: Dispatcher) -> None:
    try:
        dispatcher.stop(FORCED_END_SECONDS)
    except TimeoutError as error:
        # Whatever else the runtime has must end all the same.
        logger.error("a thread of the runtime is left behind: %s", error)
