"""The ways to send through a tunnel client, from any thread and from asyncio.

Owns what may be passed to them, how messages become commands with futures, and how asyncio waits
for one. When they leave, and what is wrong with them, the tunnel's actors say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from tunnelfleet.actors.api.messages import (
    ConnectionId,
    Message,
    Outgoing,
    SendBatch,
    SendFuture,
    SendQueueFull,
)
from tunnelfleet.actors.api.outbox import Outbox
from tunnelfleet.actors.config import Limits
from tunnelfleet.proto import MAX_PAYLOAD_BYTES, MessageType, TunnelError

T = TypeVar("T")


async def awaitable(future: Future[T]) -> T:
    """Wait for a future of a tunnel; returns its result or raises its error."""
    if isinstance(future, SendFuture):
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        future.add_direct_callback(lambda _future: call_soon(loop, done.set))
        await done.wait()
        return future.result()  # type: ignore[no-any-return]
    return await asyncio.wrap_future(future)


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Call a function in an event loop, from any thread. If the loop is closed, do nothing."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return


def check_message(call: str, message: Any) -> None:
    """Raise an error if a payload cannot be sent as DATA.

    Args:
        call: for the error, what it was given to.
        message: a `Message` with bytes, or something like bytes, in it.
    """
    if not isinstance(message, Message):
        raise _wrong(call, message, "a Message, as in Message(b'data', 'SSH')")
    check_address(call, message.service_id, message.connection_id)
    payload: Any = message.payload
    if type(payload) is not bytes:
        payload_view(f"{call}: the payload of a Message", payload)


def check_messages(call: str, messages: Any) -> None:
    """Raise an error if it is no iterable. Each message is checked when its turn comes."""
    if isinstance(messages, Message):
        raise _wrong(call, messages, "several messages; for one there is send_message")
    if not isinstance(messages, Iterable) or isinstance(messages, str | bytes | bytearray):
        raise _wrong(call, messages, "an iterable of Message")


def check_start(call: str, service: Any, connection_id: Any) -> tuple[str, int | None]:
    """Return the service id and connection id that a command is for.

    Args:
        call: for the error, what they were given to.
        service: a service id, or a `Message` that has both; None and an empty text stand for the
            only service.
        connection_id: 1 or more; None for the next or the only one.
    """
    if isinstance(service, Message):
        if service.payload:
            raise ValueError(
                f"{call} sends no payload: give it a Message without one, and send the payload "
                "with send_message"
            )
        if connection_id is not None and service.connection_id is not None:
            raise ValueError(f"{call} was given two connection ids: keep the one of the Message")
        if connection_id is None:
            connection_id = service.connection_id
        service = service.service_id
    return check_address(call, service, connection_id)


def check_address(call: str, service_id: Any, connection_id: Any) -> tuple[str, int | None]:
    """Return a service id and connection id as commands have them; see `check_start`."""
    if service_id is not None and not isinstance(service_id, str):
        raise _wrong(call, service_id, "a service id as text, as in 'SSH'")
    is_number = isinstance(connection_id, int) and not isinstance(connection_id, bool)
    if connection_id is not None and not is_number:
        raise _wrong(call, connection_id, "a connection id as a number of 1 or more, or None")
    return service_id or "", connection_id


def check_seconds(call: str, seconds: Any, *, may_be_none: bool = True) -> None:
    """Refuse what is no time."""
    if seconds is None and may_be_none:
        return
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise _wrong(call, seconds, f"seconds as a number{', or None' if may_be_none else ''}")


def check_text(call: str, text: Any) -> None:
    """Raise an error if it is no text. The error does not show it, as it may be a token."""
    if not isinstance(text, str):
        raise TypeError(f"{call}: pass text (str), not {_kind(text)}")


def payload_view(call: str, data: Any) -> memoryview:
    """Return the bytes of an object that is like bytes."""
    if isinstance(data, str):
        raise TypeError(f"{call}: pass bytes, not text; encode it, as in 'text'.encode()")
    try:
        return memoryview(data).cast("B")
    except TypeError:
        raise _wrong(call, data, "bytes, or something like bytes") from None


def _wrong(call: str, value: object, wanted: str) -> TypeError:
    return TypeError(f"{call}: pass {wanted}, not {_kind(value)}")


def _kind(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


_CONNECTION_ID_TYPES = (int, ConnectionId, type(None))
BATCH_MESSAGES = 256
"""How many messages of an iterable are handed over at a time."""


class Sending:
    """The methods with which a `SecureTunnel` sends."""

    @property
    def limits(self) -> Limits:
        """Its bounds."""
        raise NotImplementedError

    def _open_outbox(self) -> Outbox:
        """Return the outbox of the started tunnel; raises `TunnelClosed` if it is not."""
        raise NotImplementedError

    def send_message(
        self, message: Message, *, timeout_seconds: float | None = None
    ) -> Future[None]:
        """Send one message, as one DATA message, behind those before it on its connection.

        Args:
            message: a payload of at most 64,512 bytes and where it goes.
            timeout_seconds: how long to wait while as much is on its way as the limits allow; None
                waits without end, 0 fails at once.

        Returns:
            A future, resolved when the message was wholly written to the socket. It raises what was
            wrong: a `LocalProtocolError` (`PayloadTooLarge`, `NotConnected`, `NoActiveStream`,
            `ServiceIdUnknown`, `ServiceWithoutStream`, `ConnectionIdUnknown`, `VersionMismatch`),
            `ConnectionLost` when the connection was lost first, `TunnelClosed` when the tunnel was.

        Raises:
            SendQueueFull: there was no room within the time.
            TunnelClosed: the client is not started.
            TypeError: it is no message, or has in it what cannot be sent.
        """
        future: SendFuture[None] = self._future()
        self._submit([data_of(message, future)], timeout_seconds)
        return future

    def send_messages(
        self, messages: Iterable[Message], *, timeout_seconds: float | None = None
    ) -> Future[int]:
        """Send many messages with one future: cheaper than one for each.

        Args:
            messages: sent in order.
            timeout_seconds: how long to wait for room, each time there is none.

        Returns:
            A future of their number, resolved when all were written; it raises the first error.

        Raises:
            SendQueueFull: there was no room within the time; `accepted` says how many are sent.
            TunnelClosed: the client is not started.
        """
        check_messages("send_messages", messages)
        future: SendFuture[int] = self._future()
        batch = SendBatch(future)
        accepted = 0
        try:
            for entries in _chunks(data_of(message, batch) for message in messages):
                batch.add(len(entries))
                try:
                    self._submit(entries, timeout_seconds)
                except SendQueueFull as error:
                    batch.add(error.accepted - len(entries))
                    accepted += error.accepted
                    error.accepted = accepted
                    raise
                except TunnelError:
                    batch.add(-len(entries))
                    raise
                accepted += len(entries)
        finally:
            batch.end(accepted)
        return future

    def send_bytes(
        self,
        data: bytes,
        service_id: str = "",
        connection_id: int | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> Future[int]:
        """Send bytes of any length, split into messages of `limits.data_payload_bytes`.

        Returns:
            A future of the number of messages; see `send_messages`.
        """
        size_bytes = self.limits.data_payload_bytes
        view = payload_view("send_bytes", data)
        service_id, connection_id = check_address("send_bytes", service_id, connection_id)
        return self.send_messages(
            (
                Message(bytes(view[start : start + size_bytes]), service_id, connection_id)
                for start in range(0, len(view), size_bytes)
            ),
            timeout_seconds=timeout_seconds,
        )

    def send_stream_start(
        self, service_id: str | Message | None = "", *, timeout_seconds: float | None = None
    ) -> Future[int]:
        """Source: start a new stream of a service with its first connection.

        An active stream of the service is reset first; messages of it that have not left fail.

        Args:
            service_id: the service, or a `Message` that names it, as in the SDK for C++.
            timeout_seconds: as in `send_message`.

        Returns:
            A future of its connection id, resolved when the start was written. It raises
            `WrongMode` on a destination, `NotConnected`, `ServiceIdUnknown`, `VersionMismatch`.
        """
        service_id, connection_id = check_start("send_stream_start", service_id, None)
        if connection_id not in (None, 1):
            raise ValueError(
                "send_stream_start: the first connection of a stream has the id 1; "
                "leave connection_id out"
            )
        return self._command(MessageType.STREAM_START, service_id, None, timeout_seconds)

    def send_connection_start(
        self,
        service_id: str | Message | None = "",
        connection_id: int | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> Future[int]:
        """Source, V3: start one more connection on the active stream of a service.

        Args:
            service_id: the service, or a `Message` that names service and connection.
            connection_id: its id; None for the next free one.
            timeout_seconds: as in `send_message`.

        Returns:
            A future of its connection id, resolved when the start was written. It raises what
            `send_stream_start` does, and `NoActiveStream`, `ServiceWithoutStream`,
            `ConnectionIdUnusable`, `TooManyConnections`.
        """
        kind = MessageType.CONNECTION_START
        service_id, connection_id = check_start("send_connection_start", service_id, connection_id)
        return self._command(kind, service_id, connection_id, timeout_seconds)

    def send_connection_reset(
        self,
        service_id: str | Message | None = "",
        connection_id: int | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> Future[int]:
        """End one connection behind what was sent on it; in V1 and V2 that is the stream.

        The future is resolved when the reset was written.
        """
        kind = MessageType.CONNECTION_RESET
        service_id, connection_id = check_start("send_connection_reset", service_id, connection_id)
        return self._command(kind, service_id, connection_id, timeout_seconds)

    def send_stream_reset(
        self,
        service_id: str | Message | None = "",
        connection_id: int | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> Future[int]:
        """End the active stream of a service at once, with all its connections.

        A service has one active stream. Messages of it that have not left fail.

        Args:
            service_id: the service, or a `Message` that names service and connection.
            connection_id: an open connection of the stream that is meant. As an event has told it,
                it keeps the reset from a later stream, which the peer may have started meanwhile.
                None for whichever stream is active.
            timeout_seconds: as in `send_message`.

        Returns:
            A future that is resolved when the reset was written. It raises `NoActiveStream` or
            `ServiceWithoutStream` if there is none, and `ConnectionIdUnknown` if the active stream
            does not have that connection.
        """
        kind = MessageType.STREAM_RESET
        service_id, connection_id = check_start("send_stream_reset", service_id, connection_id)
        return self._command(kind, service_id, connection_id, timeout_seconds)

    def _command(
        self,
        kind: MessageType,
        service_id: str,
        connection_id: int | None,
        timeout_seconds: float | None,
    ) -> Future[int]:
        future: SendFuture[int] = self._future()
        entry = Outgoing(kind, service_id, connection_id, b"", future)
        self._submit([entry], timeout_seconds)
        return future

    def _future(self) -> SendFuture[Any]:
        return SendFuture(self._open_outbox().callback_queue)

    def _submit(self, entries: Sequence[Outgoing], timeout_seconds: float | None) -> None:
        check_seconds("timeout_seconds", timeout_seconds)
        self._open_outbox().submit(entries, timeout_seconds)


def data_of(message: Message, waiter: SendFuture[None] | SendBatch) -> Outgoing:
    """Return the command that sends a message.

    Raises:
        TypeError: it is no message, or has in it what cannot be sent.
    """
    # Millions of messages pass here, so the usual case is checked by its types alone.
    if (
        type(message) is not Message
        or type(message.payload) is not bytes
        or type(message.service_id) is not str
        or type(message.connection_id) not in _CONNECTION_ID_TYPES
    ):
        check_message("a message to send", message)
        message = replace(message, payload=bytes(memoryview(message.payload)))
    return Outgoing(
        MessageType.DATA, message.service_id, message.connection_id, message.payload, waiter
    )


def _chunks(entries: Iterable[Outgoing]) -> Iterable[list[Outgoing]]:
    chunk: list[Outgoing] = []
    size_bytes = 0
    for entry in entries:
        chunk.append(entry)
        size_bytes += len(entry.payload)
        if len(chunk) >= BATCH_MESSAGES or size_bytes >= MAX_PAYLOAD_BYTES:
            yield chunk
            chunk, size_bytes = [], 0
    if chunk:
        yield chunk
