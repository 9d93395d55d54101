"""What all layers of TunnelActor share: its fields, its state for people, its dispatch.

TunnelActor is one actor in four layers, each in a module and each above the one before: `core`,
`wire` (what leaves, and what is held back), `streams` (what arrives, and local applications),
`link` (the WebSocket's life and the listeners), and `actor` itself (ends and tokens). A layer calls
those below; what it needs of those above is declared here.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tunnelfleet.actors import events
from tunnelfleet.actors.kernel import DispatchedActor
from tunnelfleet.proto import Mode, Session

from .connections import Connection, ConnectionTable
from .marking import HelloClock, MarkTrial
from .sender import WireSender

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pykka import ActorRef

    from tunnelfleet.actors.events import TunnelEvent
    from tunnelfleet.actors.kernel.actor import Handlers
    from tunnelfleet.actors.state import TunnelState
    from tunnelfleet.proto import End, Event

    from .context import TunnelContext
    from .messages import ConnectionKey, Quiesce
    from .parts import ApiHandler, StreamEnd

__all__ = [
    "WEBSOCKET_CHILD",
    "AnnounceTimedOut",
    "CheckHello",
    "CheckStalled",
    "HalfCloseEnded",
    "PumpAgain",
    "QuiesceTimedOut",
    "StreamRoute",
    "TunnelCore",
]


WEBSOCKET_CHILD = "websocket"


class StreamRoute(NamedTuple):
    """Where the messages of a stream go.

    Attributes:
        ref: its far end.
        serial: tells streams of the same ids apart.
        has_own_backlog: the far end holds the tunnel back by itself when it does not keep up, so
            what it is sent is not counted here.
    """

    ref: StreamEnd
    serial: int
    has_own_backlog: bool = False


class AnnounceTimedOut(NamedTuple):
    """SERVICE_IDS should have come by now."""

    epoch: int


class PumpAgain(NamedTuple):
    """The bandwidth allows more by now."""


class CheckStalled(NamedTuple):
    """Look for connections that hold up the tunnel."""


class CheckHello(NamedTuple):
    """A stream may have waited long enough for its hello."""


class HalfCloseEnded(NamedTuple):
    """A connection of V1 or V2 has been closed in one direction alone for long enough."""

    key: ConnectionKey


class QuiesceTimedOut(NamedTuple):
    """The time for a graceful end is over."""


class TunnelCore(DispatchedActor):
    """The fields of a tunnel's actor.

    Args:
        context: what the tunnel's actors share.
    """

    HANDLERS: ClassVar[Handlers] = {}
    """Types of messages to methods; each layer adds its own."""

    def __init__(self, context: TunnelContext) -> None:
        super().__init__()
        config = context.config
        self._context = context
        self._config = config
        self._limits = config.limits
        self._stats = context.stats
        is_source = config.mode is Mode.SOURCE
        version = config.version if is_source else None
        self._session = Session(config.mode, version, marks=config.marks)
        self._hello_clock = HelloClock(config.limits.hello_seconds)
        self._mark_trial = MarkTrial()
        self._starts_on_their_way: dict[ConnectionKey, tuple[str, int]] = {}
        """By the key under which they were queued, the streams whose hello may come."""
        self._hello_timer_on = False
        self._transport: ActorRef[Any] | None = None
        self._websocket_child: ActorRef[Any] | None = None
        """The present attempt or connection."""
        self._websocket: ActorRef[Any] | None = None
        """The present connection, once it is established."""
        self._restart_at_once = False
        self._epoch = 0
        self._announced = False
        self._lost_label: str | None = None
        self._lost_text = ""
        self._streams: dict[tuple[str, int], StreamRoute] = {}
        """The newest stream of each pair of ids; a restarted peer uses them again."""
        self._serials = itertools.count(1)
        self._connections = ConnectionTable(config.limits)
        self._listeners: dict[str, ActorRef[Any]] = {}
        self._listener_children: dict[str, str] = {}
        """The service ids of the listeners that are wanted, by the id of the child."""
        self._too_many_logged_at: float | None = None
        self._accepting = False
        self._wire = WireSender(
            config.limits,
            config.bandwidth_bytes_per_second,
            context.stats,
            time.monotonic(),
        )
        self._low_water_bytes = config.limits.notsent_low_water_bytes
        self._pump_timer_on = False
        self._abandoned = False
        self._paused = False
        self._stall_check_on = False
        self._draining = False
        self._quiesce: Quiesce | None = None
        self._closing = False
        self._api: ApiHandler | None = None

    def on_receive(self, message: Any) -> Any:
        """Dispatch by the message's type."""
        handler = self.HANDLERS.get(type(message))
        if handler is None:
            return super().on_receive(message)
        return handler(self, message)

    def _publish(self, event: TunnelEvent) -> None:
        self._context.publish(event)

    def _enter(self, state: TunnelState, reason: str = "") -> None:
        if self._stats.enter(state, reason):
            reason = self._stats.reason
            self._stats.last_event = f"{state}: {reason}" if reason else str(state)
            self._publish(events.TunnelStateChanged(self._config.name, state, reason))

    def _find(self, service_id: str, stream_id: int, connection_id: int) -> Connection | None:
        return self._connections.find(service_id, stream_id, connection_id)

    def _takes_connections(self) -> bool:
        ending = self._draining or self._quiesce is not None
        return not ending and len(self._connections) < self._limits.max_connections

    # What the layers above do, for the layers below.

    def _handle_events(self, session_events: Sequence[Event]) -> None:
        """Act on what the session says, in order."""
        raise NotImplementedError

    def _release(self, connection: Connection, end: End) -> None:
        """Let go of a connection that is over on the wire."""
        raise NotImplementedError

    def _drop_connection(self, label: str, text: str) -> None:
        """Give the WebSocket up."""
        raise NotImplementedError

    def _update_accepting(self) -> None:
        """Let the listeners accept if connections can be taken."""
        raise NotImplementedError

    def _finish_if_done(self) -> None:
        """Close the WebSocket when a graceful end has nothing left to wait for."""
        raise NotImplementedError

    def _finish_quiesce(self) -> None:
        """End: nothing is left to wait for, or no time."""
        raise NotImplementedError
