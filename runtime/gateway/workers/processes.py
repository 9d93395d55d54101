"""WorkerProcesses: the processes in which the tunnels of a gateway run, if it has several.

The gateway's process keeps files, placement, API, store, doors, pages and log, and an actor for
each tunnel; the tunnel itself runs in the worker that `worker_of` its name says. Owns which actors
there are for workers and tunnels, and what is to be seen of workers.

    GovernorSupervisor          in the place of the governor, for each worker has its own
     |- WorkerActor             one a process: starts it, speaks with it, ends it
    RemoteTunnelActor           one a tunnel, where a TunnelSupervisor would be
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import pykka
from prometheus_client import Metric
from pykka import ActorRef

from tunnelfleet.actors.kernel import Backoff, ChildSpec, Dispatcher, SupervisorActor
from tunnelfleet.actors.transport.connect_gate import ConnectGate
from tunnelfleet.actors.tunnel.context import TunnelContext
from tunnelfleet.actors.tunnel.messages import GateChanged
from tunnelfleet.runtime.gateway.placement import worker_of
from tunnelfleet.runtime.gateway.process import ActorNode
from tunnelfleet.runtime.metrics.families import numbers
from tunnelfleet.runtime.supervisor import GOVERNOR

from .messages import AskTree, Do
from .sums import WorkerTable
from .tunnel import RemoteTunnelActor
from .worker_actor import Launcher, WorkerActor

if TYPE_CHECKING:
    from .sums import WorkerEntry


BACKOFF: Final = Backoff(min_seconds=0.5, max_seconds=30.0)
"""How long to wait before a worker is started again."""
SHUTDOWN_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 5.0
"""After so long without a sign of life of a worker the gateway is unhealthy."""
TREE_SECONDS: Final = 5.0


class WorkerProcesses:
    """The place where the tunnels of a gateway run: see `TunnelHome`.

    Args:
        count: how many processes.
        authorities_of: the file or folder of authorities that a tunnel trusts, by its name.
    """

    def __init__(self, count: int, authorities_of: Callable[[str], str | None]) -> None:
        self._table = WorkerTable(count)
        self._launcher = Launcher(count)
        self._authorities_of = authorities_of
        self._serials = itertools.count(1)

    @property
    def workers(self) -> Sequence[WorkerEntry]:
        """What is known of each; to be read only."""
        return self._table.workers

    # -- as a home of tunnels

    def start_tunnel(self, context: TunnelContext, dispatcher: Dispatcher) -> ActorRef[Any]:
        """Start the actor that stands for a tunnel."""
        worker = self.workers[worker_of(context.config.name, len(self.workers))]
        authorities = self._authorities_of(context.config.name)
        return RemoteTunnelActor.start(
            context, worker, next(self._serials), authorities, dispatcher=dispatcher
        )

    def governor_spec(
        self, gate: ConnectGate, rate_per_second: float, concurrency: int, per_endpoint: int | None
    ) -> ChildSpec:
        """How the actors of the workers are run; each worker has its share of the connects."""
        assert per_endpoint is None, "workers divide the connects among endpoints themselves"
        table = self._table
        table.gate = gate
        table.rate_per_second = rate_per_second / len(table.workers)
        table.concurrency = max(1, concurrency // len(table.workers))
        return ChildSpec(
            id=GOVERNOR,
            start=functools.partial(GovernorSupervisor.start, table, self._launcher),
            shutdown=2 * SHUTDOWN_SECONDS * len(self.workers),
            backoff=BACKOFF,
        )

    def close(self) -> None:
        """End what still runs, when the actors are over. Safe to call twice."""
        self._launcher.close()

    def freeze_garbage(self) -> None:
        """The fleet is up: have no worker's garbage collector look at it again. Any thread."""
        for worker in self.workers:
            worker.tell({"do": Do.FREEZE})

    # -- looking, from any thread

    @property
    def restarts(self) -> int:
        """How often a worker was started again."""
        return sum(max(0, worker.starts - 1) for worker in self.workers)

    def silent(self) -> list[str]:
        """Return the workers that run and give no sign of life."""
        now = time.monotonic()
        return [
            worker.name
            for worker in self.workers
            if worker.ref is not None and now - worker.beat_at > SILENT_SECONDS
        ]

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the processes themselves; those of tunnels are the runtime's."""
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
        table: of the workers.
        launcher: starts their processes.
    """

    def __init__(self, table: WorkerTable, launcher: Launcher) -> None:
        self._table = table
        super().__init__(
            [
                ChildSpec(
                    id=worker.name,
                    start=functools.partial(WorkerActor.start, table, launcher, worker),
                    shutdown=SHUTDOWN_SECONDS,
                    backoff=BACKOFF,
                    reports_ready=True,
                    independent=True,
                )
                for worker in table.workers
            ]
        )

    def on_start(self) -> None:
        """Enter this actor where the workers look for it."""
        self._table.supervisor = self.actor_ref
        super().on_start()

    def on_receive(self, message: Any) -> Any:
        """Pass on a change of the gate; the rest is a supervisor's."""
        if isinstance(message, GateChanged):
            for worker in self._table.workers:
                worker.tell({"do": Do.GATE, **self._table.gate_fields()})
            return None
        return super().on_receive(message)
