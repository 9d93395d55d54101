"""The tunnels of the demo: a service, pairs of tunnels through it, and this process's share.

Owns their opening and closing, and what they take of memory and threads.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import Limits, TunnelConfig
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import Backoff
from tunnelfleet.proto import ConfigError, Endpoint, Mode, counted
from tunnelfleet.runtime.runtime import TunnelRuntime
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.tunnel import Tunnel, TunnelStatus

from .servers import BULK, ECHO, HOST, HTTP, SERVICES

_STATM = Path("/proc/self/statm")


def rss_bytes() -> int:
    """Return the resident memory of this process."""
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def thread_count() -> int:
    """Return how many threads Python knows in this process."""
    return threading.active_count()


FILES_PER_TUNNEL: Final = 32
"""Two WebSockets, each with two ends; six listeners; four connections, each with four ends."""
FILES_BESIDE: Final = 128


def allow_files_for(tunnels: int) -> None:
    """Raise this process's limit of open files to what so many tunnels take.

    Raises:
        ConfigError: the hard limit does not allow it; the message says how many tunnels it allows.
    """
    wanted = FILES_BESIDE + tunnels * FILES_PER_TUNNEL
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        most = (hard - FILES_BESIDE) // FILES_PER_TUNNEL
        fewer = f"use --tunnels {most} or less, or " if most > 0 else ""
        raise ConfigError(
            f"{counted(tunnels, 'tunnel')} in one demo: it takes {wanted} open files, and this "
            f"process may have "
            f"{hard}: {fewer}raise the limit (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


SETTLE_SECONDS: Final = 1.0
"""How long after a disturbance an early end is still taken for its consequence."""


class TunnelLike(Protocol):
    """The part of a tunnel of the runtime that a pair uses."""

    def status(self) -> TunnelStatus:
        """Return how the tunnel is now."""


class TunnelPair:
    """Both ends of one demo tunnel. May be used from several threads.

    Args:
        name: the demo tunnel's name.
        source: its source.
        destination: its destination.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        name: str,
        source: TunnelLike,
        destination: TunnelLike,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.source = source
        self.destination = destination
        self._clock = clock
        self._disturbed_at = float("-inf")
        self._counters: tuple[int, ...] | None = None

    def is_whole(self) -> bool:
        """Return whether both ends are connected."""
        return all(end.status().state is TunnelState.CONNECTED for end in self._ends())

    def strike(self) -> None:
        """Note that the tunnel is about to be broken on purpose; call it before doing so."""
        self._disturbed_at = self._clock()

    def was_disturbed_since(self, moment: float) -> bool:
        """Return whether anything disturbed the tunnel's connections since `moment`, by its clock.

        A disturbance stays in force until both ends are connected, and `SETTLE_SECONDS` longer.
        """
        self._observe()
        return self._disturbed_at >= moment - SETTLE_SECONDS

    def now(self) -> float:
        """Look at the tunnel, and return the time for `was_disturbed_since`."""
        self._observe()
        return self._clock()

    def _observe(self) -> None:
        statuses = [end.status() for end in self._ends()]
        whole = all(status.state is TunnelState.CONNECTED for status in statuses)
        counters = tuple(n for each in statuses for n in (each.reconnects, each.session_resets))
        if not whole or counters != (self._counters or counters):
            self._disturbed_at = self._clock()
        self._counters = counters

    def _ends(self) -> tuple[TunnelLike, TunnelLike]:
        return self.source, self.destination


MACHINES: Final = ("press", "lathe", "robot", "kiln", "pump", "crane", "mixer", "oven")

BACKOFF: Final = Backoff(min_seconds=0.8, max_seconds=2.0, stability_seconds=1.0)
"""Short delays, so that one sees tunnels come back."""
LIMITS: Final = Limits(backoff=BACKOFF, ping_interval_seconds=5.0)
CONNECT_RATE_PER_SECOND: Final = 200.0


class DemoTunnel(TunnelPair):
    """A tunnel of the demo, both ends opened.

    Args:
        name: the tunnel's name.
        source: its source.
        destination: its destination.
    """

    def __init__(self, name: str, source: Tunnel, destination: Tunnel) -> None:
        super().__init__(name, source, destination)
        self._source = source

    def addresses(self) -> dict[str, tuple[str, int]] | None:
        """Return where the source listens by service id; None before it does for all of them."""
        listening = {
            service_id: (address.host, address.port)
            for service_id, address in self._source.listening.items()
            if isinstance(address, TcpAddress)
        }
        return listening if set(SERVICES) <= set(listening) else None


def tunnel_names(count: int) -> list[str]:
    """Return `count` names, such as `press-01`, in the order in which they sort."""
    digits = max(2, len(str(-(-count // len(MACHINES)))))
    names = (
        f"{machine}-{number + 1:0{digits}d}"
        for number in range(-(-count // len(MACHINES)))
        for machine in MACHINES
    )
    return sorted([name for name, _ in zip(names, range(count), strict=False)])


def tunnel_of(end_name: str) -> str:
    """Return the name of the tunnel that an end of the demo belongs to."""
    return end_name.rpartition(" ")[0]


def open_pair(
    name: str,
    service: TunnelService,
    runtime: TunnelRuntime,
    serve: Callable[[str], Mapping[str, int]],
) -> DemoTunnel:
    """Open a tunnel, with its servers, its destination and its source.

    Args:
        name: the tunnel's name.
        service: where it is opened.
        runtime: which runs both ends.
        serve: starts the servers of a tunnel and returns their ports.
    """
    tokens = service.open_tunnel(name, SERVICES)
    endpoint = Endpoint.parse(service.endpoint)
    ports = serve(name)
    destination = TunnelConfig(
        name=f"{name} destination",
        mode=Mode.DESTINATION,
        endpoint=endpoint,
        access_token=tokens.destination_token,
        services={service_id: TcpAddress(HOST, port) for service_id, port in ports.items()},
        limits=LIMITS,
    )
    source = TunnelConfig(
        name=f"{name} source",
        mode=Mode.SOURCE,
        endpoint=endpoint,
        access_token=tokens.source_token,
        bind_host=HOST,
        limits=LIMITS,
    )
    far_end = runtime.open_tunnel(destination)
    return DemoTunnel(name, runtime.open_tunnel(source), far_end)


def admin_lines(url: str) -> Sequence[str]:
    """Return what the administration server at `url` shows."""
    return (
        "Metrics, liveness and readiness of this fleet:",
        f"  {url}/metrics",
        f"  {url}/healthz  {url}/readyz",
    )


def guide_lines(
    name: str, addresses: Mapping[str, tuple[str, int]], endpoint: str, ca_path: str
) -> Sequence[str]:
    """Return how a person reaches a tunnel's services with programs of their own.

    Args:
        name: the tunnel.
        addresses: where its source listens.
        endpoint: of the service.
        ca_path: what a client has to trust; empty when it need not be told.
    """
    where = {service_id: f"{host}:{port}" for service_id, (host, port) in addresses.items()}
    host, port = addresses[ECHO]
    bulk_host, bulk_port = addresses[BULK]
    return (
        f"Through tunnel {name}, with programs of your own:",
        f"  {HTTP}  curl http://{where[HTTP]}/",
        f"        curl http://{where[HTTP]}/bytes/seed/1000000 | sha256sum",
        f"  {ECHO}  nc {host} {port}",
        f"  {BULK}  echo GET seed 1000000 | nc {bulk_host} {bulk_port} | sha256sum",
        f"The service is at {endpoint}",
        *([f"  its CA certificate is in {ca_path}"] if ca_path else []),
        "The tokens of these tunnels are in use.",
        "For a tunnel of your own: tunnelfleet service",
    )
