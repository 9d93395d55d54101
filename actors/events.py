"""What happens to tunnels, as events in the past tense.

Owns the event types that leave the actors for people: the runtime's callbacks, subscribers, the
command line. Every event carries the name of its tunnel and never a token or a payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .addresses import Address
    from .state import TunnelState

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
