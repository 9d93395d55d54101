"""What a tunnel sends, when: fair queue, window, pacing (docs/architecture.md section 6).

Pure: the time is an argument, and what a piece becomes on the wire is the caller's. It hands out
messages while the window and the bandwidth allow, keeps what is on its way, and says what has left,
so that credit can be given. It owns no timer and no socket; TunnelActor does.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .fair_queue import FairQueue
from .pacing import FAST_BYTES_PER_SECOND, RateMeter, pacing_bucket, payload_bytes_for_rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.actors.config import Limits
    from tunnelfleet.actors.counters import TunnelStats
    from tunnelfleet.actors.token_bucket import TokenBucket
    from tunnelfleet.proto import Message

    from .messages import ConnectionKey

__all__ = [
    "Credit",
    "WireSender",
]


MESSAGE_OVERHEAD_BYTES = 48
"""What a DATA message adds on the wire, about: tunnel frame, WebSocket header, TLS record."""
WINDOW_SECONDS = 0.05
"""A slow link has about this much with the WebSocketActor, and as much in the kernel."""
MIN_WINDOW_BYTES = 4_096
GROWTH = 1.25
"""How fast a measured rate is doubted while the link takes all it gets."""


ToMessages: TypeAlias = "Callable[[ConnectionKey, bytes | None], list[Message]]"


class Credit(NamedTuple):
    """Bytes of a connection that left for the kernel, or were thrown away with it."""

    key: ConnectionKey
    size_bytes: int


class _OnItsWay(NamedTuple):
    key: ConnectionKey | None
    payload_bytes: int
    wire_bytes: int


class WireSender:
    """The sending half of a tunnel.

    Args:
        limits: the tunnel's limits.
        bandwidth_bytes_per_second: the rate to stay below, or None.
        stats: counts queue and throttle.
        now: monotonic seconds.
    """

    def __init__(
        self,
        limits: Limits,
        bandwidth_bytes_per_second: float | None,
        stats: TunnelStats,
        now: float,
    ) -> None:
        self._limits = limits
        self._bandwidth = bandwidth_bytes_per_second
        self._stats = stats
        self._control: deque[tuple[Message, ConnectionKey | None]] = deque()
        self._queue: FairQueue[ConnectionKey] = FairQueue()
        self._on_its_way: deque[_OnItsWay] = deque()
        self._on_its_way_bytes = 0
        self._meter = RateMeter()
        self._throttled_until = now
        self.messages_left: dict[ConnectionKey, int] = {}
        """By connection, the messages of the last `written`: DATA, ends, control with a key."""
        self._bucket: TokenBucket | None = None
        if bandwidth_bytes_per_second is not None:
            self._bucket = pacing_bucket(bandwidth_bytes_per_second, now)

    @property
    def is_idle(self) -> bool:
        """Whether everything has left for the kernel."""
        return not (self._control or self._queue or self._on_its_way)

    @property
    def low_water_bytes(self) -> int:
        """What TCP_NOTSENT_LOWAT should be at the present rate."""
        return min(self._limits.notsent_low_water_bytes, self._window(WINDOW_SECONDS))

    def control(self, message: Message, key: ConnectionKey | None = None) -> None:
        """Queue a start, reset or reply: it leaves before all DATA that waits.

        With a key, it is counted in `messages_left` when it has left.
        """
        self._control.append((message, key))

    def data(
        self,
        key: ConnectionKey,
        chunk: bytes,
        now: float,
        *,
        join: bool = True,
        whole: bool = False,
    ) -> None:
        """Queue bytes of a connection; `join` False keeps a message's borders, `whole` its size."""
        self._queue.push(key, chunk, now, join=join, whole=whole)
        self._stats.set_queue_bytes(self._queue.queued_bytes)

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
        return left

    def pump(self, now: float, to_messages: ToMessages) -> tuple[list[Message], float]:
        """Take out what may be sent now.

        Args:
            now: monotonic seconds.
            to_messages: makes a piece (its payload, or None for the end of the connection) the
                messages of the wire; none when the connection is over.

        Returns:
            The messages, in order, and the seconds after which to ask again because of the
            bandwidth (0: not because of it).
        """
        messages: list[Message] = []
        while self._control:
            message, key = self._control.popleft()
            self._add(messages, message, key)
            if self._bucket is not None:
                self._bucket.take(MESSAGE_OVERHEAD_BYTES, now)
        rate = self._bandwidth if self._bandwidth is not None else self._meter.bytes_per_second
        payload_bytes = payload_bytes_for_rate(rate, self._limits.data_payload_bytes)
        window_bytes = min(self._limits.wire_window_bytes, self._window(WINDOW_SECONDS))
        while self._queue and self._on_its_way_bytes < window_bytes:
            if self._bucket is not None:
                wait_seconds = self._bucket.wait_seconds(now)
                if wait_seconds > 0:
                    self._count_throttled(now, wait_seconds)
                    return messages, wait_seconds
            piece = self._queue.pop(payload_bytes, now)
            if piece is None:
                break
            self._take_piece(
                messages, piece.flow.key, to_messages(piece.flow.key, piece.payload), now
            )
            self._stats.observe_queue_wait(piece.waited_seconds)
        self._stats.set_queue_bytes(self._queue.queued_bytes)
        return messages, 0.0

    def _count_throttled(self, now: float, wait_seconds: float) -> None:
        """Count the time in which the bandwidth allowed nothing, once however often it is asked."""
        until = now + wait_seconds
        self._stats.count_throttled(until - max(now, min(self._throttled_until, until)))
        self._throttled_until = until

    def _take_piece(
        self, messages: list[Message], key: ConnectionKey, made: list[Message], now: float
    ) -> None:
        for message in made:
            self._add(messages, message, key)
            if self._bucket is not None:
                self._bucket.take(len(message.payload) + MESSAGE_OVERHEAD_BYTES, now)

    def _add(self, messages: list[Message], message: Message, key: ConnectionKey | None) -> None:
        size_bytes = len(message.payload)
        wire_bytes = size_bytes + MESSAGE_OVERHEAD_BYTES
        messages.append(message)
        self._on_its_way.append(_OnItsWay(key, size_bytes, wire_bytes))
        self._on_its_way_bytes += wire_bytes

    def written(self, messages: int, now: float, *, blocked: bool) -> list[Credit]:
        """So many messages left for the kernel; `blocked`: it takes no more for now."""
        left: dict[ConnectionKey, int] = {}
        counts = self.messages_left = {}
        wire_bytes = 0
        for _ in range(min(messages, len(self._on_its_way))):
            item = self._on_its_way.popleft()
            wire_bytes += item.wire_bytes
            if item.key is not None:
                counts[item.key] = counts.get(item.key, 0) + 1
                if item.payload_bytes:
                    left[item.key] = left.get(item.key, 0) + item.payload_bytes
        self._on_its_way_bytes -= wire_bytes
        self._measure(wire_bytes, now, blocked=blocked)
        return [Credit(key, size_bytes) for key, size_bytes in left.items()]

    def _measure(self, wire_bytes: int, now: float, *, blocked: bool) -> None:
        self._meter.took(wire_bytes, now)
        if blocked:
            self._meter.busy(now)
        elif not self._queue:
            self._meter.idle()
        else:
            self._doubt()

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
