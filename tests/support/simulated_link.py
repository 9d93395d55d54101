"""A link and a service in simulated time, to see what `InFlight` makes of them.

What the tunnel hands over takes its way, stands in the service's receive buffer, is parsed, and
leaves behind a throttle. A pong comes back when the service has parsed its ping, or at once, or
never. No thread, no clock: a hundred seconds take a few milliseconds.
"""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.actors.tunnel.in_flight import QUIET_SECONDS, InFlight
from tunnelfleet.actors.tunnel.pacing import payload_bytes_for_rate
from tunnelfleet.actors.tunnel.sender import MESSAGE_OVERHEAD_BYTES
from tunnelfleet.proto import MAX_PAYLOAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

PING_BYTES = 16
TICK_SECONDS = 0.01


class Item(NamedTuple):
    """What is on its way: a message, or a ping with its number."""

    size_bytes: int
    ping: int | None
    sent_at: float


class Relayed(NamedTuple):
    """A message that has left the service."""

    at: float
    size_bytes: int
    seconds: float


@dataclass
class SimulatedLink:
    """A tunnel with much to send over a link.

    Attributes:
        bytes_per_second: of the throttle, as a number or by time.
        way_seconds: to the service, and back.
        buffer_bytes: what the service's kernel takes.
        jitter_seconds: by how much a way may be longer; nothing overtakes.
        ahead: how many messages the service parses before it reads no more; it reads again when a
            quarter is left.
        answers: "in order", "ahead" of the data, or "never".
        offered: by time, how many bytes the tunnel has had to send; None is without end.
    """

    bytes_per_second: float | Callable[[float], float]
    way_seconds: float = 0.001
    buffer_bytes: int = 4_000_000
    jitter_seconds: float = 0.0
    ahead: int = 0
    answers: str = "in order"
    offered: Callable[[float], float] | None = None
    in_flight: InFlight = field(default_factory=lambda: InFlight(0.1))

    now: float = field(default=0.0, init=False)
    sent_bytes: int = field(default=0, init=False)
    pings: int = field(default=0, init=False)
    least_window: int = field(default=10**12, init=False)
    relayed: list[Relayed] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(1)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._buffer: deque[Item] = deque()
        self._parsed: deque[Item] = deque()
        self._unparsed_bytes = 0
        self._relays = self._is_paused = False
        self._arrived_at = self._answered_at = 0.0
        self._asked_until = 0.0
        self._wakes_at = -1.0
        self._sent_at = 0.0
        self._burst = (0.0, 0)

    # -- what a test asks

    def run(self, seconds: float) -> SimulatedLink:
        """Let so much time pass."""
        end = self.now + seconds
        self._pump()
        while self.offered is not None and self._asked_until < end:
            self._at(self._asked_until, self._pump)
            self._asked_until += TICK_SECONDS
        while self._events and self._events[0][0] <= end:
            self.now, _, action, arguments = heapq.heappop(self._events)
            action(*arguments)
        self.now = end
        return self

    def rate_since(self, start: float) -> float:
        """Bytes a second that left the service."""
        return sum(r.size_bytes for r in self.relayed if r.at >= start) / (self.now - start)

    def delay_since(self, start: float) -> float:
        """The median time that a message was in the service."""
        return statistics.median(r.seconds for r in self.relayed if r.at >= start)

    # -- the tunnel

    def _at(self, at: float, action: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (at, next(self._order), action, arguments))

    @property
    def _is_busy(self) -> bool:
        return self.offered is None or self.sent_bytes < self.offered(self.now)

    def _pump(self) -> None:
        flight = self.in_flight
        while self._is_busy and self._unparsed_bytes < self.buffer_bytes:
            if not flight.has_room(self.sent_bytes):
                wait_seconds = flight.wait_seconds(self.sent_bytes, self.now)
                if wait_seconds:
                    self._pump_at(self.now + wait_seconds)
                    return
            payload = payload_bytes_for_rate(flight.bytes_per_second, MAX_PAYLOAD_BYTES)
            size = max(min(payload, flight.payload_bytes), 1) + MESSAGE_OVERHEAD_BYTES
            self._ping_if_due()
            if self.now - self._sent_at >= QUIET_SECONDS and not flight.pings:
                self._burst = self.now, self.sent_bytes
            self._sent_at = self.now
            self.sent_bytes += size
            self._send(Item(size, None, self.now))
            self.least_window = min(self.least_window, flight.window_bytes or self.least_window)
        self._ping_if_due()

    def _pump_at(self, at: float) -> None:
        if self._wakes_at <= self.now:
            self._wakes_at = at
            self._at(at, self._pump)

    def _ping_if_due(self) -> None:
        flight = self.in_flight
        if flight.is_ping_due(self.sent_bytes, is_busy=self._is_busy):
            self.pings += 1
            number = flight.ping(
                self.sent_bytes, self.now, is_busy=self._is_busy, burst=self._burst
            )
            self._send(Item(PING_BYTES, number, self.now))

    def _send(self, item: Item) -> None:
        self._unparsed_bytes += item.size_bytes
        self._arrived_at = max(self.now + self._way(), self._arrived_at)
        self._at(self._arrived_at, self._arrive, item)

    def _way(self) -> float:
        return self.way_seconds + self._random.random() * self.jitter_seconds

    def _hear(self, number: int) -> None:
        self.in_flight.pong(number, self.sent_bytes, self.now)
        self._ping_if_due()
        self._pump()

    # -- the service

    def _arrive(self, item: Item) -> None:
        if item.ping is not None and self.answers == "ahead":
            self._unparsed_bytes -= item.size_bytes
            self._answer(item.ping)
            return
        self._buffer.append(item)
        self._serve()

    def _serve(self) -> None:
        if len(self._parsed) <= self.ahead // 4:
            self._is_paused = False
        while self._buffer and not self._is_paused:
            self._parse(self._buffer.popleft())
            # Without parsing ahead it looks again after each message, else when all was read.
            if self.ahead == 0 and self._parsed:
                self._is_paused = True
        if len(self._parsed) > self.ahead:
            self._is_paused = True
        if self._parsed and not self._relays:
            self._relays = True
            rate = self.bytes_per_second
            rate = rate(self.now) if callable(rate) else rate
            self._at(self.now + self._parsed[0].size_bytes / rate, self._relay)

    def _parse(self, item: Item) -> None:
        self._unparsed_bytes -= item.size_bytes
        if item.ping is None:
            self._parsed.append(item)
        elif self.answers == "in order":
            self._answer(item.ping)

    def _answer(self, number: int) -> None:
        self._answered_at = max(self.now + self._way(), self._answered_at)
        self._at(self._answered_at, self._hear, number)

    def _relay(self) -> None:
        item = self._parsed.popleft()
        self._relays = False
        seconds = self.now - item.sent_at - self.way_seconds
        self.relayed.append(Relayed(self.now, item.size_bytes, seconds))
        self._serve()
        self._pump()
