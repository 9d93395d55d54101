"""A tunnel for a test: its source and its destination are connected, and connections can be opened.

Owns both ends, the runtime that they share, and the applications' sockets that it gave out. All of
it ends with the pair, and the service forgets the tunnel.
"""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.kernel import Backoff
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.client import SecureTunnel
from tunnelfleet.runtime.client.options import SecureTunnelOptions
from tunnelfleet.runtime.runtime import TunnelRuntime

if TYPE_CHECKING:
    from .local_service import LocalService

DEFAULT_SERVICE: Final = "TEST"
"""The service id of a pair that is made without one."""

WAIT_SECONDS: Final = 30.0

PAIR_LIMITS: Final = Limits(
    backoff=Backoff(min_seconds=0.05, max_seconds=1.0), stop_timeout_seconds=1.0
)
"""A link that a test breaks comes back soon, and one that hangs does not hold up its end."""

_LOOPBACK: Final = "127.0.0.1"


class ConnectedPair:
    """A tunnel whose two ends are connected; a context manager.

    Each of its services leads to an application, which is one of three:

    - a server of yours: ``{"SSH": "127.0.0.1:22"}``. `connect` opens a connection to it;
    - the test itself: ``{"TEST": None}``, or just the id. `open` gives the sockets of both sides;
    - callbacks of the two `SecureTunnel`: an id in `messages`. Nothing listens for it.

    Args:
        service: where both ends connect.
        services: service id -> address of the server, or None; or ids alone.
        messages: service ids that the two clients speak by `send_message` and callbacks.
        source: more options of the `SecureTunnel` of the source, such as callbacks.
        destination: the same of the destination.
        timeout_seconds: how long connecting, and each call on a socket that it gives, may take.

    Attributes:
        name: the tunnel's name in the service.
        service: the service.
        source: a `SecureTunnel`, connected.
        destination: a `SecureTunnel`, connected.

    Raises:
        ConfigError: an id or an option cannot be used.
        TimeoutError: an end does not connect in time; the text says what is in the way.
    """

    def __init__(
        self,
        service: LocalService,
        services: Mapping[str, str | None] | Sequence[str] | None = None,
        *,
        messages: Sequence[str] = (),
        source: SecureTunnelOptions[SecureTunnel] | None = None,
        destination: SecureTunnelOptions[SecureTunnel] | None = None,
        timeout_seconds: float = WAIT_SECONDS,
    ) -> None:
        if isinstance(services, str) or isinstance(messages, str):
            raise ConfigError("service ids are given as a list: ['SSH']")
        if services is None:
            services = () if messages else (DEFAULT_SERVICE,)
        self.service = service
        self.name = f"pair-{uuid.uuid4().hex[:8]}"
        if not isinstance(services, Mapping):
            services = dict.fromkeys(services)
        self._leads_to: dict[str, str | None] = dict(services)
        self._ids = [*self._leads_to, *messages]
        if len(self._ids) != len(set(self._ids)):
            raise ConfigError(f"a service id is given twice: {', '.join(self._ids)}")
        self._options = source or {}, destination or {}
        self._timeout = timeout_seconds
        self._servers: dict[str, socket.socket] = {}
        self._addresses: dict[str, TcpAddress] = {}
        self._opening = threading.Lock()
        """Held from a connect to its accept, so that the two sockets belong together."""
        self._sockets: list[socket.socket] = []
        self._parts = ExitStack()
        self.source: SecureTunnel
        self.destination: SecureTunnel

    def __repr__(self) -> str:
        return f"<ConnectedPair {self.name} {', '.join(self._ids)}>"

    def __enter__(self) -> Self:
        with ExitStack() as parts:
            self._connect(parts)
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        for each in self._sockets:
            each.close()
        self._parts.close()

    # -- connections

    def open(self, service_id: str | None = None) -> tuple[socket.socket, socket.socket]:
        """Open a connection; return the application's socket at the source, and at the destination.

        Args:
            service_id: of a service that leads to the test; None if the pair has only one service.

        Raises:
            ConfigError: the service leads elsewhere, or is none of this pair.
            TimeoutError: the connection did not arrive at the destination.
        """
        service_id = self._known(service_id)
        if service_id not in self._servers:
            raise ConfigError(
                f"{service_id} leads to {self._leads_to[service_id]}: only its near side can be "
                "opened here, by connect()"
            )
        with self._opening:
            near = self.connect(service_id)
            try:
                return near, self.accept(service_id)
            except BaseException:
                near.close()
                raise

    def connect(self, service_id: str | None = None) -> socket.socket:
        """Connect to the source, as an operator's program does; the rest is not waited for.

        Raises:
            ConfigError: the service is none of this pair.
        """
        address = self.address(service_id)
        return self._kept(socket.create_connection((address.host, address.port), self._timeout))

    def accept(self, service_id: str | None = None) -> socket.socket:
        """Wait for the next connection at the destination; for who connects by `address`.

        Raises:
            ConfigError: the service leads elsewhere, or is none of this pair.
            TimeoutError: none arrives in time.
        """
        service_id = self._known(service_id)
        server = self._servers.get(service_id)
        if server is None:
            raise ConfigError(
                f"{service_id} leads to {self._leads_to[service_id]}, not to the test"
            )
        try:
            made, _ = server.accept()
        except TimeoutError:
            raise TimeoutError(
                f"no connection of {service_id} arrives at the destination within "
                f"{self._timeout:g} s: source {self.source.status().state}, "
                f"destination {self.destination.status().state}"
            ) from None
        made.settimeout(self._timeout)
        return self._kept(made)

    def address(self, service_id: str | None = None) -> TcpAddress:
        """Where the source listens for a service, with `host` and `port`.

        Raises:
            ConfigError: the service is none of this pair.
        """
        return self._addresses[self._known(service_id)]

    def port(self, service_id: str | None = None) -> int:
        """The port of `address`, on 127.0.0.1."""
        return self.address(service_id).port

    def _kept(self, made: socket.socket) -> socket.socket:
        """Close it with the pair, if the test does not."""
        self._sockets = [*(each for each in self._sockets if each.fileno() != -1), made]
        return made

    def _known(self, service_id: str | None) -> str:
        if service_id is None and len(self._leads_to) == 1:
            return next(iter(self._leads_to))
        if service_id is None or service_id not in self._leads_to:
            asked = "which service?" if service_id is None else f"no sockets for {service_id!r}:"
            raise ConfigError(f"{asked} this pair has {', '.join(self._leads_to) or 'none'}")
        return service_id

    # -- both ends

    def _connect(self, parts: ExitStack) -> None:
        tokens = self.service.open_tunnel(self.name, self._ids)
        parts.callback(self._forget_tunnel)
        near: dict[str, str] = dict.fromkeys(self._leads_to, f"{_LOOPBACK}:0")
        far = {sid: address or self._serve(sid, parts) for sid, address in self._leads_to.items()}
        runtime = parts.enter_context(TunnelRuntime(connect_rate_per_second=100.0))
        self.source, self.destination = (
            SecureTunnel(token, mode, self.service.endpoint, **self._with(runtime, mode, to, given))
            for token, mode, to, given in (
                (tokens.source_token, "source", near, self._options[0]),
                (tokens.destination_token, "destination", far, self._options[1]),
            )
        )
        for end in (self.source, self.destination):
            parts.enter_context(end)
        for end in (self.source, self.destination):
            end.wait_connected(self._timeout)
        for sid in near:
            address = runtime.tunnel(self.source.name).wait_listening(sid, self._timeout)
            assert isinstance(address, TcpAddress)
            self._addresses[sid] = address

    def _with(
        self,
        runtime: TunnelRuntime,
        mode: str,
        to: dict[str, str],
        given: SecureTunnelOptions[SecureTunnel],
    ) -> SecureTunnelOptions[SecureTunnel]:
        """Return the options of one end: what the pair needs, and over it what was given."""
        options: SecureTunnelOptions[SecureTunnel] = {
            "name": f"{self.name} {mode}",
            "runtime": runtime,
            "services": to,
            "limits": PAIR_LIMITS,
        }
        if self.service.ca_path is not None:
            options["root_ca"] = self.service.ca_path
        options.update(given)
        return options

    def _serve(self, service_id: str, parts: ExitStack) -> str:
        """Listen for the connections of a service that leads to the test; return where."""
        server = parts.enter_context(socket.create_server((_LOOPBACK, 0)))
        server.settimeout(self._timeout)
        self._servers[service_id] = server
        return str(TcpAddress(_LOOPBACK, server.getsockname()[1]))

    def _forget_tunnel(self) -> None:
        # A test may have closed it, or stopped the service.
        if self.name in self.service.service.open_names():
            self.service.service.close_tunnel(self.name)
