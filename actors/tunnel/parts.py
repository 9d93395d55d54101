"""What a tunnel asks of the parts that it is given, and what it lets the client API do to it.

`TunnelParts` (see `context`) makes these parts: the WebSocket, the listeners, the streams and what
serves the client API. Here is how the tunnel's actor speaks with what has been made, so that it
need not know who made it. Actors need nothing beside the tunnel's messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.proto import Event, LocalProtocolError, Opened, Session, TunnelError

    from .messages import ConnectionKey
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
    """

    tunnel: ActorRef[Any]
    session: Session
    wire: WireSender
    adopt: Callable[[Opened, ConnectionKey], None]
    handle_events: Callable[[list[Event]], None]
    takes_connections: Callable[[], bool]


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

    def on_taken(self, key: ConnectionKey) -> None:
        """A message of a connection is on its way."""

    def on_end_taken(self, key: ConnectionKey, *, is_sent: bool) -> None:
        """The end of a connection was taken out of the queue; `is_sent` False: it was ended."""

    def on_written(self) -> None:
        """Messages left for the kernel."""

    def on_unsendable(self, key: ConnectionKey, error: LocalProtocolError) -> None:
        """A message cannot be sent any more."""

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

    def on_taken(self, key: ConnectionKey) -> None:
        pass

    def on_end_taken(self, key: ConnectionKey, *, is_sent: bool) -> None:
        pass

    def on_written(self) -> None:
        pass

    def on_unsendable(self, key: ConnectionKey, error: LocalProtocolError) -> None:
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
