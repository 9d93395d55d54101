"""A gateway in this process, with a store and a front door, and a connection that must not notice.

Owns what a gateway is made to do while one of its actors is killed, and what must be so afterwards:
its tunnels did not notice, it takes new wishes, new clients and new files, nothing is left over.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tests.support.doors import DoorFleet, door_answer, http_request
from tests.support.killed.killing import failed, live
from tests.support.rig import connect, receive_exactly
from tests.support.stores import make_store
from tests.support.waiting import WAIT_SECONDS, eventually
from tests.support.witness import assert_ends
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.door import Door

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.runtime.gateway import WantedTunnel

KEPT, LATER = "kept", "later"
"""The tunnel of the connection that must not notice, and one that comes afterwards."""


class Gate(DoorFleet):
    """A context manager. Its service and its devices are this test's own.

    Args:
        folder: for what is made.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._witness: socket.socket | None = None

    def begin(self) -> None:
        """Make the tunnels, and begin to start the gateway; nothing is waited for."""
        self._later = self.tunnel(LATER)
        self.files.tunnels = {KEPT: self.tunnel(KEPT)}
        self._open(self.files.tunnels[KEPT])

    def _open(self, tunnel: WantedTunnel) -> None:
        self.files.tunnels = {tunnel.name: tunnel}
        self.door = Door(self.files.settings, self.limits, self.denied.append, self.resolver)
        self._stack.enter_context(self.door)
        store = make_store(f"sqlite:///{self._folder}/state.db")
        self.start(store=store, more_children=lambda gateway: [self.door.child(gateway)])

    def wait_ready(self) -> None:
        """The tunnel carries a connection, which is kept."""
        eventually(self._has_witness, "a connection through the door")

    def _has_witness(self) -> bool:
        try:
            self._witness = self.connected(KEPT)
        except (OSError, AssertionError):
            return False
        self._stack.enter_context(self._witness)
        return True

    def connected(self, name: str) -> socket.socket:
        """A client of the door that has been echoed.

        Raises:
            OSError: it was cut.
            AssertionError: it was refused, or ended.
        """
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(connect(self.address, WAIT_SECONDS))
            sock.sendall(http_request(f"{name}:SSH"))
            status, text = door_answer(sock)
            assert status == 200, text
            sock.sendall(b"hello")
            assert receive_exactly(sock, 5) == b"hello"
            stack.pop_all()
        return sock

    @contextlib.contextmanager
    def half_said(self) -> Iterator[socket.socket]:
        """A client of the door that has not said all."""
        accepted = self.door.counters.accepted
        with connect(self.address, WAIT_SECONDS) as sock:
            sock.sendall(b"CONN")
            eventually(lambda: self.door.counters.accepted > accepted, "it was accepted")
            yield sock

    # -- reaching in

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """Those of the gateway and of its runtime."""
        return self.gateway.dispatchers

    def refs(self, actor_class: type) -> list[ActorRef[Any]]:
        """The live actors of a class."""
        return live(self.dispatchers, actor_class)

    def failures(self) -> dict[str, int]:
        """The classes whose actors ended by an exception."""
        return dict(failed(self.dispatchers))

    # -- afterwards

    def check_witness(self) -> None:
        """The kept connection goes on."""
        assert self._witness is not None
        self._witness.sendall(b"still there?")
        assert receive_exactly(self._witness, 12) == b"still there?"

    def check_ended(self) -> None:
        """Nothing runs any more: the connection is reset, and the service has lost the tunnel."""
        assert self._witness is not None
        assert_ends(self._witness)
        eventually(
            lambda: not self.service.tunnel(KEPT).source_connected, "the end of the tunnel's link"
        )

    def check_leaves(self) -> None:
        """What ran did not notice; asked again, all ends in good order."""
        self.check_witness()
        assert self._witness is not None
        self._witness.close()
        eventually(self._has_left, "the end of the fleet")

    def _has_left(self) -> bool:
        try:
            return not self.gateway.leave(WAIT_SECONDS).cut
        except TunnelError:
            return False

    def check_recovered(self) -> None:
        """What ran did not notice, and what comes is done as before."""
        self.check_witness()
        assert self.connects(KEPT) == 1
        self.files.tunnels[LATER] = self._later
        eventually(self._reloads, "a reload")
        eventually(self._has_later, "a connection through a new tunnel")
        del self.files.tunnels[LATER]
        eventually(self._reloads, "another reload")
        eventually(lambda: LATER not in self.gateway.state.running, "the end of the new tunnel")
        self.check_witness()

    def _reloads(self) -> bool:
        try:
            return self.gateway.reload().is_good
        except TunnelError:
            return False

    def _has_later(self) -> bool:
        try:
            self.connected(LATER).close()
        except (OSError, AssertionError):
            return False
        return True
