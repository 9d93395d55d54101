"""Door: the front doors of a gateway as a program holds them.

Owns the sockets that are listened on and the order in which things begin and end: the sockets come
first, so that a wrong address is told before anything runs, and go last. There are two doors: the
one of the settings, and a private one beside the admin socket, `connect.sock`, which is always
there and which `tunnelfleet connect` uses. Both speak SOCKS 5 and HTTP CONNECT.

    door = Door(config.gateway)
    with door, Gateway(load, config, more_children=lambda gateway: [door.child(gateway)]):
        ...
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tunnelfleet.actors.addresses import TcpAddress, parse_address
from tunnelfleet.actors.net.exhaustion import ExhaustionLog
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.config.paths import runtime_folder
from tunnelfleet.runtime.gateway.supervisor import child

from .actor import DoorActor
from .counters import DoorCounters
from .crowd import DoorLimits
from .hall import Denied, Hall
from .identity import Identity
from .listening import DoorListener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric

    from tunnelfleet.actors.addresses import Address
    from tunnelfleet.actors.kernel import ChildSpec
    from tunnelfleet.runtime.gateway.config import GatewaySettings
    from tunnelfleet.runtime.gateway.gateway import Gateway

    from .resolver import Resolver

__all__ = ["CONNECT_SOCKET", "DOOR", "Door", "connect_path"]

DOOR = "door"
"""The id of the doors' actor among the gateway's children."""
CONNECT_SOCKET = "connect.sock"
"""Beside the admin socket."""
DOOR_MODE = 0o660
"""Of a door at a Unix socket."""

logger = logging.getLogger(__name__)


def connect_path(settings: GatewaySettings, environ: Mapping[str, str] | None = None) -> Path:
    """Where the private door is: beside the admin socket, or where that would be."""
    text = settings.admin.removeprefix("unix:")
    if text != settings.admin or "/" in text:
        return Path(text).with_name(CONNECT_SOCKET)
    return runtime_folder(os.environ if environ is None else environ) / CONNECT_SOCKET


class Door:
    """The front doors of a gateway. A context manager, or `open` and `close`.

    Args:
        settings: of the gateway.
        limits: of the doors.
        on_denied: called with each client that was turned away because of who it is, on the
            gateway's thread; must not block.
        resolver: finds tunnels for names that the fleet does not have; None if nobody does.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        limits: DoorLimits | None = None,
        on_denied: Callable[[Denied], object] = lambda _denied: None,
        resolver: Resolver | None = None,
    ) -> None:
        self._settings = settings
        self._limits = limits or DoorLimits()
        self._on_denied = on_denied
        self._resolver = resolver
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
        """How the gateway runs it, as one of `more_children`."""
        self._identity = Identity(self._limits.max_logins)
        self.hall = hall = Hall(
            gateway.state,
            lambda: gateway.runtime,
            self._limits,
            self.counters,
            self._identity,
            self._on_denied,
            self._resolver,
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
        """Its metrics."""
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
