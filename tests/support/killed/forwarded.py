"""Two gateways of one fleet, and connections that one forwards to the other.

Owns what they are made to do while an actor between them is killed, and what must be so afterwards:
another forwarded connection did not notice, nor did one at the other gateway's own door; the next
one is carried; nothing is left open between the two.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.doors import door_answer, http_request
from tests.support.gateway_pair import GatewayPair
from tests.support.killed.core import exchange
from tests.support.killed.killing import descriptors, live
from tests.support.killed.shared import SharedCase, refs_beside
from tests.support.rig import connect, receive_exactly
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import Terminated
from tunnelfleet.actors.net.dial import DialStep
from tunnelfleet.actors.tunnel.messages import (
    Attach,
    BytesDelivered,
    HandOver,
    LocalDataRead,
    LocalReadEnded,
)
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.forward import envoy, guest
from tunnelfleet.runtime.gateway.forward.envoy import EnvoyActor
from tunnelfleet.runtime.gateway.forward.forwarding import FleetListenerActor, Inquire
from tunnelfleet.runtime.gateway.forward.guest import GuestActor
from tunnelfleet.runtime.gateway.listening import MayAccept

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pykka import ActorRef

    from tests.support.forwarding import Authority
    from tests.support.gateway_pair import PairFleet
    from tunnelfleet.actors.kernel import Dispatcher

BETWEEN = (EnvoyActor, GuestActor)
"""The classes of which each forwarded connection has one."""


class Forwarded:
    """A context manager: a tunnel of the second gateway, which clients of the first one reach.

    Args:
        folder: for what is made.
        authority: of the fleet.
    """

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._pair = GatewayPair(folder, authority)
        self._stack = contextlib.ExitStack()
        self._clients = contextlib.ExitStack()
        self.spared: list[ActorRef[Any]] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._pair)
            self.name = self._pair.add("two")
            self._pair.open()
            # What a process opens once, and keeps, is there before descriptors are counted.
            with self._connected(self.one), self._connected(self.two):
                self.list_tunnels()
            eventually(self._is_quiet, "nothing between the two")
            stack.callback(lambda: self._clients.close())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    @property
    def one(self) -> PairFleet:
        """The gateway that forwards."""
        return self._pair.one

    @property
    def two(self) -> PairFleet:
        """The gateway that has the tunnel."""
        return self._pair.two

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """Those of both."""
        return [*self.one.gateway.dispatchers, *self.two.gateway.dispatchers]

    def _between(self) -> list[ActorRef[Any]]:
        return [ref for each in BETWEEN for ref in live(self.dispatchers, each)]

    # -- what they do

    @contextlib.contextmanager
    def _asked(self, fleet: PairFleet) -> Iterator[socket.socket]:
        """A client of a gateway's door for which the tunnel is open."""
        with connect(fleet.address, WAIT_SECONDS) as sock:
            sock.sendall(http_request(self.name))
            status, text = door_answer(sock)
            if status != 200:
                raise ConnectionRefusedError(text)
            yield sock

    @contextlib.contextmanager
    def _connected(self, fleet: PairFleet) -> Iterator[socket.socket]:
        with self._asked(fleet) as sock:
            sock.sendall(b"hello")
            assert receive_exactly(sock, 5) == b"hello"
            yield sock

    def connected(self) -> contextlib.AbstractContextManager[socket.socket]:
        """A client of the first gateway that has been echoed."""
        return self._connected(self.one)

    def try_to_talk(self) -> bool:
        """Send much to the tunnel, end, and get it back; return whether it was not cut."""
        try:
            with self._asked(self.one) as sock:
                exchange(sock)
        except (OSError, AssertionError):
            return False
        return True

    def list_tunnels(self) -> list[str]:
        """The tunnels of the second gateway, as the first one is told.

        Raises:
            TunnelError: it is not told.
        """
        (other,) = [each for each in self._pair.book.members() if each.name == "two"]
        rows = self.one.forwarding.ask_tunnels(other, {})(WAIT_SECONDS)
        return [each["name"] for each in rows.rows]

    def try_to_list(self) -> bool:
        """The same; return whether it was told."""
        try:
            return self.list_tunnels() == [self.name]
        except TunnelError:
            return False

    def be_strange(self) -> None:
        """Somebody calls the second gateway who is none."""
        with connect(self.two.fleet_address, WAIT_SECONDS) as sock:
            sock.sendall(b"hello?" * 100)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4_096):
                    pass

    # -- before and after

    def begin(self) -> None:
        """Have a forwarded connection, and one at the door of the tunnel's own gateway."""
        self._open_before = descriptors()
        self._clients = contextlib.ExitStack()
        self._witness = self._clients.enter_context(self.connected())
        self._neighbour = self._clients.enter_context(self._connected(self.two))
        self.spared = self._between()

    def check(self, case: SharedCase) -> None:
        """They go on, unless they must not; the next ones do; and nothing is left."""
        if case.cuts:
            with pytest.raises(ConnectionResetError):
                self._witness.recv(1)
        else:
            _check_echo(self._witness)
        _check_echo(self._neighbour)
        self._clients.close()
        eventually(self.try_to_talk, "a forwarded connection")
        eventually(self.try_to_list, "a list of the tunnels")
        eventually(self._is_quiet, "nothing between the two")
        eventually(lambda: descriptors() <= self._open_before, "no descriptor is left over")
        assert self.two.connects(self.name) == 1

    def _is_quiet(self) -> bool:
        fleets = (self.one, self.two)
        return not self._between() and all(
            each.forwarding.counters.open == 0 and each.door.counters.open == 0 for each in fleets
        )


def _check_echo(sock: socket.socket) -> None:
    sock.sendall(b"still there?")
    assert receive_exactly(sock, 12) == b"still there?"


# -- what is done


def talk(rig: Forwarded, _case: SharedCase) -> None:
    rig.try_to_talk()


def ask_for_the_list(rig: Forwarded, _case: SharedCase) -> None:
    rig.try_to_list()


def come_as_a_stranger(rig: Forwarded, _case: SharedCase) -> None:
    rig.be_strange()


def sent(make: Callable[[Forwarded], Any]) -> Callable[[Forwarded, SharedCase], None]:
    """A timer or a shortage sends it in the midst of traffic: that connection is reset."""

    def do(rig: Forwarded, case: SharedCase) -> None:
        with rig.connected() as sock:
            refs_beside(live(rig.dispatchers, case.actor), rig.spared).tell(make(rig))
            with pytest.raises(ConnectionResetError):
                sock.recv(1)

    return do


def sent_to_the_listener(rig: Forwarded, case: SharedCase) -> None:
    (listener,) = live(rig.two.gateway.dispatchers, FleetListenerActor)
    listener.tell(case.message())


STEP = DialStep(lambda: None, ())
CALL_LATE = envoy._EnvoyLate(envoy._EnvoyStep.CALLING)
HANDSHAKE_LATE = guest._GuestLate(guest._GuestStep.SHAKING)
CASES = [
    # -- who asks another gateway
    SharedCase(EnvoyActor, envoy.AskAway, talk),
    SharedCase(EnvoyActor, HandOver, talk),
    SharedCase(EnvoyActor, DialStep, sent(lambda _: STEP)),
    SharedCase(EnvoyActor, Attach, talk),
    SharedCase(EnvoyActor, LocalDataRead, talk),
    SharedCase(EnvoyActor, LocalReadEnded, talk),
    SharedCase(EnvoyActor, BytesDelivered, talk),
    SharedCase(EnvoyActor, envoy._EnvoyLate, sent(lambda _: CALL_LATE)),
    SharedCase(EnvoyActor, Terminated, talk),
    # -- whom it asks
    SharedCase(GuestActor, DialStep, sent(lambda _: STEP)),
    SharedCase(GuestActor, Attach, talk),
    SharedCase(GuestActor, LocalDataRead, talk),
    SharedCase(GuestActor, LocalReadEnded, talk),
    SharedCase(GuestActor, BytesDelivered, talk),
    SharedCase(GuestActor, guest._RowsListed, ask_for_the_list),
    SharedCase(GuestActor, guest._GuestLate, sent(lambda _: HANDSHAKE_LATE)),
    SharedCase(GuestActor, Terminated, talk),
    # -- who lets it in; its guests end with it
    SharedCase(FleetListenerActor, MayAccept, sent_to_the_listener, cuts=True),
    SharedCase(FleetListenerActor, guest.GuestShaken, talk, cuts=True),
    SharedCase(FleetListenerActor, guest.GuestTurnedAway, come_as_a_stranger, cuts=True),
    SharedCase(FleetListenerActor, Terminated, talk, cuts=True),
    SharedCase(FleetListenerActor, Inquire, ask_for_the_list),
]
CLASSES = (EnvoyActor, GuestActor, FleetListenerActor)
