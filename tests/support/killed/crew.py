"""A gateway whose tunnels run in two worker processes, a tunnel in each.

Owns what it is made to do while an actor of its own process is killed that stands for a worker or
for a tunnel of the first worker, and what must be so afterwards: the tunnel is connected again and
carries, the connection through the second worker did not notice, and no process is left over.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.doors import DoorFleet, door_answer, http_request
from tests.support.killed.core import exchange
from tests.support.killed.killing import descriptors, live
from tests.support.killed.shared import SharedCase, refs_beside
from tests.support.rig import FAST_LIMITS, connect, receive_exactly
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import (
    NORMAL,
    ChildReady,
    ChildSpec,
    CountChildren,
    DeleteChild,
    RestartChild,
    StartChild,
    StopChild,
    Terminated,
    WhichChildren,
    supervisor,
)
from tunnelfleet.actors.kernel.children import Child
from tunnelfleet.actors.tunnel.messages import (
    Drain,
    GateChanged,
    HandOver,
    ReplaceLimits,
    ReplaceToken,
)
from tunnelfleet.runtime import TunnelState
from tunnelfleet.runtime.gateway import DrainTunnels, RetryTunnels
from tunnelfleet.runtime.gateway.placement import worker_of
from tunnelfleet.runtime.gateway.workers import messages, worker_actor
from tunnelfleet.runtime.gateway.workers import tunnel as remote
from tunnelfleet.runtime.gateway.workers.processes import GovernorSupervisor
from tunnelfleet.runtime.gateway.workers.tunnel import RemoteTunnelActor
from tunnelfleet.runtime.gateway.workers.worker_actor import WorkerActor

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.runtime.gateway.workers.sums import WorkerEntry

NAMES = [
    next(name for name in (f"press-{each}" for each in range(100)) if worker_of(name, 2) == worker)
    for worker in (0, 1)
]
HIT, KEPT = NAMES
"""The tunnel of the first worker, which is hit, and that of the second one, which is not."""
PROCESS_SECONDS = 240.0
"""For processes that are started again, beside whatever else the machine does."""


class Crew(DoorFleet):
    """A context manager; all runs when it is entered."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.spared: list[ActorRef[Any]] = []
        self._clients = contextlib.ExitStack()

    def __enter__(self) -> Self:
        super().__enter__()
        tunnels = [self.tunnel(each) for each in NAMES]
        self._stack.callback(lambda: self._clients.close())
        self.files.settings = replace(self.files.settings, workers=2)
        self.open(*tunnels)
        for each in NAMES:
            self.wait_state(each, "connected")
            with self.connected(each):
                pass
        return self

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """Those of the gateway's process."""
        return self.gateway.dispatchers

    @property
    def workers(self) -> list[WorkerEntry]:
        """What is known of both."""
        assert self.gateway.workers is not None
        return list(self.gateway.workers.workers)

    # -- what it does

    @contextlib.contextmanager
    def _asked(self, name: str) -> Iterator[socket.socket]:
        with connect(self.address, WAIT_SECONDS) as sock:
            sock.sendall(http_request(f"{name}:SSH"))
            status, text = door_answer(sock)
            if status != 200:
                raise ConnectionRefusedError(text)
            yield sock

    @contextlib.contextmanager
    def connected(self, name: str) -> Iterator[socket.socket]:
        """A client of the door that has been echoed."""
        with self._asked(name) as sock:
            sock.sendall(b"hello")
            assert receive_exactly(sock, 5) == b"hello"
            yield sock

    def try_to_talk(self, name: str) -> bool:
        """Send much to a tunnel, end, and get it back; return whether it was not cut."""
        try:
            with self._asked(name) as sock:
                exchange(sock)
        except (OSError, AssertionError):
            return False
        return True

    def kill_process(self) -> None:
        """The first worker is killed."""
        os.kill(self.workers[0].pid, signal.SIGKILL)

    def actor_of(self, case: SharedCase) -> ActorRef[Any]:
        """The actor that is to be killed."""
        return refs_beside(live(self.dispatchers, case.actor), self.spared)

    # -- before and after

    def begin(self) -> None:
        """Have a connection through each tunnel."""
        self._open_before = descriptors()
        self._pids = [each.pid for each in self.workers]
        self._clients = contextlib.ExitStack()
        self._hit = self._clients.enter_context(self.connected(HIT))
        self._witness = self._clients.enter_context(self.connected(KEPT))
        tunnels = live(self.dispatchers, RemoteTunnelActor)
        kept = [ref for ref in tunnels if _label_of(ref) == KEPT]
        worker = self.workers[1].ref
        assert worker is not None
        self.spared = [*kept, worker]

    def check(self, case: SharedCase) -> None:
        """The connection beside it goes on, unless it must not; all is as it was."""
        if case.cuts:
            with pytest.raises(ConnectionResetError):
                self._witness.recv(1)
        else:
            self._witness.sendall(b"still there?")
            assert receive_exactly(self._witness, 12) == b"still there?"
            assert self.workers[1].pid == self._pids[1]
        # What was cut was cut by a reset, and what was not is as it was.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self._hit.sendall(b"still there?")
            assert receive_exactly(self._hit, 12) == b"still there?"
        self._clients.close()
        eventually(self._is_whole, "both workers, both tunnels and no others", PROCESS_SECONDS)
        for name in NAMES:
            eventually(lambda name=name: self.try_to_talk(name), f"{name} carries")  # type: ignore[misc]
        eventually(self._is_quiet, "no connection")
        eventually(
            self._has_left_nothing, "no descriptor and no process is left over", PROCESS_SECONDS
        )

    def _is_whole(self) -> bool:
        states = [each.stats.state for each in self.gateway.runtime.tunnels()]
        return states == [TunnelState.CONNECTED] * 2 and all(
            each.ref is not None and len(each.tunnels) == 1 for each in self.workers
        )

    def _is_quiet(self) -> bool:
        tunnels = self.gateway.runtime.tunnels()
        return all(each.stats.sum("connections_active") == 0 for each in tunnels)

    def _has_left_nothing(self) -> bool:
        pids = {each.pid for each in self.workers}
        gone = [each for each in self._pids if each not in pids]
        return descriptors() <= self._open_before and not any(
            Path(f"/proc/{each}").exists() for each in gone
        )


def _label_of(ref: Any) -> str:
    label: str = ref.cell.label
    return label


# -- what is done


def talk(rig: Crew, _case: SharedCase) -> None:
    rig.try_to_talk(HIT)


def kill_process(rig: Crew, _case: SharedCase) -> None:
    rig.kill_process()


def look_at_the_tree(rig: Crew, _case: SharedCase) -> None:
    """Whoever asks for the actors is told that a worker does not answer, or has ended."""
    assert rig.gateway.workers is not None
    with contextlib.suppress(Exception):
        rig.gateway.workers.trees()


def replace_token(rig: Crew, _case: SharedCase) -> None:
    config = rig.gateway.runtime.tunnel(HIT).config
    rig.gateway.runtime.replace_token(HIT, config.access_token, config.client_token)


def replace_limits(rig: Crew, _case: SharedCase) -> None:
    rig.gateway.runtime.replace_limits(HIT, FAST_LIMITS)


def drain(rig: Crew, _case: SharedCase) -> None:
    """It ends all the same, whoever was told; then it is opened again."""
    rig.gateway.ask(DrainTunnels((HIT,)))
    runtime = rig.gateway.runtime
    eventually(lambda: HIT not in [each.name for each in runtime.tunnels()], "the end of a drain")
    rig.gateway.ask(RetryTunnels((HIT,)))


def suspend(rig: Crew, _case: SharedCase) -> None:
    rig.gateway.runtime.suspend_connects("for a moment")
    rig.gateway.runtime.resume_connects()


def sent(make: Callable[[Crew], Any]) -> Callable[[Crew, SharedCase], None]:
    """A timer or another actor sends it in the midst of traffic."""

    def do(rig: Crew, case: SharedCase) -> None:
        rig.actor_of(case).tell(make(rig))

    return do


def asked(make: Callable[[], Any]) -> Callable[[Crew, SharedCase], None]:
    """The same, of a question: whoever asked is told of the failure."""

    def do(rig: Crew, case: SharedCase) -> None:
        with contextlib.suppress(Exception):
            rig.actor_of(case).ask(make(), timeout=WAIT_SECONDS)

    return do


SPEC = ChildSpec("more", lambda: None)  # type: ignore[arg-type,return-value]


def _cases_of_the_supervisor() -> list[SharedCase]:
    """All workers end with it, and come again; so the connections of all are cut."""
    make: dict[type, Callable[[Crew, SharedCase], None]] = {
        GateChanged: suspend,
        Terminated: sent(lambda rig: Terminated(rig.gateway.supervisor, NORMAL)),
        ChildReady: sent(lambda rig: ChildReady(rig.gateway.supervisor)),
        supervisor._RestartDue: sent(lambda _: supervisor._RestartDue(Child(SPEC))),
        supervisor._GroupDue: sent(lambda _: supervisor._GroupDue()),
        supervisor._StopOverdue: sent(lambda _: supervisor._StopOverdue(Child(SPEC))),
        supervisor._StopNext: sent(lambda _: supervisor._StopNext()),
        StartChild: asked(lambda: StartChild(SPEC)),
        StopChild: asked(lambda: StopChild("nobody")),
        RestartChild: asked(lambda: RestartChild("nobody")),
        DeleteChild: asked(lambda: DeleteChild("nobody")),
        WhichChildren: asked(WhichChildren),
        CountChildren: asked(CountChildren),
    }
    return [
        SharedCase(GovernorSupervisor, message, do, cuts=True, is_slow=True)
        for message, do in make.items()
    ]


CASES = [
    # -- what stands for a tunnel
    SharedCase(RemoteTunnelActor, messages.Told, talk),
    SharedCase(RemoteTunnelActor, HandOver, talk),
    SharedCase(RemoteTunnelActor, Drain, drain),
    SharedCase(RemoteTunnelActor, ReplaceToken, replace_token),
    SharedCase(RemoteTunnelActor, ReplaceLimits, replace_limits),
    SharedCase(RemoteTunnelActor, remote._OpenOnceMore, sent(lambda _: remote._OpenOnceMore())),
    SharedCase(RemoteTunnelActor, messages.WorkerLost, kill_process, is_slow=True),
    SharedCase(RemoteTunnelActor, messages.WorkerUp, kill_process, is_slow=True),
    # -- what stands for a process
    SharedCase(WorkerActor, messages.ToWorker, talk, is_slow=True),
    SharedCase(WorkerActor, messages.AskTree, look_at_the_tree, is_slow=True),
    SharedCase(WorkerActor, worker_actor._Look, sent(lambda _: worker_actor._Look()), is_slow=True),
    SharedCase(WorkerActor, worker_actor._Reaped, kill_process, is_slow=True),
    SharedCase(WorkerActor, worker_actor._Spawned, kill_process, is_slow=True),
    # -- what keeps the processes up
    *_cases_of_the_supervisor(),
]
CLASSES = (RemoteTunnelActor, WorkerActor, GovernorSupervisor)
