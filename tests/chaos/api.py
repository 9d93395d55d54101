"""A server application that is not a socket: the client API's callbacks, in one `SecureTunnel`.

It answers a conversation when the client's direction has ended (or, on a stream that knows no
half-close, when it has all bytes), and then ends its own. Callbacks come on threads of the runtime,
in order; each account is written by them alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .schedule import Conversation, End
from .talk import HEADER_BYTES, Ending, content

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tunnelfleet.runtime import Message, SecureTunnel


class _Answering:
    """One connection of the API."""

    def __init__(self) -> None:
        self.head = b""
        self.talk: Conversation | None = None
        self.ending = Ending()
        self.expected = self.answer = b""
        self.has_answered = False
        self.is_nobodys = False


class ApiServer:
    """The callbacks of a destination, for the conversations of one tunnel.

    Args:
        seed: of the schedule.
        find: says which conversation has this number and service, or None; notes its account.
        strange: is told of a connection that belongs to no conversation.
    """

    def __init__(
        self,
        seed: int,
        find: Callable[[int, str, Ending], Conversation | None],
        strange: Callable[[str], object],
    ) -> None:
        self._seed = seed
        self._find = find
        self._strange = strange
        self._lock = threading.Lock()
        self._open: dict[tuple[str, int], _Answering] = {}

    @property
    def callbacks(self) -> dict[str, Any]:
        """Options of the `SecureTunnel`."""
        return {
            "half_close": True,
            "on_stream_started": self._on_started,
            "on_connection_started": self._on_started,
            "on_message_received": self._on_message,
            "on_input_ended": self._on_input_ended,
            "on_connection_reset": self._on_reset,
            "on_stream_stopped": self._on_stopped,
        }

    @property
    def open_count(self) -> int:
        """How many connections have no end yet."""
        with self._lock:
            return len(self._open)

    def _on_started(self, _tunnel: SecureTunnel, event: Any) -> None:
        if event.error is None:
            with self._lock:
                self._open[event.service_id, event.connection_id] = _Answering()

    def _of(self, service_id: str, connection_id: int | None) -> _Answering | None:
        with self._lock:
            return self._open.get((service_id, connection_id or 1))

    def _on_message(self, tunnel: SecureTunnel, event: Any) -> None:
        message: Message = event.message
        found = self._of(message.service_id, message.connection_id)
        if found is None:
            self._strange("a message on no connection of the API")
            return
        data = bytes(message.payload)
        if found.is_nobodys:
            return
        if found.talk is None:
            data = found.head + data
            if len(data) < HEADER_BYTES:
                found.head = data
                return
            number = int.from_bytes(data[:HEADER_BYTES], "big")
            found.talk = talk = self._find(number, message.service_id, found.ending)
            if talk is None:
                found.is_nobodys = True
                return
            found.expected = content(self._seed, talk, upwards=True)
            found.answer = content(self._seed, talk, upwards=False)
        found.ending.take(data, found.expected)
        is_asked = found.talk.end is End.ASKED
        if is_asked and found.ending.received_bytes >= len(found.expected):
            self._answer(tunnel, message.service_id, message.connection_id, found)

    def _on_input_ended(self, tunnel: SecureTunnel, event: Any) -> None:
        found = self._of(event.service_id, event.connection_id)
        if found is None:
            self._strange("an end of input on no connection of the API")
            return
        found.ending.eof_at = time.monotonic()
        self._answer(tunnel, event.service_id, event.connection_id, found)

    def _answer(
        self, tunnel: SecureTunnel, service_id: str, connection_id: int | None, found: _Answering
    ) -> None:
        if found.has_answered or found.is_nobodys:
            return
        found.has_answered = True
        ending = found.ending
        try:
            if found.answer:
                tunnel.send_bytes(found.answer, service_id, connection_id)
            ending.sent_bytes = len(found.answer)
            ending.shut_at = time.monotonic()
            ended = tunnel.send_connection_reset(service_id, connection_id)
        except Exception as error:
            self._over(service_id, connection_id, type(error).__name__)
            return

        def settled(future: Future[Any]) -> None:
            error = future.exception()
            self._over(service_id, connection_id, type(error).__name__ if error else "", found)

        ended.add_done_callback(settled)

    def _over(
        self,
        service_id: str,
        connection_id: int | None,
        cut: str,
        only: _Answering | None = None,
    ) -> None:
        key = (service_id, connection_id or 1)
        with self._lock:
            found = only or self._open.get(key)
            if found is None:
                return
            if self._open.get(key) is found:
                del self._open[key]
        if not found.ending.is_over:
            found.ending.cut = cut
            found.ending.is_over = True

    def _on_reset(self, _tunnel: SecureTunnel, event: Any) -> None:
        self._ended(event.service_id, event.connection_id, event.error)

    def _on_stopped(self, _tunnel: SecureTunnel, event: Any) -> None:
        # An end without an error is one of the peer, in good order: that is judged. A cut has one,
        # by the peer or the network (AbnormalEnd) or by a stop on this side (TunnelClosed).
        with self._lock:
            ids = [key[1] for key in self._open if key[0] == event.service_id]
        for connection_id in ids:
            self._ended(event.service_id, connection_id, event.error)

    def _ended(self, service_id: str, connection_id: int, error: Exception | None) -> None:
        found = self._of(service_id, connection_id)
        if found is not None and error is None and found.ending.eof_at is None:
            found.ending.eof_at = time.monotonic()
        self._over(service_id, connection_id, type(error).__name__ if error else "")
