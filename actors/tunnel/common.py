"""What the parts of one TunnelActor have in common.

Owns the protocol session, the settings that hold now, how the tunnel's state and events are told,
and how far its end has come. A part is given this and never the actor, so that each can be made,
and tested, alone.
"""

from __future__ import annotations

import itertools
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from tunnelfleet.actors import events
from tunnelfleet.actors.events import TunnelEvent
from tunnelfleet.proto import Mode, Session

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.config import Limits
    from tunnelfleet.actors.state import TunnelState

    from .context import TunnelContext
    from .messages import Quiesce


class EndingPhase(Enum):
    """How far the end of a tunnel has come; it only goes forward."""

    RUNNING = auto()
    DRAINING = auto()
    """It takes no new connection, and is over when the last one has ended."""
    STOPPING = auto()
    """Nothing more is read; what was read is sent, for as long as the request allows."""


class Ending:
    """The end of one tunnel."""

    __slots__ = ("_asker", "phase")

    def __init__(self) -> None:
        self.phase = EndingPhase.RUNNING
        self._asker: ActorRef[Any] | None = None

    @property
    def is_running(self) -> bool:
        """Whether no end was asked for."""
        return self.phase is EndingPhase.RUNNING

    def drain(self) -> bool:
        """Begin to drain; return False if the end has begun already."""
        if self.phase is not EndingPhase.RUNNING:
            return False
        self.phase = EndingPhase.DRAINING
        return True

    def stop(self, request: Quiesce) -> bool:
        """Begin to stop, whether it drains or not; return False if it stops already."""
        if self.phase is EndingPhase.STOPPING:
            return False
        self.phase = EndingPhase.STOPPING
        self._asker = request.reply_to
        return True

    @property
    def asker(self) -> ActorRef[Any] | None:
        """Who waits to hear that the tunnel has stopped; None if it was told to drain alone."""
        return self._asker


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
