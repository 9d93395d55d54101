"""A gateway that opens tunnels on demand: a service with its API, devices that follow it.

Owns what it is made to do while the actor of its demands is killed, and what must be so afterwards:
a connection through a tunnel that was opened before did not notice; whoever asks now is served; no
tunnel is open at the service that the gateway does not know.
"""

from __future__ import annotations

import contextlib
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from tests.support.demand import DemandFleet
from tests.support.doors import door_answer, http_request
from tests.support.killed.killing import live
from tests.support.killed.shared import SharedCase
from tests.support.rig import receive_exactly
from tests.support.waiting import eventually
from tunnelfleet.actors.kernel import Terminated
from tunnelfleet.runtime.gateway.door.resolver import AskedTunnel
from tunnelfleet.runtime.gateway.on_demand import actor as demand
from tunnelfleet.runtime.gateway.on_demand import errands
from tunnelfleet.runtime.gateway.on_demand.actor import DemandActor

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tunnelfleet.actors.kernel import Dispatcher

KEPT = "press-0"
"""The thing of the connection that must not notice."""


class Demanded(DemandFleet):
    """A context manager; the gateway runs when it is entered."""

    spared: tuple[Any, ...] = ()

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._numbers = count(1)
        self._clients = contextlib.ExitStack()

    def __enter__(self) -> Self:
        super().__enter__()
        self.open_gateway(max_open=1_000, max_opens_per_hour=1_000)
        self._own.callback(lambda: self._clients.close())
        for name in (KEPT, self.another()):
            with self.connected(name):
                pass
        return self

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """Those of the gateway."""
        return self.gateway.dispatchers

    def another(self) -> str:
        """A thing that nobody has asked for."""
        return f"press-{next(self._numbers)}"

    @contextlib.contextmanager
    def connected(self, name: str) -> Iterator[socket.socket]:
        """A client of the door that has been echoed."""
        with self.client(http_request(name)) as sock:
            status, text = door_answer(sock)
            if status != 200:
                raise ConnectionRefusedError(text)
            sock.sendall(b"hello")
            assert receive_exactly(sock, 5) == b"hello"
            yield sock

    def try_to_ask(self, name: str) -> bool:
        """Ask for a thing; return whether its tunnel carries."""
        try:
            with self.connected(name):
                return True
        except (OSError, AssertionError):
            return False

    # -- before and after

    def begin(self) -> None:
        """Have a connection through a tunnel that is open."""
        self._clients = contextlib.ExitStack()
        self._witness = self._clients.enter_context(self.connected(KEPT))

    def check(self, case: SharedCase) -> None:
        """It goes on, others are served, and nothing is open that nobody knows of."""
        self._witness.sendall(b"still there?")
        assert receive_exactly(self._witness, 12) == b"still there?"
        eventually(lambda: self.try_to_ask(self.another()), "a tunnel is opened")
        eventually(self._is_in_order, f"the plan and the service agree after {case.name}")
        self._clients.close()
        assert self.connects(KEPT) == 1

    def _is_in_order(self) -> bool:
        """Each tunnel at the service is one of the plan, and runs; and the other way round."""
        known = {each.tunnel_id for each in list(self.demand.plan)}
        slots = {each.slot for each in list(self.demand.plan)}
        running = set(self.gateway.state.running)
        return known == self.open_at_service and slots == running


# -- what is done


def ask(rig: Demanded, _case: SharedCase) -> None:
    rig.try_to_ask(rig.another())


def ask_and_leave(rig: Demanded, _case: SharedCase) -> None:
    """A client that is gone before its thing has come; its tunnel is closed after a time."""
    name, before = rig.another(), rig.settings.limits.wait_seconds
    rig.devices.off.add(name)
    with rig.client(http_request(name)):
        eventually(lambda: rig.has_demand(name), "it is opened")
        eventually(lambda: rig.demand.counters.waiting() == 1, "it waits")
    # Before the time to wait is over, which would tell it and know it no more.
    eventually(lambda: rig.demand.counters.waiting() == 0, "it has left")
    rig.reload_limits(wait_seconds=0.01)
    try:
        eventually(lambda: not rig.has_demand(name), "it is closed")
    finally:
        rig.reload_limits(wait_seconds=before)


def become_idle(rig: Demanded, _case: SharedCase) -> None:
    """The tunnels that nobody uses are closed."""
    before = rig.settings.limits.idle_seconds
    rig.reload_limits(idle_seconds=0.01)
    try:
        eventually(lambda: len(rig.open_at_service) == 1, "all but one are closed")
    finally:
        rig.reload_limits(idle_seconds=before)


def sent(make: Callable[[], Any]) -> Callable[[Demanded, SharedCase], None]:
    """A timer or a thread sends it."""

    def do(rig: Demanded, _case: SharedCase) -> None:
        (ref,) = live(rig.dispatchers, DemandActor)
        ref.tell(make())

    return do


SEARCH = errands.SearchAgain("nobody's", 0)
CASES = [
    SharedCase(DemandActor, AskedTunnel, ask),
    SharedCase(DemandActor, Terminated, ask_and_leave),
    SharedCase(DemandActor, demand._Tick, sent(lambda: demand._Tick())),
    SharedCase(DemandActor, demand._LoadAgain, sent(lambda: demand._LoadAgain())),
    SharedCase(DemandActor, demand._DemandsLoaded, sent(lambda: demand._DemandsLoaded([]))),
    SharedCase(DemandActor, demand._LookForLeft, sent(lambda: demand._LookForLeft())),
    SharedCase(DemandActor, demand._LeftFound, sent(lambda: demand._LeftFound([]))),
    SharedCase(DemandActor, demand._LeftTaken, sent(lambda: demand._LeftTaken([]))),
    SharedCase(DemandActor, errands.OpenAnswered, ask),
    SharedCase(DemandActor, errands.DescribeAnswered, ask),
    SharedCase(DemandActor, errands.CloseAnswered, become_idle),
    SharedCase(DemandActor, errands.SearchAgain, sent(lambda: SEARCH)),
    SharedCase(
        DemandActor, errands.SearchAnswered, sent(lambda: errands.SearchAnswered(SEARCH, 0))
    ),
    SharedCase(DemandActor, demand._StopTimedOut, sent(lambda: demand._StopTimedOut())),
]
CLASSES = (DemandActor,)
