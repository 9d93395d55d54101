"""What the parts of one TunnelActor have in common.

Owns the protocol session, the settings that hold now, and how the tunnel's state and events are
told. A part is given this and never the actor, so that each can be made, and tested, alone.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from tunnelfleet.actors import events
from tunnelfleet.actors.events import TunnelEvent
from tunnelfleet.proto import Mode, Session

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.config import Limits
    from tunnelfleet.actors.state import TunnelState

    from .context import TunnelContext


class Common:
    """The session and the settings of one life of a TunnelActor.

    Args:
        context: what the tunnel's actors share.
        tunnel: the TunnelActor, for the actors that are started for it.

    Attributes:
        context: with the limits that hold now; `config` and `limits` are from it.
        stats: the counters of the tunnel.
        session: the protocol's state.
        tunnel: the TunnelActor.
        transport: the TransportSupervisor, while it is there.
        serials: numbers that tell apart what a peer may give the same ids.
    """

    __slots__ = (
        "config",
        "context",
        "limits",
        "serials",
        "session",
        "stats",
        "transport",
        "tunnel",
    )

    def __init__(self, context: TunnelContext, tunnel: ActorRef[Any]) -> None:
        config = context.config
        version = config.version if config.mode is Mode.SOURCE else None
        self.context = context
        self.config = config
        self.limits = config.limits
        self.stats = context.stats
        self.session = Session(config.mode, version, marks=config.marks)
        self.tunnel = tunnel
        self.transport: ActorRef[Any] | None = None
        self.serials = itertools.count(1)

    def replace_limits(self, limits: Limits) -> None:
        """Go by other limits from now on, where they are looked at while the tunnel runs."""
        self.context = self.context.with_limits(limits)
        self.config, self.limits = self.context.config, limits

    def publish(self, event: TunnelEvent) -> None:
        """Tell whoever wants to know what happens to the tunnel."""
        self.context.publish(event)

    def enter(self, state: TunnelState, reason: str = "") -> None:
        """Be in a state, for people; it is told where it is another one, or has another reason."""
        stats = self.stats
        if stats.enter(state, reason):
            reason = stats.reason
            stats.last_event = f"{state}: {reason}" if reason else str(state)
            self.publish(events.TunnelStateChanged(self.config.name, state, reason))

    def tell_transport(self, command: Any) -> None:
        """Tell the TransportSupervisor; while there is none, the next one begins anew anyway."""
        if self.transport is not None:
            self.transport.tell(command)
