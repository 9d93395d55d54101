"""What all of a tunnel's actors are given, and what the parts of its TunnelActor have in common.

Owns the pair of tokens, which no `repr` shows, what the makers of WebSockets, listeners, streams
and the client API must be, the protocol session, and how far the tunnel's end has come. A part is
given this and never the actor, so that each can be made, and tested, alone.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from tunnelfleet.actors import events
from tunnelfleet.actors.events import TunnelEvent
from tunnelfleet.proto import (
    Mode,
    Session,
    generate_client_token,
    validate_access_token,
    validate_client_token,
)

if TYPE_CHECKING:
    import ssl

    from pykka import ActorRef

    from tunnelfleet.actors.addresses import Address
    from tunnelfleet.actors.callbacks import CallbackQueue
    from tunnelfleet.actors.config import Limits, TunnelConfig
    from tunnelfleet.actors.counters import TunnelStats
    from tunnelfleet.actors.events import TunnelState
    from tunnelfleet.proto import Event, LocalProtocolError, Opened, TunnelError

    from .messages import ConnectionKey, Quiesce
    from .sender import WireSender


class StreamEnd(Protocol):
    """The far end of a stream: the reference of a StreamActor, or what takes its messages."""

    def tell(self, message: Any, /) -> None:
        """Take a message, now or later."""


class ApiShell(NamedTuple):
    """What a TunnelActor lets its API do to it.

    Attributes:
        tunnel: itself.
        session: its protocol state.
        wire: its queue.
        adopt: takes what the session has opened.
        handle_events: takes what the session has reported.
        takes_connections: whether there is room for one more, and it is not ending.
        max_connections: the limit, as it is now.
    """

    tunnel: ActorRef[Any]
    session: Session
    wire: WireSender
    adopt: Callable[[Opened, ConnectionKey], None]
    handle_events: Callable[[list[Event]], None]
    takes_connections: Callable[[], bool]
    max_connections: Callable[[], int]


class ApiHandler(Protocol):
    """What serves the client API in the turns of a TunnelActor, and is told what became of it."""

    # -- which services

    def serves(self, service_id: str) -> bool:
        """Whether the streams of a service end at the user."""

    def open_stream(self, service_id: str) -> StreamEnd:
        """Make the far end of a stream; it holds the tunnel back by itself (`must_hold_back`)."""

    # -- commands

    def take_commands(self) -> None:
        """Carry out what the user's threads have handed over, in order."""

    def end_connection(self, key: ConnectionKey) -> None:
        """End one connection in good order, behind what was sent on it."""

    # -- what became of them

    def on_taken(self, key: ConnectionKey, messages: int) -> None:
        """So many messages of a connection are on their way."""

    def on_end_taken(self, key: ConnectionKey, *, is_sent: bool) -> None:
        """The end of a connection was taken out of the queue; `is_sent` False: it was ended."""

    def on_written(self) -> None:
        """Messages left for the kernel."""

    def on_unsendable(self, key: ConnectionKey, error: LocalProtocolError, messages: int) -> None:
        """So many messages cannot be sent any more."""

    def on_discarded(self, key: ConnectionKey, error: TunnelError | None = None) -> None:
        """What a connection had waiting was thrown away; None: for its stream is over."""

    def on_lost(self, error: TunnelError) -> None:
        """The WebSocket is over, and what had not left with it."""

    # -- events of the tunnel

    def tell_success(self, service_ids: tuple[str, ...], channel_id: str) -> None:
        """SERVICE_IDS arrived."""

    def tell_failure(self, error: TunnelError) -> None:
        """An attempt to connect failed."""

    def tell_shutdown(self, error: TunnelError | None) -> None:
        """The WebSocket ended."""

    def tell_session_reset(self) -> None:
        """SESSION_RESET arrived."""

    def tell_refused(self, service_id: str, connection_id: int, *, is_stream: bool) -> None:
        """A start of the source could not be taken."""

    # -- holding back

    def must_hold_back(self) -> bool:
        """Whether the WebSocket must not be read for now: callbacks do not keep up."""


class _NoApi:
    """What stands in the place of the client API in a tunnel that has no such client."""

    __slots__ = ()

    def serves(self, service_id: str) -> bool:  # noqa: ARG002
        return False

    def open_stream(self, service_id: str) -> StreamEnd:
        raise AssertionError(service_id)

    def take_commands(self) -> None:
        pass

    def end_connection(self, key: ConnectionKey) -> None:
        pass

    def on_taken(self, key: ConnectionKey, messages: int) -> None:
        pass

    def on_end_taken(self, key: ConnectionKey, *, is_sent: bool) -> None:
        pass

    def on_written(self) -> None:
        pass

    def on_unsendable(self, key: ConnectionKey, error: LocalProtocolError, messages: int) -> None:
        pass

    def on_discarded(self, key: ConnectionKey, error: TunnelError | None = None) -> None:
        pass

    def on_lost(self, error: TunnelError) -> None:
        pass

    def tell_success(self, service_ids: tuple[str, ...], channel_id: str) -> None:
        pass

    def tell_failure(self, error: TunnelError) -> None:
        pass

    def tell_shutdown(self, error: TunnelError | None) -> None:
        pass

    def tell_session_reset(self) -> None:
        pass

    def tell_refused(self, service_id: str, connection_id: int, *, is_stream: bool) -> None:
        pass

    def must_hold_back(self) -> bool:
        return False


NO_API: ApiHandler = _NoApi()
"""Of every tunnel without a client; it does nothing, so one does for all."""


class Services:
    """The present governor and event relay of a runtime.

    Args:
        ssl_context: for all tunnels that bring none.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self.ssl_context = ssl_context
        self.governor: ActorRef[Any] | None = None
        self.relay: ActorRef[Any] | None = None

    def publish(self, event: TunnelEvent) -> None:
        """Hand an event to the relay, if there is one."""
        if self.relay is not None and self.relay.is_alive():
            self.relay.tell(event)


class Credentials:
    """An access token and the client token that belongs to it.

    Args:
        access_token: the client access token.
        client_token: its client token; one is generated when it is None.

    Raises:
        ConfigError: a token is malformed.
    """

    __slots__ = ("_tokens",)

    def __init__(self, access_token: str, client_token: str | None = None) -> None:
        self._tokens: tuple[str, str]
        self.replace(access_token, client_token)

    def __repr__(self) -> str:
        return "Credentials(...)"

    def current(self) -> tuple[str, str]:
        """The access token and the client token to send."""
        return self._tokens

    def replace(self, access_token: str, client_token: str | None = None) -> None:
        """Use another access token from the next attempt on, as after `Credentials(...)`.

        Any thread: whoever looks at them meanwhile sees both tokens of one time.
        """
        validate_access_token(access_token)
        if client_token is not None:
            validate_client_token(client_token)
        self._tokens = access_token, client_token or generate_client_token()


class TunnelParts(NamedTuple):
    """The makers of the parts of a tunnel, which its actors call and do not know.

    Each maker of an actor starts it and returns its reference. A test gives others.

    Attributes:
        websocket: starts one attempt to connect and its link; called with what the tunnel shares,
            the TunnelActor, the supervisor and the number of the attempt.
        listener: starts to listen; called with the service id, the address, the TunnelActor, the
            limits and the ports that are kept.
        stream: starts the far end of a stream at local sockets; called with the TunnelActor, the
            address to connect to (None in source mode), the source address of that, and the limits.
        api: makes what serves the client API in the turns of a TunnelActor; None when the tunnel
            has no such client.
    """

    websocket: Callable[[TunnelContext, ActorRef[Any], ActorRef[Any], int], ActorRef[Any]]
    listener: Callable[[str, Address, ActorRef[Any], Limits, dict[str, Address]], ActorRef[Any]]
    stream: Callable[[ActorRef[Any], Address | None, str | None, Limits], ActorRef[Any]]
    api: Callable[[TunnelConfig, ApiShell], ApiHandler] | None = None


class TunnelContext(NamedTuple):
    """What the actors of a tunnel share, over their restarts.

    `parts` makes what the tunnel is put together of. `bound` keeps listeners' ports.
    `callback_queue` leads to the callback of the runtime, if it has one. `is_draining`: actors that
    are started take no connection, since the tunnel was told to drain before.
    """

    config: TunnelConfig
    credentials: Credentials
    stats: TunnelStats
    parts: TunnelParts
    services: Services
    bound: dict[str, Address]
    callback_queue: CallbackQueue | None = None
    is_draining: bool = False

    def with_limits(self, limits: Limits) -> TunnelContext:
        """The same with other limits, for the actors that are started from now on."""
        return self._replace(config=replace(self.config, limits=limits))

    def publish(self, event: TunnelEvent) -> None:
        """Tell whoever wants to know what happens to the tunnel."""
        self.services.publish(event)
        if self.callback_queue is not None:
            self.callback_queue.put(event, may_drop=True)


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


FIRST_STREAM_IDS: Final = 2**28
"""A source begins with one of so many stream ids; they take four bytes on the wire, as many do."""


def first_stream_id() -> int:
    """Return where a source begins to count its streams: anywhere, as nobody knows what was before.

    The source before it, in another process or at another gateway, may have had streams whose bytes
    are still under way when this one is connected (docs/protocol.md section 3).
    """
    return int.from_bytes(os.urandom(4), "big") % FIRST_STREAM_IDS + 1


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
        self.session = Session(
            config.mode, version, marks=config.marks, first_stream_id=first_stream_id()
        )
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
