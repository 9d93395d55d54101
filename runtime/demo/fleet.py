"""Opening the demo's tunnels: in the service, in the runtime, with servers behind them.

Owns their names, their configuration and how a person reaches them. Must not know traffic or views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tunnelfleet.actors.config import Limits, TcpAddress, TunnelConfig
from tunnelfleet.actors.kernel import Backoff
from tunnelfleet.proto import Endpoint, Mode

from .pairs import TunnelPair
from .servers import BULK, ECHO, HOST, HTTP, SERVICES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tunnelfleet.runtime.runtime import Tunnel, TunnelRuntime
    from tunnelfleet.runtime.service import TunnelService

MACHINES: Final = ("press", "lathe", "robot", "kiln", "pump", "crane", "mixer", "oven")

BACKOFF: Final = Backoff(min_seconds=0.8, max_seconds=2.0, stability_seconds=1.0)
"""Quick, so that one sees tunnels come back."""
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
