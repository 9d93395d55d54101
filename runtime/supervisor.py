"""The root of a runtime's actors, how its children are kept up, and where its tunnels run.

Owns what is restarted, after how long, how long a stop may take, and what is quarantined; which
actors the parts of a tunnel are; and what a runtime asks of the place where tunnels run, which is
its own process unless a host says otherwise. It does not know which tunnels there are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pykka import ActorRef

from tunnelfleet.actors.events import EventRelay, Subscribe, TunnelEvent
from tunnelfleet.actors.kernel import (
    Backoff,
    ChildSpec,
    Dispatcher,
    ExitReason,
    Restart,
    SupervisorActor,
)
from tunnelfleet.actors.transport.connect_gate import ConnectGate
from tunnelfleet.actors.transport.governor import ConnectGovernor
from tunnelfleet.actors.tunnel.context import Services, TunnelContext, TunnelParts
from tunnelfleet.actors.tunnel.supervisors import TunnelSupervisor

if TYPE_CHECKING:
    from .tunnel import Tunnel


GOVERNOR = "governor"
RELAY = "events"
SHARED_BACKOFF = Backoff(min_seconds=0.05, max_seconds=5.0)
"""The backoff of what all tunnels share: with one, its crashes never end the runtime."""


class RuntimeSupervisor(SupervisorActor):
    """The root of a runtime's actors.

    Args:
        services: what tunnels look up.
        children: its first children.
        on_ended: called in its last turn with its reason; must not block.
    """

    def __init__(
        self,
        services: Services,
        children: list[ChildSpec],
        on_ended: Callable[[ExitReason], None] = lambda _reason: None,
    ) -> None:
        self._services = services
        self._on_ended = on_ended
        super().__init__(children)

    def _on_end(self, reason: ExitReason) -> None:
        super()._on_end(reason)
        self._on_ended(reason)

    def on_child_started(self, child_id: str, ref: ActorRef[Any]) -> None:
        """Keep the present governor and relay where tunnels look for them."""
        if child_id == GOVERNOR:
            self._services.governor = ref
        elif child_id == RELAY:
            self._services.relay = ref


def relay_spec(
    observe: Callable[[TunnelEvent], None], subscriptions: Callable[[], list[Subscribe]]
) -> ChildSpec:
    """Return how the event relay is run.

    Args:
        observe: called with each event in the relay's turn; must not block or raise.
        subscriptions: tells whom each new relay begins with.
    """

    def start() -> ActorRef[Any]:
        return EventRelay.start(observe, subscriptions())

    return ChildSpec(id=RELAY, start=start, backoff=SHARED_BACKOFF)


def governor_spec(
    gate: ConnectGate, rate_per_second: float, concurrency: int, per_endpoint: int | None = None
) -> ChildSpec:
    """How the governor of all tunnels' connects is run; the arguments are `ConnectGovernor`'s."""
    start = functools.partial(
        ConnectGovernor.start,
        rate_per_second=rate_per_second,
        concurrency=concurrency,
        per_endpoint=per_endpoint,
        gate=gate,
    )
    return ChildSpec(id=GOVERNOR, start=start, backoff=SHARED_BACKOFF)


def tunnel_child_id(name: str) -> str:
    """Return the id of a tunnel's supervisor among the root's children."""
    return f"tunnel {name}"


TUNNEL_BACKOFF = Backoff(min_seconds=0.5, max_seconds=60.0)
QUARANTINE_AFTER = 5
STOP_MARGIN_SECONDS = 3.0
"""Added to a tunnel's own stop timeout before its supervisor is killed."""


def tunnel_spec(tunnel: Tunnel, parts: TunnelParts, dispatcher: Dispatcher) -> ChildSpec:
    """Return how a tunnel is run.

    Args:
        tunnel: the handle on it.
        parts: of this run of the runtime.
        dispatcher: that it lives on, now and after each restart.
    """
    return ChildSpec(
        id=tunnel_child_id(tunnel.name),
        start=functools.partial(tunnel.start_actors, parts, dispatcher),
        restart=Restart.PERMANENT,
        shutdown=tunnel.config.limits.stop_timeout_seconds + STOP_MARGIN_SECONDS,
        backoff=TUNNEL_BACKOFF,
        quarantine_after=QUARANTINE_AFTER,
        # Tunnels stop together: one waits for its service, and thousands would for each other.
        independent=True,
    )


CHILD_SHUTDOWN_SECONDS = 30.0
CHILD_BACKOFF = Backoff(min_seconds=0.2, max_seconds=30.0)
"""The backoff of a runtime that is a host's child."""


def runtime_spec(child_id: str, start: Callable[[], ActorRef[Any]]) -> ChildSpec:
    """Return how a host's supervisor runs a whole runtime.

    Args:
        child_id: its id among the host's children.
        start: starts the runtime and returns its root.
    """
    return ChildSpec(
        id=child_id, start=start, shutdown=CHILD_SHUTDOWN_SECONDS, backoff=CHILD_BACKOFF
    )


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
        """Return how the governor is run."""
        return governor_spec(gate, rate_per_second, concurrency, per_endpoint)
