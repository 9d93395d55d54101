"""What happens to tunnels, as events in the past tense; how a tunnel is; and who is told.

Every event carries the name of its tunnel, and never a token or a payload. EventRelay takes them
to the actors that subscribed; callbacks have queues of their own (`callbacks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from pykka import ActorDeadError, ActorRef

from .kernel import DispatchedActor
from .kernel.moments import UnixTime

if TYPE_CHECKING:
    from .addresses import Address


__all__ = [
    "ConnectionClosed",
    "ConnectionOpened",
    "ListenerClosed",
    "ListenerOpened",
    "ServiceIdsReceived",
    "ServicesMismatched",
    "SessionWasReset",
    "StreamClosed",
    "StreamOpened",
    "TunnelEvent",
    "TunnelStateChanged",
]


@dataclass(frozen=True, slots=True)
class TunnelEvent:
    """Something that happened to the tunnel called `tunnel`."""

    tunnel: str


@dataclass(frozen=True, slots=True)
class TunnelStateChanged(TunnelEvent):
    """The tunnel entered `state`; `reason` says why, for people."""

    state: TunnelState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServiceIdsReceived(TunnelEvent):
    """SERVICE_IDS arrived: the WebSocket can carry streams."""

    service_ids: tuple[str, ...]
    channel_id: str = ""


@dataclass(frozen=True, slots=True)
class ServicesMismatched(TunnelEvent):
    """What the tunnel is told to carry does not fit its services: no connection can work.

    `problem` says why, and what to do.
    """

    problem: str


@dataclass(frozen=True, slots=True)
class ListenerOpened(TunnelEvent):
    """A source listens at `address` for `service_id`."""

    service_id: str
    address: Address


@dataclass(frozen=True, slots=True)
class ListenerClosed(TunnelEvent):
    """A listener ended; `reason` is empty when it was told to."""

    service_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StreamOpened(TunnelEvent):
    """A stream became the active one of its service."""

    service_id: str
    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamClosed(TunnelEvent):
    """A stream ended, with all its connections."""

    service_id: str
    stream_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionOpened(TunnelEvent):
    """A connection was started on the active stream of its service.

    `serial`, `peer`, `user` and `opened_at` as in `LiveConnection`; `channel_id` of the link.
    """

    service_id: str
    stream_id: int
    connection_id: int
    serial: int = 0
    peer: str = ""
    user: str = ""
    opened_at: float = 0.0
    channel_id: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionClosed(TunnelEvent):
    """A connection ended. It says all that is known of it, so that nobody has to have kept it.

    `ended_by` is what ended it first: `local`, `peer`, or why its stream was stopped. The rest as
    in `ConnectionOpened` and `LiveConnection`.
    """

    service_id: str
    stream_id: int
    connection_id: int
    reason: str
    ended_by: str = ""
    serial: int = 0
    peer: str = ""
    user: str = ""
    opened_at: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    channel_id: str = ""


@dataclass(frozen=True, slots=True)
class SessionWasReset(TunnelEvent):
    """SESSION_RESET arrived: every stream ended, the WebSocket stays."""


class TunnelState(StrEnum):
    """The states of a tunnel, for people, API and metrics (docs/architecture.md section 4)."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    BACKOFF = "backoff"
    REFUSED = "refused"
    QUARANTINED = "quarantined"
    DRAINING = "draining"
    STOPPED = "stopped"


class AttemptOutcome(Enum):
    """What has become of an attempt, as far as it tells something of the endpoint."""

    CONNECTED = "connected"
    REFUSED = "refused"
    """The endpoint lives, and will not have this tunnel."""
    FAILED = "failed"
    """The endpoint did not answer, or with an error of its own."""
    CANCELLED = "cancelled"
    """Nothing is known of the endpoint: the tunnel was stopped, or this machine is at its end."""


class LiveConnection:
    """One open connection.

    Attributes:
        service_id: of its stream.
        stream_id: of its stream.
        connection_id: on the wire.
        serial: tells the connections of a tunnel's actor apart.
        peer: the local application: in a source the address that connected, in a destination the
            one that is connected to; empty for a user of the client API.
        user: who it is, if it is known: `uid=1000` at a Unix socket, or the user of a front door.
        opened_at: when it was opened, in seconds of the Unix epoch.
        sent_bytes: from the local application to the tunnel.
        received_bytes: from the tunnel for the local application.
    """

    __slots__ = (
        "_opened_at",
        "connection_id",
        "peer",
        "received_bytes",
        "sent_bytes",
        "serial",
        "service_id",
        "stream_id",
        "user",
    )
    opened_at = UnixTime()

    def __init__(
        self,
        service_id: str,
        stream_id: int,
        connection_id: int,
        serial: int,
    ) -> None:
        self.service_id = service_id
        self.stream_id = stream_id
        self.connection_id = connection_id
        self.serial = serial
        self.peer = ""
        self.user = ""
        self._opened_at: float | None = None
        self.sent_bytes = 0
        self.received_bytes = 0


class Subscribe(NamedTuple):
    """Send events to `subscriber` from now on; it replaces an earlier one of the same actor.

    Attributes:
        subscriber: any pykka actor.
        tunnels: names of the tunnels to tell of; None for all.
        kinds: classes of the events to tell of, and their subclasses; None for all.
    """

    subscriber: ActorRef[Any]
    tunnels: frozenset[str] | None = None
    kinds: frozenset[type[TunnelEvent]] | None = None

    def wants(self, event: TunnelEvent) -> bool:
        """Return whether it asked for this one."""
        if self.tunnels is not None and event.tunnel not in self.tunnels:
            return False
        return self.kinds is None or isinstance(event, tuple(self.kinds))


class Unsubscribe(NamedTuple):
    """Stop that."""

    subscriber: ActorRef[Any]


class EventRelay(DispatchedActor):
    """Relays events.

    Args:
        observe: called with each event in the relay's turn; must not block or raise.
        subscriptions: those there are already, as after a restart.
    """

    def __init__(
        self, observe: Callable[[TunnelEvent], None], subscriptions: Iterable[Subscribe] = ()
    ) -> None:
        super().__init__()
        self._observe = observe
        self._subscriptions = {each.subscriber.actor_urn: each for each in subscriptions}

    def on_receive(self, message: Any) -> Any:
        """Relay an event, or change the subscribers."""
        if isinstance(message, TunnelEvent):
            self._relay(message)
        elif isinstance(message, Subscribe):
            self._subscriptions[message.subscriber.actor_urn] = message
        elif isinstance(message, Unsubscribe):
            self._subscriptions.pop(message.subscriber.actor_urn, None)
        else:
            return super().on_receive(message)
        return None

    def _relay(self, event: TunnelEvent) -> None:
        self._observe(event)
        for urn, subscription in list(self._subscriptions.items()):
            if not subscription.subscriber.is_alive():
                del self._subscriptions[urn]
            elif subscription.wants(event):
                try:
                    subscription.subscriber.tell(event)
                except ActorDeadError:
                    del self._subscriptions[urn]
