"""The front doors of a gateway: the sockets they listen on, who accepts, and their start and end.

`Door` is what a program holds. Its sockets come first, so that a wrong address is told before
anything runs, and go last; a crash of `DoorActor`, which accepts, closes none of them. There are
two doors: the one of the settings, and a private one beside the admin socket, `connect.sock`, which
is always there and which `tunnelfleet connect` uses. Both speak SOCKS 5 and HTTP CONNECT.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tunnelfleet.actors.addresses import Address, TcpAddress, parse_address
from tunnelfleet.actors.kernel import ChildSpec, DispatchedActor
from tunnelfleet.actors.net.socket_io import ExhaustionLog
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.config import GatewaySettings
from tunnelfleet.runtime.gateway.config.paths import runtime_folder
from tunnelfleet.runtime.gateway.listening import Acceptor, DoorListener, MayAccept
from tunnelfleet.runtime.gateway.supervisor import child

from .hall import CountedSocket, Denied, DoorCounters, DoorLimits, GiveWay, Hall
from .identity import Identity
from .visitor import VisitorActor

if TYPE_CHECKING:
    from prometheus_client import Metric

    from tunnelfleet.runtime.gateway.gateway import Gateway

    from .resolver import OtherGateways, Resolver

logger = logging.getLogger(__name__)


class DoorActor(DispatchedActor):
    """Accepts clients.

    Args:
        listeners: what it listens on, non-blocking.
        hall: what all clients share.
        exhaustion: writes the log line about descriptors that are missing.
    """

    def __init__(
        self, listeners: Sequence[socket.socket], hall: Hall, exhaustion: ExhaustionLog
    ) -> None:
        super().__init__()
        self._hall = hall
        what = "accept at a front door"
        self._acceptor = Acceptor(self, listeners, exhaustion, what, self._take, self._relieve)

    def on_start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    def on_receive(self, message: Any) -> Any:
        """Accept again after a rest."""
        if isinstance(message, MayAccept):
            self._acceptor.start()
            return None
        return super().on_receive(message)

    def _take(self, sock: socket.socket, address: Any) -> None:
        is_unix = sock.family == socket.AF_UNIX
        peer = "" if is_unix else str(TcpAddress(address[0], address[1]))
        counted = CountedSocket(sock, self._hall.counters)
        self._hall.counters.accepted += 1
        visitor = VisitorActor.start(counted, peer, self.actor_ref, self._hall)
        self._hall.make_room(visitor)

    def _relieve(self) -> None:
        oldest = self._hall.crowd.oldest()
        if oldest is not None:
            oldest.tell(GiveWay())


DOOR = "door"
"""The id of the doors' actor among the gateway's children."""
CONNECT_SOCKET = "connect.sock"
"""The name of the private door's socket, beside the admin socket `admin.sock`."""
ADMIN_SOCKET = "admin.sock"
DOOR_MODE = 0o660
"""The mode of a door's Unix socket."""


def connect_path(settings: GatewaySettings, environ: Mapping[str, str] | None = None) -> Path:
    """Return where the private door is: beside the admin socket, or where that would be.

    Beside `x.sock` it is `x.connect.sock`: two gateways may have their sockets in one folder, and
    whoever names one of them must not reach the tunnels of the other.
    """
    text = settings.admin.removeprefix("unix:")
    if text != settings.admin or "/" in text:
        path = Path(text)
        own = (
            ""
            if path.name in (ADMIN_SOCKET, CONNECT_SOCKET)
            else f"{path.name.removesuffix('.sock')}."
        )
        return path.with_name(f"{own}{CONNECT_SOCKET}")
    return runtime_folder(os.environ if environ is None else environ) / CONNECT_SOCKET


class Door:
    """The front doors of a gateway. A context manager, or `open` and `close`.

        door = Door(config.gateway)
        with door, Gateway(load, config, more_children=lambda gateway: [door.child(gateway)]):
            ...

    Args:
        settings: of the gateway.
        limits: of the doors.
        on_denied: called with each client that was turned away because of who it is, on the
            gateway's thread; must not block.
        resolver: finds tunnels for names that the fleet does not have; None if nobody does.
        others: the way to other gateways of a shared fleet; None if it is not shared.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        limits: DoorLimits | None = None,
        on_denied: Callable[[Denied], object] = lambda _denied: None,
        resolver: Resolver | None = None,
        others: OtherGateways | None = None,
    ) -> None:
        self._settings = settings
        self._limits = limits or DoorLimits()
        self._on_denied = on_denied
        self._resolver = resolver
        self._others = others
        self._exhaustion = ExhaustionLog()
        self._listeners: list[DoorListener] = []
        self._identity: Identity | None = None
        self.hall: Hall | None = None
        self.counters = DoorCounters()
        self.address: Address | None = None
        """Where the door of the settings listens; None if there is none."""
        self.connect_path: Path | None = None
        """Where the private door is; None if it could not be opened."""

    def open(self) -> Self:
        """Listen. Clients wait until the gateway runs.

        Raises:
            ConfigError: the address of the settings cannot be listened on.
        """
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def _open(self) -> None:
        settings, backlog = self._settings, self._limits.listen_backlog
        if settings.door is not None:
            address = parse_address(settings.door)
            if isinstance(address, TcpAddress):
                listener = DoorListener.at_tcp(address, backlog=backlog)
            else:
                listener = DoorListener.at_unix(address.path, mode=DOOR_MODE, backlog=backlog)
            self._listeners.append(listener)
            self.address = listener.address
        path = connect_path(settings)
        mode, group = settings.admin_mode, settings.admin_group
        try:
            private = DoorListener.at_unix(path, mode=mode, group=group, backlog=backlog)
        except ConfigError as error:
            # The tunnels do not need it, and another gateway of this user may have it.
            logger.warning("tunnelfleet connect cannot be used with this gateway: %s", error)
        else:
            self._listeners.append(private)
            self.connect_path = path

    def child(self, gateway: Gateway) -> ChildSpec:
        """Return how the gateway runs the doors' actor, as one of `more_children`."""
        self._identity = Identity(self._limits.max_logins)
        self.hall = hall = Hall(
            gateway.state,
            lambda: gateway.runtime,
            self._limits,
            self.counters,
            self._identity,
            self._on_denied,
            self._resolver,
            self._others,
        )
        gateway.collector.add(self.collect)
        if self.address is not None:
            logger.info(
                "the front door is at %s",
                self.address,
                extra={"event": "door", "fields": {"address": str(self.address)}},
            )
        sockets = [sock for listener in self._listeners for sock in listener.sockets]
        start = functools.partial(DoorActor.start, sockets, hall, self._exhaustion)
        return child(DOOR, start)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of the doors."""
        return self.counters.collect()

    def close(self) -> None:
        """Close the doors, when the gateway has ended. Safe to call twice."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        identity, self._identity = self._identity, None
        if identity is not None:
            identity.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_exc_info: object) -> None:
        self.close()
