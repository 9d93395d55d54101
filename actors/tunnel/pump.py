"""What leaves: takes pieces out of the sender, makes them messages, hands them to the link.

Owns the timer of a bandwidth and the place of pings between messages. When a piece may leave is
`sender`'s word, what it becomes is `streams`' and `connections`'. docs/architecture.md section 5.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .connections import EndPhase
from .link import LinkPhase
from .messages import LocalDataRead, PongHeard, Transmit

if TYPE_CHECKING:
    from tunnelfleet.actors.counters import TunnelStats
    from tunnelfleet.actors.kernel import Timer
    from tunnelfleet.proto import Message

    from .link import Link
    from .sender import WireSender
    from .streams import Streams


class PumpAgain(NamedTuple):
    """The bandwidth allows more by now."""


class Pump:
    """The way from the sender to the link.

    Args:
        sender: what waits, and when it may leave.
        streams: make a piece what it is on the wire.
        link: takes it.
        stats: counts how long it waited.
        schedule: sends the actor a message after some seconds; a `PumpAgain` comes to `again`.
    """

    __slots__ = ("_connections", "_link", "_schedule", "_sender", "_stats", "_streams", "_timer")

    def __init__(
        self,
        sender: WireSender,
        streams: Streams,
        link: Link,
        stats: TunnelStats,
        schedule: Callable[[float, Any], Timer],
    ) -> None:
        self._sender = sender
        self._streams, self._connections = streams, streams.connections
        self._link = link
        self._stats = stats
        self._schedule: Callable[[float, Any], Timer] | None = schedule
        self._timer: Timer | None = None

    def local_data(self, message: LocalDataRead) -> None:
        """A local end has read bytes: they leave at once, or wait for their turn."""
        key, payload = message
        connection = self._connections.by_key.get(key)
        if connection is None:
            return
        if connection.end_phase in (EndPhase.SENT, EndPhase.OVER):
            connection.give_credit(len(payload))
            return
        now = time.monotonic()
        if self._link.phase is LinkPhase.DOWN or not self._sender.passes(len(payload)):
            self._sender.data(key, payload, now)
            self.run()
            return
        # Nothing waits in front of it: it need not be queued.
        encoded = self._connections.encode(connection, payload)
        if encoded is not None:
            self._sender.sent(encoded, key, now)
            self._stats.observe_queue_wait(0.0)
            self._transmit([encoded])

    def run(self) -> None:
        """Send what may be sent now."""
        if self._link.phase is LinkPhase.DOWN:
            return
        sender, streams, now = self._sender, self._streams, time.monotonic()
        messages = sender.take_control(now)
        while (piece := sender.next_piece(now)) is not None:
            if sender.is_ping_due:
                messages = self._ping_behind(messages, now)
            key = piece.flow.key
            for message in streams.encode_piece(key, piece.payload):
                sender.sent(message, key, now)
                messages.append(message)
        if messages and sender.is_ping_due:
            self._ping_behind(messages, now)
        elif messages:
            self._transmit(messages)
        if sender.wait_seconds and self._timer is None and self._schedule is not None:
            self._timer = self._schedule(sender.wait_seconds, PumpAgain())

    def again(self) -> None:
        """The timer is over."""
        self._timer = None
        self.run()

    def pong(self, message: PongHeard) -> None:
        """The service has answered a ping: perhaps more may be sent."""
        if not self._link.is_of(message.epoch):
            return
        now, sender = time.monotonic(), self._sender
        sender.pong(message.number, now)
        if sender.is_ping_due:
            self._ping_behind([], now)
        if sender.has_waiting:
            self.run()

    def _transmit(self, messages: list[Message]) -> None:
        """Have messages sent; the link is up."""
        assert self._link.websocket is not None
        self._link.websocket.tell(Transmit(messages))

    def _ping_behind(self, messages: list[Message], now: float) -> list[Message]:
        """Send these, and a ping that says when they were parsed; return a list for the next."""
        if messages:
            self._transmit(messages)
        self._link.ping(self._sender.ping(now))
        return []

    def let_go(self) -> None:
        """Keep nothing that leads back to the actor, which has ended."""
        self._schedule = None
