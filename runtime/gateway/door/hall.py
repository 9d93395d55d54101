"""What all clients of a gateway's front doors share: bounds, places, numbers, who is told.

Owns the limits of the doors, whose turn it is to go when all places are taken (`Crowd`, pure), what
is counted, and what is done about a client that was refused. For the doors' thread, but for the
ends of counted sockets, which tunnels close on theirs.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from pykka import ActorRef

from tunnelfleet.actors.net.socket_io import AcceptedSocket
from tunnelfleet.proto import ConfigError, TunnelClosed, printable
from tunnelfleet.runtime import TunnelRuntime, TunnelStateChanged
from tunnelfleet.runtime.gateway.log import RateLimit

from .fleet_view import FleetView
from .handshake import Denial

if TYPE_CHECKING:
    from prometheus_client import Metric

    from tunnelfleet.runtime.gateway.config.door_users import DoorUsers
    from tunnelfleet.runtime.gateway.fleet_state import FleetState

    from .identity import Identity
    from .resolver import OtherGateways, Resolver

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """Every bound of a gateway's front doors, by name. All doors share them."""

    handshake_seconds: float = 10.0
    """How long a client may take, from its connect, to say where it wants to go."""
    max_handshakes: int = 256
    """Clients that have not said it yet, or were refused and are about to go; a further one takes
    the place of the oldest."""
    max_waiting: int = 256
    """Clients that wait for a tunnel which is not connected; a further one is refused."""
    max_connections: int = 4_096
    """Sockets that came through a front door and are open; a further client is refused."""
    resolve_seconds: float = 300.0
    """What whoever opens tunnels on demand has to answer, at the longest."""
    answer_seconds: float = 10.0
    """How long a tunnel may take to say whether it takes a client."""
    linger_seconds: float = 2.0
    """How long a refused client may take to read why, and to close."""
    listen_backlog: int = 256
    """Clients that may wait in the kernel."""
    max_logins: int = 64
    """Passwords that may wait to be checked, two at a time."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0:
                raise ConfigError(f"{each.name} is {value!r}: it must be greater than 0")


Client = TypeVar("Client")


class Crowd(Generic[Client]):
    """The clients whose handshake is not over.

    Args:
        limits: of the doors.
    """

    def __init__(self, limits: DoorLimits) -> None:
        self._limits = limits
        self._yielding: dict[Client, None] = {}
        self._waiting: set[Client] = set()

    @property
    def yielding(self) -> int:
        """How many clients would have to go for others."""
        return len(self._yielding)

    @property
    def waiting(self) -> int:
        """How many clients wait for their tunnel."""
        return len(self._waiting)

    def enter(self, client: Client) -> Client | None:
        """Enter a client that came or was refused; return the one that must go for it, if any."""
        self.leave(client)
        self._yielding[client] = None
        return self.oldest() if len(self._yielding) > self._limits.max_handshakes else None

    def oldest(self) -> Client | None:
        """Remove and return the client that would have to go first."""
        client = next(iter(self._yielding), None)
        if client is not None:
            del self._yielding[client]
        return client

    def named(self, client: Client) -> None:
        """A client has said where it wants to go: it gives way to nobody any more."""
        self._yielding.pop(client, None)

    def wait(self, client: Client) -> bool:
        """Let a client wait for its tunnel; return whether it may."""
        if client not in self._waiting and len(self._waiting) >= self._limits.max_waiting:
            return False
        self._waiting.add(client)
        return True

    def leave(self, client: Client) -> None:
        """Forget a client that is gone, or that a tunnel has. Safe to call twice."""
        self._yielding.pop(client, None)
        self._waiting.discard(client)


_HELP = {
    "tunnelfleet_door_accepted": "Clients that connected to a front door.",
    "tunnelfleet_door_connections": "Connections that came through a front door and are open.",
    "tunnelfleet_door_handed_over": "Connections that a front door handed over to a tunnel.",
    "tunnelfleet_door_denied": "Clients that a front door refused, by reason.",
    "tunnelfleet_door_handshakes": "Clients in their handshake, or refused and about to go.",
    "tunnelfleet_door_left": "Clients that left, or were late, before they had said all.",
}
_COUNTERS = ("accepted", "handed_over", "denied", "left")
DOOR_METRICS = frozenset(
    f"{name}_total" if name.removeprefix("tunnelfleet_door_") in _COUNTERS else name
    for name in _HELP
)
"""The names of all metrics of front doors."""

PROTOCOLS = ("http", "socks5", "fleet")


class DoorCounters:
    """The numbers of all front doors of a gateway.

    Attributes:
        accepted: clients that connected.
        handed_over: connections that a tunnel has taken, by protocol.
        denied: clients that were refused, by `Denial`.
        left: clients that left or were too late before they had said all.
        handshakes: tells how many are in their handshake, or about to go.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.handed_over = Counter(dict.fromkeys(PROTOCOLS, 0))
        self.denied = Counter(dict.fromkeys(Denial, 0))
        self.left = 0
        self.handshakes: Callable[[], int] = lambda: 0
        self._open = 0
        self._lock = threading.Lock()

    @property
    def open(self) -> int:
        """Sockets that came through a front door and are not closed, whoever has them."""
        return self._open

    def opened(self, change: int) -> None:
        """Count that so many more, or fewer, sockets are open. Any thread."""
        with self._lock:
            self._open += change

    def collect(self) -> Iterator[Metric]:
        """Return the families, for a collector of prometheus_client."""
        yield self._counter("accepted", self.accepted)
        yield self._counter("left", self.left)
        family = self._counter("handed_over", None, "protocol")
        for protocol, count in self.handed_over.items():
            family.add_metric([protocol], count)
        yield family
        family = self._counter("denied", None, "reason")
        for refusal, count in self.denied.items():
            family.add_metric([refusal.value], count)
        yield family
        for name, value in (("connections", self.open), ("handshakes", self.handshakes())):
            full = f"tunnelfleet_door_{name}"
            yield GaugeMetricFamily(full, _HELP[full], value=value)

    @staticmethod
    def _counter(name: str, value: int | None, *labels: str) -> CounterMetricFamily:
        full = f"tunnelfleet_door_{name}"
        return CounterMetricFamily(full, _HELP[full], value=value, labels=labels or None)


class CountedSocket(AcceptedSocket):
    """A socket that is counted as open until it is closed, by whomever.

    Args:
        accepted: the socket; this one takes its place.
        counters: where it counts.
    """

    def __init__(self, accepted: socket.socket, counters: DoorCounters) -> None:
        self._counters: DoorCounters | None = None
        super().__init__(accepted)
        self._counters = counters
        counters.opened(1)

    def close(self) -> None:
        """Close the socket."""
        counters, self._counters = self._counters, None
        super().close()
        if counters is not None:
            counters.opened(-1)


class GiveWay(NamedTuple):
    """A new client needs the place of one that has said nothing, or was refused."""


class Denied(NamedTuple):
    """A front door has turned a client away because of who it is.

    Attributes:
        time: in seconds of the Unix epoch.
        peer: where it is: `HOST:PORT`, or `pid=N`.
        user: who it is, or says it is; empty if nobody knows.
        target: what it asked for; empty if it had not yet.
        refusal: `login` or `rule`.
        reason: for people.
    """

    time: float
    peer: str
    user: str
    target: str
    refusal: str
    reason: str


TOLD_REFUSALS = 10
"""Of one client and one kind in `TOLD_SECONDS`; more are counted, and the next one tells how many:
whoever is refused again and again must not push out of log, events and audit what others did."""
TOLD_SECONDS = 60.0


class Hall:
    """See above.

    Args:
        state: what FleetActor knows.
        runtime: returns the runtime that has the tunnels now.
        limits: of the doors.
        counters: the numbers.
        identity: says who clients are.
        on_denied: is told who was turned away; must not block.
        resolver: finds tunnels for names that the fleet does not have; None if nobody does.
        others: the way to other gateways of a shared fleet; None if it is not shared.
    """

    def __init__(
        self,
        state: FleetState,
        runtime: Callable[[], TunnelRuntime],
        limits: DoorLimits,
        counters: DoorCounters,
        identity: Identity,
        on_denied: Callable[[Denied], object],
        resolver: Resolver | None = None,
        others: OtherGateways | None = None,
    ) -> None:
        self._state = state
        self._runtime = runtime
        self._on_denied = on_denied
        self._told = RateLimit(TOLD_REFUSALS, TOLD_SECONDS)
        self.limits = limits
        self.counters = counters
        self.identity = identity
        self.resolver = resolver
        self.others = others
        self.view = FleetView(state, runtime, resolver, is_shared=others is not None)
        self.crowd: Crowd[ActorRef[Any]] = Crowd(limits)
        counters.handshakes = lambda: self.crowd.yielding

    def users(self) -> DoorUsers | None:
        """Those of whom one must log in at a TCP door, as the files say now; None for nobody."""
        return self._state.config.gateway.door_users

    def subscribe(self, subscriber: ActorRef[Any], tunnel: str) -> None:
        """Have an actor told of the states of a tunnel, until it ends."""
        # Without a runtime nobody tells, and it has to look by itself.
        with contextlib.suppress(TunnelClosed):
            self._runtime().subscribe(subscriber, tunnels=[tunnel], kinds=[TunnelStateChanged])

    def make_room(self, client: ActorRef[Any]) -> None:
        """A client has come, or was refused: if there are too many, the oldest one has to go."""
        oldest = self.crowd.enter(client)
        if oldest is not None:
            oldest.tell(GiveWay())

    def denied(
        self, refusal: Denial, text: str, *, peer: str, user: str, target: str | None
    ) -> None:
        """A client was refused: count it, log it, and tell of it if it is one for the audit."""
        self.counters.denied[refusal] += 1
        # By its host, for ports and processes are new each time; a name it may not have.
        client = user if peer.startswith("pid=") else peer.rpartition(":")[0]
        left_out = self._told.admit((refusal, client))
        if left_out is None:
            return
        if left_out:
            text = f"{text} (and {left_out} more like it before)"
        who, asked = printable(user), printable(target or "")
        # Without a name it was asked who it is, as clients of HTTP begin.
        is_audited = refusal is Denial.RULE or (refusal is Denial.LOGIN and bool(user))
        logger.log(
            logging.WARNING if is_audited else logging.INFO,
            "the front door refused %s%s: %s",
            f"{who} at {peer}" if who else peer,
            f", who asked for {asked}" if asked else "",
            printable(text, 400),
            extra={
                "event": "door_refused",
                "by_stranger": True,
                "fields": {
                    "refusal": refusal.value,
                    "peer": peer,
                    "user": who,
                    "target": asked,
                },
            },
        )
        if is_audited:
            self._on_denied(Denied(time.time(), peer, who, asked, refusal.value, text))
