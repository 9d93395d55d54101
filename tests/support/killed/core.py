"""One tunnel between real sockets, under a host's supervisor, and another one beside it.

Owns what the core is made to do while one of its actors is killed, and what must be so afterwards:
all is connected again and carries, the tunnel beside it noticed nothing, nothing is left over.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from tests.support.rig import FAST_LIMITS, connect, receive_exactly
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import Dispatcher, SupervisorActor
from tunnelfleet.runtime import (
    Backoff,
    Endpoint,
    Limits,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
)
from tunnelfleet.runtime.engine import EnginePhase

if TYPE_CHECKING:
    from pykka import ActorRef

    from tests.support.backends import Server
    from tunnelfleet.runtime import Tunnel
    from tunnelfleet.runtime.service import TunnelService, TunnelTokens

SERVICE_ID = "ECHO"
NAMES = itertools.count(1)
LIMITS = replace(
    FAST_LIMITS,
    backoff=Backoff(min_seconds=0.01, max_seconds=0.02),
    linger_seconds=0.1,
    offline_grace_seconds=0.1,
    stall_timeout_seconds=0.2,
    stop_timeout_seconds=1.0,
    ping_interval_seconds=0.05,
    pong_timeout_seconds=10.0,
    receive_backlog_bytes=32_768,
    notsent_low_water_bytes=16_384,
)
"""What takes time as a rule happens within a tenth of a second."""
BYSTANDER_LIMITS = replace(FAST_LIMITS, ping_interval_seconds=60.0)
GOODS = bytes(range(256)) * 256


class WrongBytesError(Exception):
    """An application got what nobody had sent; nothing excuses it."""


def exchange(sock: socket.socket, data: bytes = GOODS) -> None:
    """Send bytes to a server that echoes, end, and get them back.

    Raises:
        OSError: the connection was cut.
        WrongBytesError: a byte was wrong, or an end a lie.
    """
    sender = threading.Thread(target=_send, args=(sock, data), name="sender")
    sender.start()
    try:
        got = 0
        while part := sock.recv(262_144):
            if not data.startswith(part, got):
                raise WrongBytesError(f"behind {got} bytes")
            got += len(part)
    finally:
        # A sender that the tunnel holds up goes on no more.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sender.join(WAIT_SECONDS)
    if not got:
        # Before the first byte nobody knows yet whether the stream is marked.
        raise ConnectionAbortedError("nothing came")
    # An end is no lie: a cut is a reset, and a plain end comes behind all bytes.
    if got != len(data):
        raise WrongBytesError(f"an end of file behind {got} of {len(data)} bytes")


class Core:
    """A context manager.

    Args:
        service: where the tunnels meet.
        server: what they lead to; it echoes.
    """

    def __init__(self, service: TunnelService, server: Server) -> None:
        self.service = service
        self._server = server
        number = next(NAMES)
        self.name, self.bystander = f"tunnel-{number}", f"bystander-{number}"
        self.first_runtime = self._runtime = TunnelRuntime(
            connect_rate_per_second=1_000.0, connect_concurrency=8, connects_per_endpoint=8
        )
        self.dispatcher = Dispatcher("host")
        self._stack = contextlib.ExitStack()
        self.tokens: dict[str, TunnelTokens] = {}
        self.witness: socket.socket | None = None
        self._dispatchers: set[Dispatcher] = set()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.dispatcher)
            self.host: ActorRef[Any] = SupervisorActor.start(
                [self._runtime.child_spec()], dispatcher=self.dispatcher
            )
            stack.callback(self.host.stop, timeout=WAIT_SECONDS)
            stack.callback(self._close_tunnels)
            # Its dispatchers are there a moment before it takes tunnels.
            eventually(
                lambda: self.runtime._engine.phase is EnginePhase.RUNNING, "a runtime that runs"
            )
            self.failures()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def _close_tunnels(self) -> None:
        for name in self.tokens:
            if name in self.service.open_names():
                self.service.close_tunnel(name)

    @property
    def runtime(self) -> TunnelRuntime:
        """The runtime that has the tunnels now."""
        return self._runtime.present

    def open(self) -> None:
        """Open both ends of the tunnel; they are not waited for."""
        self._open(self.name, LIMITS)

    def open_bystander(self) -> None:
        """Open the tunnel beside it, with a connection that is kept."""
        name = self.bystander
        self._open(name, BYSTANDER_LIMITS)
        self.wait_connected(name)
        self.witness = self._stack.enter_context(self.client(name))
        self.check_witness()

    def _open(self, name: str, limits: Limits) -> None:
        tokens = self.tokens[name] = self.service.open_tunnel(name, [SERVICE_ID])
        common = TunnelConfig(
            name=f"{name} destination",
            mode=Mode.DESTINATION,
            endpoint=Endpoint.parse(self.service.endpoint),
            access_token=tokens.destination_token,
            services={SERVICE_ID: self._server.address},
            limits=limits,
        )
        source = replace(
            common,
            name=f"{name} source",
            mode=Mode.SOURCE,
            access_token=tokens.source_token,
            services={SERVICE_ID: TcpAddress("127.0.0.1", 0)},
        )
        for config in (source, common):
            self.runtime.open_tunnel(config)

    def label(self, mode: Mode) -> str:
        """The name of one end of the tunnel."""
        return f"{self.name} {mode.value}"

    def end(self, mode: Mode, name: str | None = None) -> Tunnel:
        """One end, in the runtime that has it now."""
        return self.runtime.tunnel(f"{name or self.name} {mode.value}")

    def wait_connected(self, name: str | None = None) -> None:
        """Wait until both ends are connected, and the source listens."""

        def connected() -> bool:
            try:
                ends = [self.end(mode, name) for mode in Mode]
            except KeyError:
                return False
            states = [each.stats.state for each in ends]
            listening = ends[0].listening if ends[0].mode is Mode.SOURCE else ends[1].listening
            return states == [TunnelState.CONNECTED] * 2 and SERVICE_ID in listening

        eventually(connected, f"{name or self.name} connected again")

    # -- applications

    def client(self, name: str | None = None) -> socket.socket:
        """A connected application of the source."""
        address = self.end(Mode.SOURCE, name).listening[SERVICE_ID]
        return connect(address, WAIT_SECONDS)

    def talk(self, data: bytes = GOODS) -> None:
        """Send bytes, end, and get them back.

        Raises:
            OSError: the connection was cut, or could not be made.
            KeyError: nothing listens.
            WrongBytesError: a byte was wrong, or an end a lie.
        """
        with self.client() as sock:
            exchange(sock, data)

    def try_to_talk(self, data: bytes = GOODS) -> bool:
        """The same, while something is killed; return whether it was not cut."""
        try:
            self.talk(data)
        except (OSError, KeyError):
            return False
        return True

    def check_witness(self) -> None:
        """The kept connection goes on."""
        assert self.witness is not None
        self.witness.sendall(b"still there?")
        assert receive_exactly(self.witness, 12) == b"still there?"

    # -- afterwards

    def actors(self) -> Counter[tuple[str, str]]:
        """How many actors there are, by class and label."""
        found: Counter[tuple[str, str]] = Counter()
        for dispatcher in self.runtime.dispatchers:
            for cell in list(dispatcher._cells):
                found[cell.actor_class.__name__, cell.label] += 1
        return found

    def failures(self) -> dict[str, int]:
        """The classes whose actors ended by an exception, in all runtimes of this test."""
        self._dispatchers |= {self.dispatcher, *self.runtime.dispatchers}
        found: Counter[str] = Counter()
        for each in self._dispatchers:
            found.update(each.stats.snapshot().actor_failures)
        return dict(found)

    def check_recovered(self) -> None:
        """Both ends are connected and carry, and have the actors that they had, and no others."""
        self.wait_connected()
        eventually(self.try_to_talk, f"{self.name} carries")
        eventually(self._is_at_rest, f"{self.name} at rest, not {self.actors()}")

    def _is_at_rest(self) -> bool:
        for mode in Mode:
            own = {
                name: n for (name, label), n in self.actors().items() if label == self.label(mode)
            }
            own.pop("StreamActor", None)
            listeners = 1 if mode is Mode.SOURCE else 0
            if own.pop("ListenerActor", 0) != listeners or own != dict.fromkeys(TREE, 1):
                return False
            if self.end(mode).status().connections_active:
                return False
        return True

    def check_gone(self, mode: Mode) -> None:
        """One end is over: its name is free, and no actor of it is left."""
        label = self.label(mode)
        eventually(
            lambda: (
                all(each.name != label for each in self.runtime.tunnels())
                and all(of != label for _, of in self.actors())
            ),
            f"the end of {label}, not {self.actors()}",
        )


TREE = ("TunnelSupervisor", "TunnelActor", "TransportSupervisor", "WebSocketActor")
"""The actors of a tunnel at rest, beside listeners and the streams that wait for connections."""


def _send(sock: socket.socket, data: bytes) -> None:
    # A connection that is cut is the reader's to report.
    with contextlib.suppress(OSError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
