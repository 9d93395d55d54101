"""Where the tunnels of a runtime run: in its own process, unless a host says otherwise.

Owns what a runtime asks of such a place, and the ordinary one. A place starts one actor a tunnel,
which takes the tunnel's commands and keeps its counters, and one actor that all tunnels share, in
the place of the governor. The runtime does not know what those do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tunnelfleet.actors.tunnel.supervisors import TunnelSupervisor

from .supervisor import governor_spec

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import ChildSpec, Dispatcher
    from tunnelfleet.actors.transport.connect_gate import ConnectGate
    from tunnelfleet.actors.tunnel.context import TunnelContext

__all__ = ["OwnProcess", "TunnelHome"]


class TunnelHome(Protocol):
    """Where tunnels run."""

    def start_tunnel(self, context: TunnelContext, dispatcher: Dispatcher) -> ActorRef[Any]:
        """Start the actor of a tunnel, which takes what a `TunnelSupervisor` does."""

    def governor_spec(
        self, gate: ConnectGate, rate_per_second: float, concurrency: int, per_endpoint: int | None
    ) -> ChildSpec:
        """How what governs the connects of all tunnels is run; see `supervisor.governor_spec`."""


class OwnProcess:
    """The process of the runtime."""

    def start_tunnel(self, context: TunnelContext, dispatcher: Dispatcher) -> ActorRef[Any]:
        """Start a tunnel's supervisor."""
        return TunnelSupervisor.start(context, dispatcher=dispatcher)

    def governor_spec(
        self, gate: ConnectGate, rate_per_second: float, concurrency: int, per_endpoint: int | None
    ) -> ChildSpec:
        """How the governor is run."""
        return governor_spec(gate, rate_per_second, concurrency, per_endpoint)
