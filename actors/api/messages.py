"""What a user's code and its tunnel tell each other: commands and their futures, and events.

Owns their names and fields; those of events follow the callbacks of the device SDK for C++
(docs/protocol.md section 5). Every event names its tunnel. No `repr` shows a payload.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from tunnelfleet.actors.events import TunnelEvent
from tunnelfleet.proto import MessageType, Mode, TunnelError

if TYPE_CHECKING:
    from tunnelfleet.actors.callbacks import CallbackQueue
    from tunnelfleet.actors.tunnel.messages import ConnectionKey


class SendQueueFull(TunnelError):  # noqa: N818 - says what is the matter
    """There was no room for a message within the time that the caller allowed.

    Attributes:
        accepted: how many messages of the call had been taken; they are sent.
    """

    def __init__(self, waited_seconds: float, accepted: int = 0) -> None:
        super().__init__(waited_seconds, accepted)
        self.waited_seconds = waited_seconds
        self.accepted = accepted

    def __str__(self) -> str:
        return (
            f"no room for another message after {self.waited_seconds:g} s, "
            f"{self.accepted} were taken: the tunnel sends slower than you do; "
            "wait longer, or raise send_high_water_bytes and send_high_water_messages"
        )


T = TypeVar("T")


class SendFuture(Future[T]):
    """The outcome of a command; as in `concurrent.futures`.

    Its done-callbacks run where the tunnel's callbacks do, so that they may take their time.
    """

    def __init__(self, callback_queue: CallbackQueue) -> None:
        super().__init__()
        self._callback_queue = callback_queue

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(self)` once resolved: at once if it is, else in the tunnel's turn of events."""
        if self.done():
            super().add_done_callback(fn)
        else:
            super().add_done_callback(lambda future: self._callback_queue.call(fn, future))

    def add_direct_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(self)` on the thread that resolves it; `fn` must not block."""
        super().add_done_callback(fn)

    def settle(self, error: Exception | None, result: Any) -> None:
        """Resolve it, unless its owner has cancelled it."""
        with contextlib.suppress(InvalidStateError):
            if error is None:
                self.set_result(result)
            else:
                self.set_exception(error)


class Waiter(Protocol):
    """Whoever is told the outcome of a command."""

    def settle(self, error: Exception | None, result: Any) -> None:
        """The command was carried out, or failed."""
        ...


class SendBatch:
    """Many messages with one future: its result is their number; the first error is its error."""

    __slots__ = ("_error", "_left", "_lock", "_taken", "future")

    def __init__(self, future: SendFuture[int]) -> None:
        self.future = future
        self._lock = threading.Lock()
        self._left = 0
        self._taken: int | None = None
        self._error: Exception | None = None

    def add(self, messages: int) -> None:
        """Add so many messages to the future."""
        with self._lock:
            self._left += messages

    def end(self, messages: int) -> None:
        """Say that no more messages follow, and how many there were."""
        with self._lock:
            self._taken = messages
            done = self._left == 0
        if done:
            self.future.settle(self._error, messages)

    def settle(self, error: Exception | None, result: Any) -> None:  # noqa: ARG002 - of the protocol
        """Note that one message is done."""
        with self._lock:
            self._left -= 1
            self._error = self._error or error
            done = self._left == 0 and self._taken is not None
        if done:
            self.future.settle(self._error, self._taken)


class Outgoing:
    """A command of a user.

    Attributes:
        kind: DATA, STREAM_START, CONNECTION_START, CONNECTION_RESET or STREAM_RESET.
        service_id: empty for the only service.
        connection_id: None for the only one, or for the next.
        payload: of DATA.
        waiter: is told the outcome.
    """

    __slots__ = ("connection_id", "kind", "payload", "service_id", "waiter")

    def __init__(
        self,
        kind: MessageType,
        service_id: str,
        connection_id: int | None,
        payload: bytes = b"",
        waiter: Waiter | None = None,
    ) -> None:
        self.kind = kind
        self.service_id = service_id
        self.connection_id = connection_id
        self.payload = payload
        self.waiter = waiter


class ConnectionId(int):
    """The id of a connection, as events and the futures of starts have it: it knows whose it is.

    It equals the number, and is shown as one. A command that is given it reaches that connection
    and no later one of the same number; with a plain number it reaches the one that has it by then.

    Args:
        connection: whose id it is.
        owner: the tunnel that has it, and which end of it. At another one it is a number.
    """

    connection: ConnectionKey
    owner: tuple[str, Mode]

    def __new__(cls, connection: ConnectionKey, owner: tuple[str, Mode]) -> Self:
        """Make it of the connection's number."""
        made = super().__new__(cls, connection.connection_id)
        made.connection, made.owner = connection, owner
        return made

    def __copy__(self) -> Self:
        """A copied event still tells of the same connection."""
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        """As `__copy__`."""
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """In another process it is a number."""
        return int, (int(self),)


class Admission(Outgoing):
    """From here on commands for a connection mean this one, since its user hears of it now.

    Those before it were meant for a former connection of the same id.
    """

    __slots__ = ("key",)

    def __init__(self, key: ConnectionKey) -> None:
        super().__init__(MessageType.UNKNOWN, key.service_id, key.connection_id)
        self.key = key


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
            is always 1. One that an event told of means the connection of then, although a later
            one may have its number by now: see `ConnectionId`.
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
