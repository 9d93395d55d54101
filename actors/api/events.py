"""What a tunnel tells the callbacks of its user: the events of the client API, and a message.

Owns their names and fields, which follow the callbacks of the device SDK for C++ (docs/protocol.md
section 5). Every event names its tunnel. No `repr` shows a payload.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunnelfleet.actors.events import TunnelEvent

if TYPE_CHECKING:
    from tunnelfleet.proto import MessageType, TunnelError

__all__ = [
    "ApiEvent",
    "ConnectionFailure",
    "ConnectionReset",
    "ConnectionShutdown",
    "ConnectionStarted",
    "ConnectionSuccess",
    "InputEnded",
    "Message",
    "MessageReceived",
    "SendMessageComplete",
    "SessionReset",
    "Stopped",
    "StreamStarted",
    "StreamStopped",
]


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """A message of a user, as DATA carries it.

    A start can be given one as well, as in the SDK for C++: it says which service.

    Args:
        payload: at most 64,512 bytes; may be empty, or None.
        service_id: of the stream; empty or None stands for the tunnel's only service.
        connection_id: 1 or more. None or 0 stands for the stream's only connection. In V1 and V2 it
            is always 1.
    """

    payload: bytes = field(repr=False)
    service_id: str
    connection_id: int | None

    def __init__(
        self,
        payload: bytes | None = b"",
        service_id: str | None = "",
        connection_id: int | None = None,
    ) -> None:
        # It is as cheap as the generated one, as one is made for each message that arrives.
        set_field = object.__setattr__
        set_field(self, "payload", b"" if payload is None else payload)
        set_field(self, "service_id", service_id or "")
        set_field(self, "connection_id", connection_id or None)


@dataclass(frozen=True, slots=True)
class ApiEvent(TunnelEvent):
    """The base of what callbacks get."""


@dataclass(frozen=True, slots=True)
class ConnectionSuccess(ApiEvent):
    """The tunnel is connected and its services are announced: it can be used."""

    service_ids: tuple[str, ...]
    channel_id: str = ""
    """The service's name for the connection, to quote to support."""


@dataclass(frozen=True, slots=True)
class ConnectionFailure(ApiEvent):
    """An attempt to connect failed.

    `error` is a `HandshakeError` when the service answered; unless its `retryable` is False another
    attempt follows.
    """

    error: TunnelError


@dataclass(frozen=True, slots=True)
class ConnectionShutdown(ApiEvent):
    """The connection ended: by an error, or because the tunnel was stopped (`error` is None)."""

    error: TunnelError | None


@dataclass(frozen=True, slots=True)
class SendMessageComplete(ApiEvent):
    """A message of the user was wholly written to the socket, or failed with `error`."""

    message_type: MessageType
    error: Exception | None
    service_id: str
    connection_id: int | None
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class MessageReceived(ApiEvent):
    """A message came on an open stream."""

    message: Message


@dataclass(frozen=True, slots=True)
class StreamStarted(ApiEvent):
    """Destination: the source started a stream, with its first connection.

    `error` says why it could not be taken; then there is no stream.
    """

    service_id: str
    connection_id: int
    error: TunnelError | None = None


@dataclass(frozen=True, slots=True)
class StreamStopped(ApiEvent):
    """A stream ended, with all its connections; `error` when it was not in good order.

    The error is an `AbnormalEnd` if it was cut, and a `TunnelClosed` if this side stopped the
    tunnel while a connection was open: the peer may have had more to send. With a peer that does
    not tell the kinds of end apart, V1 and V2 have no error.
    """

    service_id: str
    error: TunnelError | None = None


@dataclass(frozen=True, slots=True)
class ConnectionStarted(ApiEvent):
    """Destination, V3: the source started one more connection; `error` as in `StreamStarted`."""

    service_id: str
    connection_id: int
    error: TunnelError | None = None


@dataclass(frozen=True, slots=True)
class ConnectionReset(ApiEvent):
    """V3: the peer ended one connection of a stream; `error` when it was not in good order.

    With a peer that does not tell the kinds of end apart, there is no error.
    """

    service_id: str
    connection_id: int
    error: TunnelError | None = None


@dataclass(frozen=True, slots=True)
class InputEnded(ApiEvent):
    """With `half_close`: the peer sends no more on a connection, in good order, and still receives.

    The connection stays until this side ends it with `send_connection_reset`.
    """

    service_id: str
    connection_id: int


@dataclass(frozen=True, slots=True)
class SessionReset(ApiEvent):
    """The service reset the session: every stream has ended, the connection stays."""


@dataclass(frozen=True, slots=True)
class Stopped(ApiEvent):
    """The tunnel is fully stopped. The last event."""
