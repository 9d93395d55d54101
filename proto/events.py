"""What a session reports: things that happened on the wire, in the past tense.

Owns the vocabulary between `Session` and its shell. Knows no rule. In V1 the service id is the
tunnel's only service, or "" if the tunnel was opened with none; in V1 and V2 the connection id is
always 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from .transitions import End

if TYPE_CHECKING:
    from .message import Message, MessageType
    from .modes import ProtocolVersion


class StopCause(Enum):
    """Why a stream is over."""

    PEER_RESET = "peer_reset"
    """The peer, or the service for it, sent STREAM_RESET."""
    REPLACED = "replaced"
    """A new stream of the same service took its place."""
    SESSION_RESET = "session_reset"
    """The service reset the session."""
    DISCONNECTED = "disconnected"
    """The WebSocket was lost."""
    LOCAL_RESET = "local_reset"
    """This side reset it."""


class DropReason(Enum):
    """Why a message was received and not acted on."""

    STALE_STREAM = "stale_stream"
    """Its stream id is not the service's active one."""
    UNKNOWN_CONNECTION = "unknown_connection"
    """DATA for a connection that is not open."""
    APPLICATION_CLOSED = "application_closed"
    """DATA for an application that has closed; the peer was told so."""
    UNKNOWN_SERVICE = "unknown_service"
    """The tunnel was not opened with this service."""
    DUPLICATE_RESET = "duplicate_reset"
    """A reset of a connection that is already gone, which is normal."""
    DUPLICATE_CONNECTION = "duplicate_connection"
    """A CONNECTION_START whose id is already open."""
    TOO_MANY_STREAMS = "too_many_streams"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    IGNORABLE = "ignorable"
    """A type this side does not know, marked as ignorable."""
    REPEATED_SERVICE_IDS = "repeated_service_ids"
    """SERVICE_IDS once more, with the same services."""


@dataclass(frozen=True, slots=True)
class ServicesAnnounced:
    """SERVICE_IDS arrived: the tunnel can be used."""

    service_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """The source started a stream, and with it the first connection."""

    service_id: str
    stream_id: int
    connection_id: int
    version: ProtocolVersion


@dataclass(frozen=True, slots=True)
class ConnectionStarted:
    """The source started one more connection on the active stream (V3)."""

    service_id: str
    stream_id: int
    connection_id: int


class DataReceived(NamedTuple):
    """Bytes of an open connection, in order. A tuple, as it is the event of the hot path."""

    service_id: str
    stream_id: int
    connection_id: int
    payload: bytes

    def __repr__(self) -> str:
        """Name all but the payload, which belongs to the user."""
        return (
            f"DataReceived(service_id={self.service_id!r}, stream_id={self.stream_id}, "
            f"connection_id={self.connection_id}, payload=<{len(self.payload)} bytes>)"
        )


@dataclass(frozen=True, slots=True)
class ConnectionReset:
    """The peer ended one connection: nothing more comes of it.

    In V1 and V2 that is the peer's STREAM_RESET. `end` says what is left: after an orderly end this
    side may still send, until it ends the connection too; after any other it may not.
    """

    service_id: str
    stream_id: int
    connection_id: int
    end: End = End.BOTH


@dataclass(frozen=True, slots=True)
class StreamStopped:
    """A stream is over, and the connections it still had.

    In V1 and V2 it is also over with its one connection, which has been reported then. `end` is
    what it means for the local ends of those connections: a STREAM_RESET of V3 ends both directions
    of each, as any reset of an unmarked stream does; on a marked one it is a cut.
    """

    service_id: str
    stream_id: int
    connection_ids: tuple[int, ...]
    cause: StopCause
    end: End = End.CUT


@dataclass(frozen=True, slots=True)
class SessionReset:
    """The service reset the session. Its streams were reported as stopped; the WebSocket stays."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A message that the shell must send to the peer."""

    message: Message


@dataclass(frozen=True, slots=True)
class MessageDropped:
    """A message had no effect. It is to be counted, and is no error."""

    type: MessageType | int
    reason: DropReason


Event = (
    ServicesAnnounced
    | StreamStarted
    | ConnectionStarted
    | DataReceived
    | ConnectionReset
    | StreamStopped
    | SessionReset
    | Answer
    | MessageDropped
)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a source gets for a local connection that it wants to carry.

    Args:
        stream_id: the stream it is on.
        connection_id: its id on that stream.
        service_id: the service.
        messages: to be sent in this order, before any DATA of it.
        events: what opening it ended: the stream that it replaced.
    """

    stream_id: int
    connection_id: int
    service_id: str
    messages: tuple[Message, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class StreamView:
    """A look at one active stream and its connections that neither side has ended."""

    stream_id: int
    version: ProtocolVersion
    connection_ids: frozenset[int]
