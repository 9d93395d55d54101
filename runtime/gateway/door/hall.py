"""What all clients of a gateway's front doors share.

Owns nothing but the way to it: limits, numbers, the fleet, who may log in, and what is done about
a client that was refused. For the doors' thread.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pykka import ActorRef

from tunnelfleet.proto import TunnelClosed, printable
from tunnelfleet.runtime import TunnelRuntime, TunnelStateChanged
from tunnelfleet.runtime.gateway.log import RateLimit

from .crowd import Crowd
from .fleet_view import FleetView
from .handshake import Denial

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.config.door_users import DoorUsers
    from tunnelfleet.runtime.gateway.fleet_state import FleetState

    from .counters import DoorCounters
    from .crowd import DoorLimits
    from .identity import Identity
    from .resolver import OtherGateways, Resolver


logger = logging.getLogger(__name__)


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
