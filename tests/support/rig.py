"""The rig of the end-to-end tests: a service, a runtime, and pairs of tunnels through it.

    with Rig(tls=True) as rig:
        echo = rig.backends.echo()
        pair = rig.pair({"SSH": echo.address})
        with pair.connect("SSH") as client:
            client.sendall(b"hello")

Owns what every such test sets up and takes down. `pair` returns when both tunnels
are connected and every service is listened on. It knows no program and no fault: tests bring those.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from tests.support.backends import Backends
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime import (
    ANY_SERVICE,
    Address,
    Backoff,
    Endpoint,
    Limits,
    Mode,
    ProtocolVersion,
    TcpAddress,
    Tunnel,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
)
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tunnelfleet.actors.events import TunnelEvent
    from tunnelfleet.runtime.service import ServiceEvent, TunnelTokens

READ_BYTES = 262_144
CONNECTS_PER_SECOND = 1_000.0

FAST_BACKOFF = Backoff(min_seconds=0.02, max_seconds=0.2, stability_seconds=5.0)
FAST_LIMITS = Limits(
    backoff=FAST_BACKOFF,
    connect_timeout_seconds=WAIT_SECONDS,
    announce_timeout_seconds=WAIT_SECONDS,
    stop_timeout_seconds=5.0,
)
"""Quick to come back, otherwise as they are by default. Use `dataclasses.replace` for others."""


class Events:
    """Collects the events of a runtime or a service; a test waits for what it needs."""

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, event: TunnelEvent | ServiceEvent) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def all(self) -> list[Any]:
        """Every event so far; those that are still on their way are not among them."""
        with self._changed:
            return list(self._events)

    def wait(
        self, matches: Callable[[Any], bool], timeout_seconds: float = WAIT_SECONDS, count: int = 1
    ) -> list[Any]:
        """Wait until `count` events match; returns all that do."""

        def found() -> list[Any]:
            return [event for event in self._events if matches(event)]

        with self._changed:
            enough = self._changed.wait_for(lambda: len(found()) >= count, timeout_seconds)
            assert enough, f"no such event in {timeout_seconds:g} s; there were {self._events}"
            return found()


@dataclass(frozen=True)
class Pair:
    """Source and destination of one tunnel of the service."""

    name: str
    tokens: TunnelTokens
    source: Tunnel
    destination: Tunnel

    def address(self, service_id: str | None = None) -> Address:
        """Where the source listens for a service; None is for a tunnel with one service."""
        if service_id is None:
            (service_id,) = self.source.config.services or [ANY_SERVICE]
        return self.source.wait_listening(service_id, WAIT_SECONDS)

    def tcp(self, service_id: str | None = None) -> TcpAddress:
        """The same, of a service that listens on TCP."""
        address = self.address(service_id)
        assert isinstance(address, TcpAddress)
        return address

    def connect(self, service_id: str | None = None) -> socket.socket:
        """A connected client of a service."""
        return connect(self.address(service_id))


class Rig:
    """A service, a runtime, servers; a context manager.

    Args:
        tls: whether the service speaks TLS.
        host: where the service listens.
        bandwidth_bytes_per_second: the service's limit of each direction of each tunnel.
        certificate: of the service, instead of one that it makes.
        private_key: of that certificate.
        runtime_options: more arguments of TunnelRuntime.

    Attributes:
        service: the TunnelService.
        runtime: the TunnelRuntime that holds the pairs.
        backends: real servers.
        events: of the runtime.
        service_events: of the service.
    """

    def __init__(
        self,
        *,
        tls: bool = True,
        host: str = "127.0.0.1",
        bandwidth_bytes_per_second: float | None = None,
        certificate: Path | None = None,
        private_key: Path | None = None,
        **runtime_options: Any,
    ) -> None:
        self.events = Events()
        self.service_events = Events()
        self.backends = Backends()
        self.service = TunnelService(
            tls=tls,
            host=host,
            bandwidth_bytes_per_second=bandwidth_bytes_per_second,
            certificate=certificate,
            private_key=private_key,
            on_event=self.service_events,
        )
        self._runtime_options = runtime_options
        self._runtime: TunnelRuntime | None = None
        self._names = itertools.count(1)
        self._stack = contextlib.ExitStack()

    @property
    def runtime(self) -> TunnelRuntime:
        """The runtime that holds the pairs."""
        assert self._runtime is not None, "use the rig as a context manager"
        return self._runtime

    @property
    def endpoint(self) -> Endpoint:
        """The service's."""
        return Endpoint.parse(self.service.endpoint)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.backends)
            stack.enter_context(self.service)
            self._runtime = stack.enter_context(self.make_runtime(self.events))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def make_runtime(self, on_event: Callable[[TunnelEvent], None] | None = None) -> TunnelRuntime:
        """A runtime that trusts the service, not started; the rig has one already."""
        options = {
            "connect_rate_per_second": CONNECTS_PER_SECOND,
            "ssl_context": self.service.ssl_context() if self.endpoint.is_tls else None,
            "on_event": on_event,
            **self._runtime_options,
        }
        return TunnelRuntime(**options)

    def pair(
        self,
        services: Mapping[str, Address],
        *,
        name: str | None = None,
        version: ProtocolVersion = ProtocolVersion.V3,
        service_ids: Sequence[str] | None = None,
        listen: Mapping[str, Address] | None = None,
        limits: Limits = FAST_LIMITS,
        source_limits: Limits | None = None,
        destination_limits: Limits | None = None,
        runtimes: tuple[TunnelRuntime, TunnelRuntime] | None = None,
        bandwidth_bytes_per_second: float | None = None,
        wait: bool = True,
        **config: Any,
    ) -> Pair:
        """Open a tunnel in the service and both ends of it in the runtime.

        Args:
            services: what the destination connects to, by service id.
            name: of the tunnel; the ends are "NAME source" and "NAME destination".
            version: what the source speaks.
            service_ids: what the service announces; the ids in `services` when None.
            listen: where the source listens, by service id; free ports of 127.0.0.1 when None.
            limits: of both ends.
            source_limits: of the source, instead of `limits`.
            destination_limits: of the destination, instead of `limits`.
            runtimes: which hold source and destination; the rig's own when None.
            bandwidth_bytes_per_second: what both ends pace to.
            wait: whether to wait until both are connected and listening.
            config: more fields of both ends' TunnelConfig.
        """
        name = name or f"tunnel-{next(self._names)}"
        if service_ids is None:
            service_ids = [each for each in services if each]
        tokens = self.service.open_tunnel(name, service_ids)
        common = TunnelConfig(
            name=f"{name} destination",
            mode=Mode.DESTINATION,
            endpoint=self.endpoint,
            access_token=tokens.destination_token,
            services=services,
            limits=destination_limits or limits,
            bandwidth_bytes_per_second=bandwidth_bytes_per_second,
            **config,
        )
        source = replace(
            common,
            name=f"{name} source",
            mode=Mode.SOURCE,
            access_token=tokens.source_token,
            services=listen or {each: TcpAddress("127.0.0.1", 0) for each in services},
            version=version,
            limits=source_limits or limits,
        )
        for_source, for_destination = runtimes or (self.runtime, self.runtime)
        destination_tunnel = for_destination.open_tunnel(common)
        pair = Pair(name, tokens, for_source.open_tunnel(source), destination_tunnel)
        if wait:
            self.wait_connected(pair)
            for service_id in source.services or {}:
                pair.address(service_id)
        return pair

    def wait_connected(self, *pairs: Pair, timeout_seconds: float = WAIT_SECONDS) -> None:
        """Wait until both ends of every pair are connected."""
        for pair in pairs:
            pair.destination.wait_for(TunnelState.CONNECTED, timeout_seconds)
            pair.source.wait_for(TunnelState.CONNECTED, timeout_seconds)


# -- clients


def connect(address: Address, timeout_seconds: float = 60.0) -> socket.socket:
    """A connected socket; all its operations end after the timeout."""
    if isinstance(address, TcpAddress):
        return socket.create_connection((address.host, address.port), timeout=timeout_seconds)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_seconds)
    try:
        sock.connect(address.path)
    except BaseException:
        sock.close()
        raise
    return sock


def receive_exactly(sock: socket.socket, size_bytes: int) -> bytes:
    """Read so many bytes; an end before that is an error."""
    parts = bytearray()
    while len(parts) < size_bytes:
        data = sock.recv(min(READ_BYTES, size_bytes - len(parts)))
        assert data, f"ended after {len(parts)} of {size_bytes} bytes"
        parts += data
    return bytes(parts)


def receive_to_end(sock: socket.socket) -> Iterator[bytes]:
    """What comes until the other side ends; a reset raises ConnectionResetError."""
    while data := sock.recv(READ_BYTES):
        yield data


def receive_rest(sock: socket.socket) -> bytes:
    """The same in one piece."""
    return b"".join(receive_to_end(sock))


def echo(sock: socket.socket, data: bytes) -> bytes:
    """Send `data` while reading as much back, however large it is."""

    def send() -> None:
        # A connection that breaks is the reader's to report.
        with contextlib.suppress(OSError):
            sock.sendall(data)

    sender = threading.Thread(target=send, name="echo sender", daemon=True)
    sender.start()
    try:
        return receive_exactly(sock, len(data))
    finally:
        sender.join(WAIT_SECONDS)
