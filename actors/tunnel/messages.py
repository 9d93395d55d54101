"""The messages that the actors of a tunnel exchange, in one place.

Commands are in the imperative, events in the past tense. docs/architecture.md section 5 draws their
way. `epoch` numbers the WebSocket connections of a tunnel, so that a message of an old connection
is recognised after its successor has started.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.proto import TunnelClosed

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.addresses import Address
    from tunnelfleet.actors.config import Limits
    from tunnelfleet.actors.events import AttemptOutcome
    from tunnelfleet.actors.kernel import ExitReason
    from tunnelfleet.proto import DataBurst, End, HandshakeError, Message, TunnelError

__all__ = [
    "Abandon",
    "Accepted",
    "Attach",
    "AttachTransport",
    "BytesDelivered",
    "BytesSent",
    "ChildEnded",
    "ChildQuarantined",
    "ChildStarted",
    "ChildWaiting",
    "CloseGracefully",
    "ConnectionEstablished",
    "ConnectionKey",
    "ConnectionRefused",
    "Deliver",
    "Drain",
    "EndTold",
    "EventsTaken",
    "GateChanged",
    "HalfCloseEnded",
    "HandOver",
    "ListenerBound",
    "LocalClosed",
    "LocalDataRead",
    "LocalReadEnded",
    "OpenLocal",
    "OutboxFilled",
    "PauseReading",
    "PermitCalledBack",
    "PermitGranted",
    "PongHeard",
    "Quiesce",
    "Quiesced",
    "Received",
    "ReleasePermit",
    "RemoteEnded",
    "ReplaceLimits",
    "ReplaceToken",
    "RequestPermit",
    "ResumeReading",
    "SetAccepting",
    "SetLowWater",
    "SocketsExhausted",
    "StopReadingLocal",
    "StopStream",
    "Transmit",
    "TransmitPing",
    "TransmitUntold",
    "TryNow",
    "Written",
]


class ConnectionKey(NamedTuple):
    """One connection of a tunnel; never reused within a tunnel.

    A peer may use the ids of what has ended again: `serial` tells the connections of this side
    apart.
    """

    service_id: str
    stream_id: int
    connection_id: int
    serial: int = 0


# -- ConnectGovernor


class RequestPermit(NamedTuple):
    """A WebSocketActor wants to connect.

    `endpoint` says where, proxy and all: permits are fair over these, and over tunnels.
    """

    requester: ActorRef[Any]
    endpoint: str
    tunnel: str


class PermitGranted(NamedTuple):
    """It may connect now; it owes a `ReleasePermit` or its end."""


class PermitCalledBack(NamedTuple):
    """It must not go on with the attempt, if it is not connected yet."""

    label: str
    reason: str


class ReleasePermit(NamedTuple):
    """The attempt is over."""

    requester: ActorRef[Any]
    outcome: AttemptOutcome


class TryNow(NamedTuple):
    """Somebody asks that this tunnel be tried at once, although its endpoint is down."""

    endpoint: str
    tunnel: str


class GateChanged(NamedTuple):
    """Look at the runtime's `ConnectGate`: connects are suspended, or allowed again."""


# -- WebSocketActor to TunnelActor


class ConnectionEstablished(NamedTuple):
    """The upgrade succeeded; SERVICE_IDS is still to come."""

    epoch: int
    websocket: ActorRef[Any]
    channel_id: str


class ConnectionRefused(NamedTuple):
    """The service refused the handshake for good (4xx): no retry until the token is replaced."""

    epoch: int
    error: HandshakeError


class Received(NamedTuple):
    """Tunnel messages arrived, in order."""

    epoch: int
    messages: Sequence[Message | DataBurst]


class Written(NamedTuple):
    """So many more of what was transmitted left for the kernel.

    `blocked`: the kernel has since refused more.
    """

    epoch: int
    messages: int
    blocked: bool


class PongHeard(NamedTuple):
    """The service has answered a `TransmitPing`."""

    epoch: int
    number: int


# -- TunnelActor to WebSocketActor


class Transmit(NamedTuple):
    """Send these messages and bursts, each in a WebSocket message of its own."""

    messages: Sequence[Message | DataBurst]


class TransmitUntold(NamedTuple):
    """Send this message; that it has left is not told: see `WireSender.leaves_untold`."""

    message: Message | DataBurst


class TransmitPing(NamedTuple):
    """Send a ping with this number behind all messages; its answer is a `PongHeard`."""

    number: int


class PauseReading(NamedTuple):
    """Stop reading the WebSocket: a local application does not keep up."""


class ResumeReading(NamedTuple):
    """Read again."""


class SetLowWater(NamedTuple):
    """Set TCP_NOTSENT_LOWAT."""

    size_bytes: int


class CloseGracefully(NamedTuple):
    """Send what is there, an empty CLOSE, and end."""


class Abandon(NamedTuple):
    """End the connection as failed; `label` is for metrics."""

    label: str
    error: TunnelError


# -- local sockets towards the wire


class LocalDataRead(NamedTuple):
    """SocketActor to TunnelActor: bytes of the local application, for the wire."""

    key: ConnectionKey
    data: bytes


class LocalReadEnded(NamedTuple):
    """SocketActor to TunnelActor: no more bytes will come; send the reset behind those before.

    `is_orderly` is False when the application broke off, or was stopped before it had ended. That
    may be said after an orderly end, too: then nobody is left to take what comes.
    """

    key: ConnectionKey
    reason: str
    is_orderly: bool


class LocalClosed(NamedTuple):
    """StreamActor to TunnelActor: the socket is closed, and takes nothing more.

    `reason` and `is_orderly` as in `LocalReadEnded`, where that was not told before.
    """

    key: ConnectionKey
    reason: str
    is_orderly: bool


class BytesSent(NamedTuple):
    """TunnelActor to SocketActor: credit, so many bytes left for the kernel of the WebSocket."""

    size_bytes: int


# -- the wire towards local sockets


class SocketsExhausted(NamedTuple):
    """SocketActor or ListenerActor to TunnelActor: no descriptor or memory was left for a socket.

    `operation` is `local_connect` or `accept`.
    """

    operation: str


class Attach(NamedTuple):
    """SocketActor to TunnelActor: it is there, and takes what comes for `key`, and credit.

    Args:
        key: its connection.
        socket_actor: it.
        credit_bytes: less credit than that may wait until it has become so much. For ever, too: it
            has to be so little that an application is read on without it.
    """

    key: ConnectionKey
    socket_actor: ActorRef[Any]
    credit_bytes: int = 1


class OpenLocal(NamedTuple):
    """TunnelActor to StreamActor: a connection started; `accepted` is its socket in source mode."""

    key: ConnectionKey
    accepted: socket.socket | None


class Deliver(NamedTuple):
    """TunnelActor to SocketActor: bytes for the local application.

    A user's stream, which sees messages, gets in `more` those behind it.
    """

    key: ConnectionKey
    data: bytes
    more: Sequence[bytes] = ()


TAKEN_UNTOLD_BYTES = 1_024
"""Less than that may have been taken by a local socket and not be told yet. It is told at once what
was taken while something waits, and before an end."""


class BytesDelivered(NamedTuple):
    """SocketActor to TunnelActor: credit, the local socket took so many bytes."""

    key: ConnectionKey
    size_bytes: int


class RemoteEnded(NamedTuple):
    """TunnelActor to SocketActor: nothing more comes for it; `end` says what is left."""

    key: ConnectionKey
    end: End
    reason: str


class StopReadingLocal(NamedTuple):
    """TunnelActor to SocketActor: stop reading, as if all had been read: the tunnel is stopping."""


class StopStream(NamedTuple):
    """TunnelActor to StreamActor: the stream is over, and each of its connections was told so.

    `error` says why, when it was neither this side nor an orderly end.
    """

    error: TunnelError | None


class HalfCloseEnded(NamedTuple):
    """TunnelActor to itself: a connection was closed in one direction alone for long enough."""

    key: ConnectionKey


# -- listeners


class SetAccepting(NamedTuple):
    """TunnelActor to ListenerActor: accept, or leave callers waiting in the backlog."""

    accepting: bool


class Accepted(NamedTuple):
    """A listener or a front door to TunnelActor: a local application connected.

    The receiver owns the socket. `peer` and `user` say who it is, as in `LiveConnection`.
    """

    service_id: str
    sock: socket.socket
    peer: str = ""
    user: str = ""


class HandOver(NamedTuple):
    """A front door asks: carry what comes over this socket, as if a listener had accepted it.

    Answers the `ConnectionKey`; from then on the socket is the tunnel's. Raises a `TunnelError` at
    the asker otherwise, `NotConnected` if it may be asked again; then the socket stays the asker's.

    Attributes:
        service_id: the service.
        sock: non-blocking, with nothing read from it that belongs to the application.
        greeting: at most a few hundred bytes, written to the socket before anything of the tunnel.
        peer: where the application is, for people.
        user: who it is, for people.
    """

    service_id: str
    sock: socket.socket
    greeting: bytes = b""
    peer: str = ""
    user: str = ""


class HandOverLost(TunnelClosed):
    """Who was asked to carry a connection has ended, and may have greeted the client before.

    The socket is the asker's. Whatever it says now the client would take for the application's, and
    an end for an end in good order: it can only be reset.
    """


class ListenerBound(NamedTuple):
    """ListenerActor to TunnelActor: it listens at `address`, and at others if a name has more."""

    service_id: str
    listener: ActorRef[Any]
    address: Address
    others: tuple[Address, ...] = ()


# -- the client API


class OutboxFilled(NamedTuple):
    """Outbox to TunnelActor: there are commands to take."""


class EventsTaken(NamedTuple):
    """Outbox to TunnelActor: callbacks have taken half of what waited."""


class EndTold(NamedTuple):
    """Outbox to TunnelActor: the callbacks have returned from an end that the peer made."""

    key: ConnectionKey


# -- supervisors and commands


class AttachTransport(NamedTuple):
    """TransportSupervisor to TunnelActor: it is there and takes children."""

    supervisor: ActorRef[Any]


class Quiesce(NamedTuple):
    """End in good order within `timeout_seconds`; answered by `Quiesced`."""

    reply_to: ActorRef[Any]
    timeout_seconds: float


class Quiesced(NamedTuple):
    """What had been read was sent, or the time was over."""


class Drain(NamedTuple):
    """Refuse new connections; the running ones may finish."""


class ReplaceLimits(NamedTuple):
    """Go by these limits where they are looked at while the tunnel runs: for new connections."""

    limits: Limits


class ReplaceToken(NamedTuple):
    """Connect again, with the tokens that the tunnel's `Credentials` have by now.

    It has none itself: one that comes late would bring back a token that was replaced since.
    """


class ChildStarted(NamedTuple):
    """TransportSupervisor to TunnelActor: a child started."""

    child_id: str
    ref: ActorRef[Any]


class ChildEnded(NamedTuple):
    """TransportSupervisor to TunnelActor: a child ended."""

    child_id: str
    ref: ActorRef[Any]
    reason: ExitReason


class ChildWaiting(NamedTuple):
    """TransportSupervisor to TunnelActor: a child is started again after `delay_seconds`."""

    child_id: str
    delay_seconds: float


class ChildQuarantined(NamedTuple):
    """TransportSupervisor to TunnelActor: a child keeps failing."""

    child_id: str
    reason: ExitReason
