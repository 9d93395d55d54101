"""WorkerProcesses: the processes in which the tunnels of a gateway run, if it has several.

The gateway's process keeps files, placement, API, store, doors, pages and log, and an actor for
each tunnel; the tunnel itself runs in the worker that `worker_of` its name says. Owns the table of
workers and their tunnels, which all actors of one dispatcher share, how a worker is started, and
the threads on which that, and the wait for its end, may block.

    GovernorSupervisor          in the place of the governor, for each worker has its own
     |- WorkerActor             one a process: starts it, speaks with it, ends it
    RemoteTunnelActor           one a tunnel, where a TunnelSupervisor would be
"""

from __future__ import annotations

import functools
import itertools
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pykka

from tunnelfleet.actors.kernel import Backoff, ChildSpec, SupervisorActor
from tunnelfleet.actors.tunnel.messages import GateChanged
from tunnelfleet.runtime.gateway.placement import worker_of
from tunnelfleet.runtime.gateway.process import ActorNode
from tunnelfleet.runtime.metrics.families import numbers
from tunnelfleet.runtime.supervisor import GOVERNOR

from .messages import AskTree, Do
from .sums import ConnectSums
from .table import Started, Worker
from .tunnel import RemoteTunnelActor
from .worker_actor import WorkerActor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.actors.transport.connect_gate import ConnectGate, ConnectStats
    from tunnelfleet.actors.tunnel.context import TunnelContext

__all__ = ["GovernorSupervisor", "WorkerProcesses"]

PROGRAM: Final = (sys.executable, "-m", "tunnelfleet.runtime.gateway.workers")
BACKOFF: Final = Backoff(min_seconds=0.5, max_seconds=30.0)
"""Before a worker is started again."""
SHUTDOWN_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 5.0
"""Without a sign of life for so long, the gateway is unhealthy."""
EXIT_SECONDS: Final = 5.0
"""Until a worker that has lost the gateway is killed."""
TREE_SECONDS: Final = 5.0
_NOT_INHERITED: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class WorkerProcesses:
    """The place where the tunnels of a gateway run: see `TunnelHome`.

    Args:
        count: how many processes.
        authorities_of: the file or folder of authorities that a tunnel trusts, by its name.
    """

    def __init__(self, count: int, authorities_of: Callable[[str], str | None]) -> None:
        self.workers = [Worker(number) for number in range(count)]
        self.authorities_of = authorities_of
        self.connects = ConnectSums()
        self.gate: ConnectGate | None = None
        self.rate_per_second = 0.0
        """A worker's share."""
        self.concurrency = 1
        self.supervisor: ActorRef[Any] | None = None
        self._serials = itertools.count(1)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="tunnelfleet-worker")
        self._running: set[subprocess.Popen[bytes]] = set()

    # -- as a home of tunnels

    def start_tunnel(self, context: TunnelContext, dispatcher: Dispatcher) -> ActorRef[Any]:
        """Start the actor that stands for a tunnel."""
        worker = self.workers[worker_of(context.config.name, len(self.workers))]
        authorities = self.authorities_of(context.config.name)
        return RemoteTunnelActor.start(
            context, worker, next(self._serials), authorities, dispatcher=dispatcher
        )

    def governor_spec(
        self, gate: ConnectGate, rate_per_second: float, concurrency: int, per_endpoint: int | None
    ) -> ChildSpec:
        """How the actors of the workers are run; each worker has its share of the connects."""
        assert per_endpoint is None, "workers divide the connects among endpoints themselves"
        self.gate = gate
        self.rate_per_second = rate_per_second / len(self.workers)
        self.concurrency = max(1, concurrency // len(self.workers))
        return ChildSpec(
            id=GOVERNOR,
            start=functools.partial(GovernorSupervisor.start, self),
            shutdown=2 * SHUTDOWN_SECONDS * len(self.workers),
            backoff=BACKOFF,
        )

    def gate_fields(self) -> dict[str, Any]:
        """What a worker is told of the gate."""
        assert self.gate is not None
        return {"suspended": self.gate.closed_because, "left_seconds": self.gate.left_seconds}

    def take_connects(self, number: int, stats: ConnectStats) -> None:
        """A worker tells what its governor has done."""
        self.connects.take(number, stats)
        self._publish_connects()

    def lose_connects(self, number: int) -> None:
        """A worker has ended."""
        self.connects.begin_anew(number)
        self._publish_connects()

    def _publish_connects(self) -> None:
        if self.gate is not None:
            # In the place of the governor, which writes it otherwise.
            self.gate.stats = self.connects.total()

    # -- processes

    def start_process(self) -> Future[Started]:
        """Start a worker on a thread that may wait.

        Raises:
            RuntimeError: all has ended.
        """
        return self._threads.submit(self._start)

    def _start(self) -> Started:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(  # noqa: S603 - this program, and a number
                    [*PROGRAM, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={k: v for k, v in os.environ.items() if k not in _NOT_INHERITED},
                )
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        self._running.add(process)
        return Started(process, ours)

    def wait_process(self, process: subprocess.Popen[bytes]) -> Future[int] | None:
        """Wait for the end of a worker that has lost the gateway, on a thread that may.

        A worker that does not end in time is killed.

        Returns:
            Its exit status; None if all has ended, and it was killed.
        """
        try:
            return self._threads.submit(self._wait, process)
        except RuntimeError:
            process.kill()
            return None

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            status = process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._running.discard(process)
        return status

    def close(self) -> None:
        """End what still runs, when the actors are over. Safe to call twice."""
        self._threads.shutdown(wait=True)
        for process in list(self._running):
            process.kill()
            self._wait(process)

    # -- looking, from any thread

    @property
    def restarts(self) -> int:
        """How often a worker was started again."""
        return sum(max(0, worker.starts - 1) for worker in self.workers)

    def silent(self) -> list[str]:
        """The workers that run and give no sign of life."""
        now = time.monotonic()
        return [
            worker.name
            for worker in self.workers
            if worker.ref is not None and now - worker.beat_at > SILENT_SECONDS
        ]

    def collect(self) -> Iterator[Metric]:
        """The metrics of the processes themselves; those of tunnels are the runtime's."""
        yield numbers("worker_restarts", [((), self.restarts)])

    def trees(self) -> list[ActorNode]:
        """The actors of each worker, below a node for its process; for a thread that may wait."""
        found = []
        for worker in self.workers:
            ref, nodes, reason = worker.ref, [], "it does not run"
            if ref is not None:
                try:
                    nodes = ref.ask(AskTree(), block=True, timeout=TREE_SECONDS)
                    reason = ""
                except (pykka.Timeout, pykka.ActorDeadError):
                    reason = "it does not answer"
            state = "down" if ref is None else "silent" if reason else "running"
            restarts = max(0, worker.starts - 1)
            kind = f"process {worker.pid}"
            found.append(ActorNode(0, worker.name, kind, state, restarts, "", reason))
            found += nodes
        return found


class GovernorSupervisor(SupervisorActor):
    """Keeps the workers up, and passes on whether tunnels may connect.

    Args:
        processes: the table of workers.
    """

    def __init__(self, processes: WorkerProcesses) -> None:
        self._processes = processes
        super().__init__(
            [
                ChildSpec(
                    id=worker.name,
                    start=functools.partial(WorkerActor.start, processes, worker),
                    shutdown=SHUTDOWN_SECONDS,
                    backoff=BACKOFF,
                    reports_ready=True,
                    independent=True,
                )
                for worker in processes.workers
            ]
        )

    def on_start(self) -> None:
        """Let the workers find it."""
        self._processes.supervisor = self.actor_ref
        super().on_start()

    def on_receive(self, message: Any) -> Any:
        """Pass on a change of the gate; the rest is a supervisor's."""
        if isinstance(message, GateChanged):
            for worker in self._processes.workers:
                worker.tell({"do": Do.GATE, **self._processes.gate_fields()})
            return None
        return super().on_receive(message)
