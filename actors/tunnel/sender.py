"""What a tunnel sends, when: fair queue, windows, pacing (docs/architecture.md section 6).

Pure: the time is an argument, and what a piece becomes on the wire is the caller's. It gives out
pieces while the window and the bandwidth allow, is told what the caller has made of each, keeps
what is on its way, and says what has left, so that credit can be given. It calls nobody, and owns
no timer and no socket; TunnelActor does.

    messages = sender.take_control(now)
    while (piece := sender.next_piece(now)) is not None:
        message = encode(piece)
        sender.sent(message, piece.flow.key, now)
        messages.append(message)
    # transmit the messages; ask again after `sender.wait_seconds`, if it is not 0
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tunnelfleet.actors.token_bucket import TokenBucket
from tunnelfleet.proto import DataBurst, Message

from .in_flight import QUIET_SECONDS, InFlight
from .pacing import (
    FAST_BYTES_PER_SECOND,
    FairQueue,
    Piece,
    RateMeter,
    pacing_bucket,
    payload_bytes_for_rate,
)

if TYPE_CHECKING:
    from tunnelfleet.actors.config import Limits
    from tunnelfleet.actors.counters import TunnelStats

    from .messages import ConnectionKey


class Credit(NamedTuple):
    """Bytes of a connection that left for the kernel, or were thrown away with it."""

    key: ConnectionKey
    size_bytes: int


class _OnItsWay(NamedTuple):
    key: ConnectionKey | None
    payload_bytes: int
    wire_bytes: int
    messages: int


MESSAGE_OVERHEAD_BYTES = 48
"""What a DATA message adds on the wire, about: tunnel frame, WebSocket header, TLS record."""
FRAME_OVERHEAD_BYTES = 24
"""What a further DATA of a burst adds on the wire, about."""
WINDOW_SECONDS = 0.05
"""A slow link has about this much with the WebSocketActor, and as much in the kernel."""
MIN_WINDOW_BYTES = 4_096
MOST_WHOLE_BYTES = 32_768
"""So much may leave in large messages: more is a transfer, and a service that parses some messages
ahead would hide the queue of large ones."""
UNTOLD_BYTES = 8_192
"""So much may leave before the WebSocketActor says again that something has, in small messages in
front of which nothing waits; of a window no more than a quarter."""
GROWTH = 1.25
"""How fast a measured rate is doubted while the link takes all it gets."""


class WireSender:
    """The sending half of a tunnel.

    Args:
        limits: the tunnel's limits.
        bandwidth_bytes_per_second: the rate to stay below, or None.
        stats: counts queue and throttle.
        now: monotonic seconds.
        pacing: whether to find out by pings how fast to send, where no bandwidth says it.
        stagger: see `InFlight`.

    Attributes:
        in_flight: what may be in flight of the present link.
        low_water_bytes: what TCP_NOTSENT_LOWAT should be at the present rate.
        wait_seconds: after how long to ask for pieces again because of the bandwidth; 0: not
            because of it.
        messages_left: by connection, the messages of the last `written`: DATA, ends, and control
            messages with a key.
    """

    def __init__(
        self,
        limits: Limits,
        bandwidth_bytes_per_second: float | None,
        stats: TunnelStats,
        now: float,
        *,
        pacing: bool = False,
        stagger: float = 0.0,
    ) -> None:
        self._limits = limits
        self._bandwidth = bandwidth_bytes_per_second
        self._stats = stats
        self._control: list[tuple[Message, ConnectionKey | None]] = []
        self._queue: FairQueue[ConnectionKey] = FairQueue()
        self._on_its_way: list[_OnItsWay] = []
        self._on_its_way_bytes = 0
        self._meter = RateMeter()
        self._throttled_until = now
        self.wait_seconds = 0.0
        self.messages_left: dict[ConnectionKey, int] = {}
        self._bucket: TokenBucket | None = None
        if bandwidth_bytes_per_second is not None:
            self._bucket = pacing_bucket(bandwidth_bytes_per_second, now)
        self._rate: float | None = None
        is_pacing = pacing and self._bucket is None
        self._standing_seconds = limits.standing_seconds if is_pacing else None
        self._stagger = stagger
        self.in_flight = InFlight(self._standing_seconds, stagger=stagger)
        self._forget_handed()
        self._adapt()

    def _forget_handed(self) -> None:
        """A new link begins: nothing was handed over to it."""
        self._handed_bytes, self._handed_at = 0, 0.0
        self._untold_bytes = 0
        """What has left untold since the last `written`."""
        self._left_at = 0.0
        """When something left for the kernel last."""
        self._burst = 0.0, 0
        """When, and behind how many bytes, it was sent for the first time after a silence."""

    def _adapt(self) -> None:
        """Go by the rate of the link that is known now."""
        limits, self._rate = self._limits, self._meter.bytes_per_second
        rates = (self._rate, self.in_flight.bytes_per_second, self._bandwidth)
        rate = min((each for each in rates if each is not None), default=None)
        payload_bytes = payload_bytes_for_rate(rate, limits.data_payload_bytes)
        self._payload_bytes = min(payload_bytes, self.in_flight.payload_bytes)
        self._window_bytes = min(limits.wire_window_bytes, self._window(WINDOW_SECONDS))
        self.low_water_bytes = min(limits.notsent_low_water_bytes, self._window(WINDOW_SECONDS))

    @property
    def is_idle(self) -> bool:
        """Whether everything has left for the kernel."""
        return not (self._control or self._queue or self._on_its_way)

    @property
    def has_waiting(self) -> bool:
        """Whether anything has not been given out yet."""
        return bool(self._control or self._queue.turns)

    def control(self, message: Message, key: ConnectionKey | None = None) -> None:
        """Queue a start, reset or reply: it leaves before all DATA that waits.

        With a key, it is counted in `messages_left` when it has left.
        """
        self._control.append((message, key))

    def data(self, key: ConnectionKey, chunk: bytes, now: float, *, join: bool = True) -> None:
        """Queue bytes of a connection; `join` False: not in one payload with those before."""
        self._begins(now)
        self._queue.push(key, chunk, now, join=join)
        self._stats.set_queue_bytes(self._queue.queued_bytes)

    def messages(self, key: ConnectionKey, messages: list[bytes], now: float) -> None:
        """Queue messages of a connection, whose borders the peer is to see."""
        self._begins(now)
        self._queue.push_messages(key, messages, now)
        self._stats.set_queue_bytes(self._queue.queued_bytes)

    def _begins(self, now: float) -> None:
        """There is something to send; if there was nothing for a while, a queue is not ours."""
        if self.in_flight.suspected_since is None or self._queue.turns or self._on_its_way:
            return
        if now - self._left_at >= QUIET_SECONDS:
            self.in_flight.suspected_since = None

    def end(self, key: ConnectionKey, now: float) -> None:
        """Queue the end of a connection behind its bytes."""
        self._queue.push_end(key, now)

    def discard(self, key: ConnectionKey) -> Credit:
        """Forget what a connection has waiting."""
        size_bytes = self._queue.discard(key)
        self._stats.set_queue_bytes(self._queue.queued_bytes)
        return Credit(key, size_bytes)

    def connection_lost(self) -> list[Credit]:
        """Forget what was on its way and all control messages; DATA is discarded by connection."""
        left = [Credit(i.key, i.payload_bytes) for i in self._on_its_way if i.key is not None]
        self._on_its_way.clear()
        self._on_its_way_bytes = 0
        self._control.clear()
        self._meter = RateMeter()
        does_answer = False if self.in_flight.does_answer is False else None
        self.in_flight = InFlight(
            self._standing_seconds, does_answer=does_answer, stagger=self._stagger
        )
        self._forget_handed()
        self._stats.set_link_rate(0)
        self._adapt()
        return left

    def take_control(self, now: float) -> list[Message]:
        """Take out all control messages, in order; they are on their way."""
        messages = []
        while self._control:
            message, key = self._control.pop(0)
            self.sent(message, key, now)
            messages.append(message)
        return messages

    def passes(self, size_bytes: int) -> bool:
        """Whether bytes of a connection need not be queued: nothing waits, and they may leave now.

        The caller then makes them a message and calls `sent`, as for a piece of the queue.
        """
        return (
            not self._control
            and not self._queue.turns
            and self._bucket is None
            and (size_bytes <= self._payload_bytes or self._passes_whole(size_bytes))
            and self._on_its_way_bytes < self._window_bytes
            and self._handed_bytes < self.in_flight.quiet_until
        )

    def _passes_whole(self, size_bytes: int) -> bool:
        return size_bytes <= self._limits.data_payload_bytes and self._fits(size_bytes)

    def _fits(self, waiting_bytes: int) -> bool:
        """Whether all that waits may leave now, so that small messages would serve nobody.

        Each message costs processor time, here and at the service. Where that is what is short,
        smaller messages would make it shorter.
        """
        flight = self.in_flight
        return (
            self._rate is None
            and self._bucket is None
            and flight.bytes_per_second is None
            and waiting_bytes <= min(MOST_WHOLE_BYTES, flight.room_bytes(self._handed_bytes))
        )

    def next_piece(self, now: float) -> Piece[ConnectionKey] | None:
        """Take the next piece out that may be sent now.

        Returns:
            The piece, whose payload is None for the end of a connection, or None: nothing waits,
            the window is full, or bandwidth or pings allow nothing for `wait_seconds`.
        """
        self.wait_seconds = 0.0
        if not self._queue.turns or self._on_its_way_bytes >= self._window_bytes:
            return None
        if self._bucket is not None:
            wait_seconds = self._bucket.wait_seconds(now)
            if wait_seconds > 0:
                self._count_throttled(now, wait_seconds)
                self.wait_seconds = wait_seconds
                return None
        elif not self.in_flight.has_room(self._handed_bytes):
            self.wait_seconds = self.in_flight.wait_seconds(self._handed_bytes, now)
            if self.wait_seconds:
                return None
        fits = self._fits(self._queue.queued_bytes)
        payload_bytes = self._limits.data_payload_bytes if fits else self._payload_bytes
        piece = self._queue.pop(payload_bytes, now)
        if piece is not None:
            self._stats.observe_queue_wait(piece.waited_seconds)
            self._stats.set_queue_bytes(self._queue.queued_bytes)
        return piece

    def hold(self, now: float, *, is_held: bool) -> None:
        """The link is not read, or again: see `InFlight.hold`."""
        self.in_flight.hold(self._handed_bytes, now, is_held=is_held)

    def _count_throttled(self, now: float, wait_seconds: float) -> None:
        """Count the time in which the bandwidth allowed nothing, once however often it is asked."""
        until = now + wait_seconds
        self._stats.count_throttled(until - max(now, min(self._throttled_until, until)))
        self._throttled_until = until

    def sent(self, message: Message | DataBurst, key: ConnectionKey | None, now: float) -> None:
        """A message that was made of a piece of a connection, or a burst, is on its way."""
        if isinstance(message, DataBurst):
            size_bytes, more = message.payload_bytes, len(message.more)
        else:
            size_bytes, more = len(message.payload), 0
        wire_bytes = size_bytes + MESSAGE_OVERHEAD_BYTES + more * FRAME_OVERHEAD_BYTES
        self._on_its_way.append(_OnItsWay(key, size_bytes, wire_bytes, 1 + more))
        self._on_its_way_bytes += wire_bytes
        self._hand_over(wire_bytes, now)

    def leaves_untold(self, size_bytes: int, now: float) -> bool:
        """Whether a message with so many bytes, which `passes`, counts as having left at once.

        Where nothing is on its way a small message leaves as it is sent, and to be told so would
        cost as much as the message. Should the kernel refuse it, no more than `UNTOLD_BYTES` are
        where nobody counts them. It is on its way then, in place of a call of `sent`.
        """
        wire_bytes = size_bytes + MESSAGE_OVERHEAD_BYTES
        untold_bytes = self._untold_bytes + wire_bytes
        if self._on_its_way or untold_bytes > min(UNTOLD_BYTES, self._window_bytes // 4):
            return False
        self._untold_bytes = untold_bytes
        self._left_at = now
        self._hand_over(wire_bytes, now)
        return True

    def _hand_over(self, wire_bytes: int, now: float) -> None:
        if now - self._handed_at >= QUIET_SECONDS and not self.in_flight.pings:
            self._burst = now, self._handed_bytes
        self._handed_at = now
        self._handed_bytes += wire_bytes
        if self._bucket is not None:
            self._bucket.take(wire_bytes, now)

    @property
    def is_ping_due(self) -> bool:
        """Whether a ping should be sent now, behind all that was given out."""
        is_busy = bool(self._queue.turns)
        return self.in_flight.is_ping_due(self._handed_bytes, is_busy=is_busy)

    def ping(self, now: float) -> int:
        """A ping is sent; return its number."""
        is_busy = bool(self._queue.turns)
        return self.in_flight.ping(self._handed_bytes, now, is_busy=is_busy, burst=self._burst)

    def pong(self, number: int, now: float) -> None:
        """The service has answered a ping of `in_flight`."""
        answer = self.in_flight.pong(number, self._handed_bytes, now)
        if answer is not None:
            self._stats.observe_standing(answer.delay_seconds)
            self._stats.set_link_rate(int(self.in_flight.bytes_per_second or 0))
            if answer.waited_seconds:
                self._stats.count_paced(answer.waited_seconds)
            self._adapt()

    def written(self, messages: int, now: float, *, blocked: bool) -> list[Credit]:
        """So many of what was sent left for the kernel; `blocked`: it takes no more for now."""
        left: dict[ConnectionKey, int] = {}
        counts = self.messages_left = {}
        wire_bytes = 0
        gone = self._on_its_way[:messages]
        del self._on_its_way[:messages]
        for item in gone:
            wire_bytes += item.wire_bytes
            if item.key is not None:
                counts[item.key] = counts.get(item.key, 0) + item.messages
                if item.payload_bytes:
                    left[item.key] = left.get(item.key, 0) + item.payload_bytes
        self._on_its_way_bytes -= wire_bytes
        self._untold_bytes = 0
        self._left_at = now
        if blocked or self._queue.turns or self._meter.busy_since is not None:
            self._measure(wire_bytes, now, blocked=blocked)
        return [Credit(key, size_bytes) for key, size_bytes in left.items()]

    def _measure(self, wire_bytes: int, now: float, *, blocked: bool) -> None:
        self._meter.took(wire_bytes, now)
        if blocked:
            self._meter.busy(now)
        elif not self._queue.turns:
            self._meter.idle()
        else:
            self._doubt()
        if self._meter.bytes_per_second != self._rate:
            self._adapt()

    def _doubt(self) -> None:
        """The link took all it got: it may be faster than measured."""
        rate = self._meter.bytes_per_second
        if rate is not None:
            grown = rate * GROWTH
            self._meter.bytes_per_second = grown if grown < FAST_BYTES_PER_SECOND else None

    def _window(self, seconds: float) -> int:
        rate = self._meter.bytes_per_second
        if rate is None or rate >= FAST_BYTES_PER_SECOND:
            return self._limits.wire_window_bytes
        return max(int(rate * seconds), MIN_WINDOW_BYTES)
