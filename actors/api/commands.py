"""The commands that a user gives a tunnel, and the futures that tell their outcome.

Owns commands, their futures and the error of a full queue. It knows neither how they are carried
out nor when.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tunnelfleet.proto import MessageType, TunnelError

if TYPE_CHECKING:
    from tunnelfleet.actors.callbacks import CallbackQueue


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
