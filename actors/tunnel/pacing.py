"""Whose turn it is to send, how fast a tunnel may, and how fast it does.

Owns the queue in front of the wire, the bucket of a bandwidth, the meter of a busy link and the
means over the last pongs. Pure: the time is an argument. It bounds nothing: the credit of each
connection does (docs/architecture.md section 6). What follows is `sender`'s and `in_flight`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from tunnelfleet.actors.token_bucket import TokenBucket
from tunnelfleet.proto import JOINED_BYTES

PACED_FRACTION = 0.95
"""A little below the limit, so that the queue forms here, not in the service.

See docs/architecture.md section 6.
"""
BURST_SECONDS = 0.02
PAYLOAD_SECONDS = 0.02
"""A DATA payload holds the wire for about this long: a keystroke never waits behind more."""
MIN_PAYLOAD_BYTES = 1_024
METER_SECONDS = 0.05
METER_WEIGHT = 0.5
FAST_BYTES_PER_SECOND = 8_000_000.0
"""Above this rate 64 KB leave in less than 10 ms: full payloads and windows cost nobody."""


def pacing_bucket(bytes_per_second: float, now: float) -> TokenBucket:
    """Return the bucket of a tunnel with a bandwidth, whose tokens are bytes on the wire.

    Args:
        bytes_per_second: the rate limit; the bucket fills at `PACED_FRACTION` of it.
        now: monotonic seconds.
    """
    rate = bytes_per_second * PACED_FRACTION
    return TokenBucket(rate, max(rate * BURST_SECONDS, 1.0), now)


class RateMeter:
    """The rate at which a busy link takes bytes; it forgets nothing while the link is idle.

    Attributes:
        bytes_per_second: None until a busy link has been measured for `METER_SECONDS`.
        busy_since: when the present measurement began; None while the link has nothing to send.
    """

    __slots__ = ("_bytes", "busy_since", "bytes_per_second")

    def __init__(self) -> None:
        self.bytes_per_second: float | None = None
        self._bytes = 0
        self.busy_since: float | None = None

    def busy(self, now: float) -> None:
        """The link has bytes waiting at `now`."""
        if self.busy_since is None:
            self.busy_since = now
            self._bytes = 0

    def idle(self) -> None:
        """The link has nothing to send: the count since `busy` says nothing about its speed."""
        self.busy_since = None

    def took(self, size_bytes: int, now: float) -> None:
        """The link took `size_bytes` at `now`."""
        if self.busy_since is None:
            return
        self._bytes += size_bytes
        elapsed = now - self.busy_since
        if elapsed < METER_SECONDS:
            return
        rate = self._bytes / elapsed
        known = self.bytes_per_second
        self.bytes_per_second = rate if known is None else known + METER_WEIGHT * (rate - known)
        self.busy_since = now
        self._bytes = 0


def payload_bytes_for_rate(bytes_per_second: float | None, max_payload_bytes: int) -> int:
    """The largest DATA payload to send over a link of that speed (None: not known, or fast)."""
    if bytes_per_second is None or bytes_per_second >= FAST_BYTES_PER_SECOND:
        return max_payload_bytes
    wanted = int(bytes_per_second * PAYLOAD_SECONDS)
    return max(min(wanted, max_payload_bytes), min(MIN_PAYLOAD_BYTES, max_payload_bytes))


class Pong(NamedTuple):
    """The answer to a ping: when it came, up to where it confirms, how long the ping stood."""

    at: float
    position: int
    delay_seconds: float


DRAIN_AFTER_ROUND_TRIPS: Final = 40.0
LEAST_SECONDS: Final = 1e-6
DRAIN_AFTER_SECONDS: Final = 10.0
"""After so long with a queue, it is emptied once, to see how long the way without it is."""


CROWD_SECONDS: Final = 10.0
"""So long it is remembered that others' bytes stood in front of ours."""
MOST_CROWD: Final = 4.0
"""So many targets of others' queue are taken as a part of the way, and no more."""


class WayMeter:
    """How long a ping and its pong take when nothing of ours stands in front of the ping.

    The way itself is the least of what was seen. Others may have a queue in front of us all the
    same: at a service that is short of processor time, on a line that is shared. A ping that goes
    out while nothing of ours is on its way measures that.
    """

    __slots__ = ("_crowd_at", "_seen_at", "_target", "crowd_seconds", "least_seconds")

    def __init__(self, target_seconds: float) -> None:
        self._target = target_seconds
        self.least_seconds: float | None = None
        self.crowd_seconds = 0.0
        self._crowd_at = 0.0
        self._seen_at = 0.0
        """When the way was seen last without a queue of ours."""

    @property
    def seconds(self) -> float:
        """The way, with the queue of others that was measured last."""
        return (self.least_seconds or 0.0) + self.crowd_seconds

    def delay(self, seconds: float) -> float:
        """How long a ping stood in a queue of ours whose pong came after so many seconds."""
        if self.least_seconds is None or seconds <= self.least_seconds:
            self.least_seconds = seconds
        return max(seconds - self.seconds, 0.0)

    def seen(self, now: float) -> None:
        """There is no queue now: the way is as it is known."""
        self._seen_at = now

    def measured(self, seconds: float, now: float) -> None:
        """Nothing of ours was in front of a ping: so long is the way now."""
        if self.least_seconds is None:
            self.least_seconds = seconds
        crowd = min(max(seconds - self.least_seconds, 0.0), MOST_CROWD * self._target)
        if crowd >= self.crowd_seconds or now - self._crowd_at > CROWD_SECONDS:
            self.crowd_seconds, self._crowd_at = crowd, now
        self._seen_at = now

    def is_stale(self, now: float) -> bool:
        """Whether the way may have become another one, so that it should be measured."""
        seen_at = self._seen_at
        if self.crowd_seconds > self._target / 4:
            seen_at = min(seen_at, self._crowd_at)
        return now - seen_at > max(DRAIN_AFTER_SECONDS, DRAIN_AFTER_ROUND_TRIPS * self.seconds)


SAMPLE_SECONDS: Final = 1.0
"""The rate and the delay are means over about so long: a service may parse in bursts."""


class LastPongs:
    """How much the last pongs confirmed, and how long their pings stood in a queue, in the mean."""

    __slots__ = ("_began_position", "_pongs", "began_at")

    def __init__(self) -> None:
        self._pongs: list[Pong] = []
        self.began_at = 0.0
        self._began_position = 0

    def begin(self, at: float, position: int) -> None:
        """Forget what was: from then on, all behind that position is confirmed."""
        self._pongs.clear()
        self.began_at, self._began_position = at, position

    def add(self, pong: Pong) -> None:
        """Count a pong, and leave out those that came long before it."""
        self._pongs.append(pong)
        while len(self._pongs) > 2 and self._pongs[0].at < pong.at - SAMPLE_SECONDS:
            old = self._pongs.pop(0)
            self.began_at, self._began_position = old.at, old.position

    @property
    def seconds(self) -> float:
        """The time that it covers."""
        return self._pongs[-1].at - self.began_at if self._pongs else 0.0

    @property
    def bytes_per_second(self) -> float:
        """What was confirmed in a second."""
        confirmed = self._pongs[-1].position - self._began_position
        return confirmed / max(self.seconds, LEAST_SECONDS)

    def last_bytes_per_second(self, seconds: float) -> float:
        """The same of the last so many seconds, or a little more."""
        last, first = self._pongs[-1], (self.began_at, self._began_position)
        for pong in self._pongs:
            if pong.at > last.at - seconds:
                break
            first = pong.at, pong.position
        return (last.position - first[1]) / max(last.at - first[0], LEAST_SECONDS)

    @property
    def delay_seconds(self) -> float:
        """The mean delay."""
        return sum(pong.delay_seconds for pong in self._pongs) / max(len(self._pongs), 1)

    @property
    def spread_seconds(self) -> float:
        """How far delays are from their mean, in the mean."""
        mean = self.delay_seconds
        return sum(abs(pong.delay_seconds - mean) for pong in self._pongs) / max(
            len(self._pongs), 1
        )

    def standing_seconds(self, way_seconds: float, least_pongs: int = 2) -> float:
        """The least delay in the time of a round trip, in which a burst comes and goes.

        Of so many pings at least: one may be chance.
        """
        least, number = float("inf"), 0
        for pong in reversed(self._pongs):
            if number >= least_pongs and pong.at < self._pongs[-1].at - way_seconds:
                break
            least = min(least, pong.delay_seconds)
            number += 1
        return least if number >= least_pongs else 0.0


K = TypeVar("K")


class Flow(Generic[K]):
    """What one connection has waiting.

    Attributes:
        key: the connection.
        queued_bytes: payload bytes waiting.
        ending: an end was queued behind the bytes.
    """

    __slots__ = (
        "chunks",
        "deficit",
        "ending",
        "head_offset",
        "key",
        "queued_bytes",
        "waiting_since",
        "whole",
    )

    def __init__(self, key: K) -> None:
        self.key = key
        self.chunks: deque[bytes] = deque()
        self.head_offset = 0
        self.queued_bytes = 0
        self.deficit = 0
        self.ending = False
        self.waiting_since = 0.0
        self.whole = False
        """Its chunks are messages: each leaves in one piece, whatever its size."""

    @property
    def is_waiting(self) -> bool:
        """Whether there is anything to send for it."""
        return bool(self.chunks) or self.ending

    def take(self, limit_bytes: int) -> bytes:
        """Remove up to `limit_bytes` from the front; never joins two chunks."""
        head = self.chunks[0]
        start = self.head_offset
        rest = len(head) - start
        if rest <= limit_bytes:
            self.chunks.popleft()
            self.head_offset = 0
            self.queued_bytes -= rest
            return head[start:] if start else head
        self.head_offset = start + limit_bytes
        self.queued_bytes -= limit_bytes
        return head[start : start + limit_bytes]

    def take_small(self, limit_bytes: int) -> list[bytes]:
        """Remove the messages at the front that have room in so many bytes with what they cost."""
        chunks, taken = self.chunks, []
        while chunks and (cost := len(chunks[0]) + PIECE_COST_BYTES) <= limit_bytes:
            limit_bytes -= cost
            taken.append(chunks.popleft())
        self.queued_bytes -= sum(map(len, taken))
        return taken


class Piece(NamedTuple, Generic[K]):
    """What may be sent next.

    Attributes:
        flow: whose it is.
        payload: bytes, or None for its end.
        waited_seconds: how long it was in the queue.
        more: payloads of the messages behind it that leave together with it, as they are small.
    """

    flow: Flow[K]
    payload: bytes | None
    waited_seconds: float
    more: Sequence[bytes] = ()


PIECE_COST_BYTES = 48
"""What a piece costs on the wire beside its payload: small messages take a share, no more."""
JOIN_LIMIT_BYTES = 4_096
"""Small chunks of a byte stream are joined up to this size: each chunk costs memory of its own."""


class FairQueue(Generic[K]):
    """Deficit round robin over flows.

    Attributes:
        turns: the flows that have something waiting, in the order of their turns. A list: empty it
            takes a tenth of a deque, and there is one in each idle tunnel.
        queued_bytes: the payload bytes that wait.
    """

    __slots__ = ("_flows", "queued_bytes", "turns")

    def __init__(self) -> None:
        self._flows: dict[K, Flow[K]] = {}
        self.turns: list[Flow[K]] = []
        self.queued_bytes = 0

    def __len__(self) -> int:
        """The number of flows that have something waiting."""
        return len(self.turns)

    def __contains__(self, key: K) -> bool:
        return key in self._flows

    def push(self, key: K, chunk: bytes, now: float, *, join: bool = True) -> None:
        """Queue `chunk` behind what the connection has waiting; empty chunks are nothing to send.

        Args:
            key: the connection.
            chunk: payload bytes.
            now: monotonic seconds.
            join: whether its bytes may share a payload with those before it.
        """
        if not chunk:
            return
        flow = self._flow(key, now)
        chunks = flow.chunks
        if join and chunks and len(chunks[-1]) + len(chunk) <= JOIN_LIMIT_BYTES:
            chunks[-1] += chunk
        else:
            chunks.append(chunk)
        flow.queued_bytes += len(chunk)
        self.queued_bytes += len(chunk)

    def push_messages(self, key: K, messages: list[bytes], now: float) -> None:
        """Queue messages behind what the connection has waiting; each leaves whole, even empty."""
        flow = self._flow(key, now)
        flow.whole = True
        flow.chunks += messages
        size_bytes = sum(map(len, messages))
        flow.queued_bytes += size_bytes
        self.queued_bytes += size_bytes

    def push_end(self, key: K, now: float) -> None:
        """Queue the end of the connection behind its bytes."""
        self._flow(key, now).ending = True

    def _flow(self, key: K, now: float) -> Flow[K]:
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = Flow(key)
            flow.waiting_since = now
            self.turns.append(flow)
        return flow

    def discard(self, key: K) -> int:
        """Forget all that the connection has waiting; returns the payload bytes thrown away."""
        flow = self._flows.pop(key, None)
        if flow is None:
            return 0
        self.turns.remove(flow)
        self.queued_bytes -= flow.queued_bytes
        return flow.queued_bytes

    def pop(self, payload_bytes: int, now: float) -> Piece[K] | None:
        """The next piece to send, of at most `payload_bytes`, or None when nothing waits."""
        if not self.turns:
            return None
        flow = self.turns[0]
        while flow.chunks and flow.deficit <= 0:
            flow.deficit += payload_bytes + PIECE_COST_BYTES
            if flow.deficit <= 0:
                # A whole message was larger than its share: others first.
                self.turns.append(self.turns.pop(0))
                flow = self.turns[0]
        if not flow.chunks:
            self._retire(flow)
            return Piece(flow, None, 0.0)
        payload, more = self._take(flow, payload_bytes)
        waited = now - flow.waiting_since
        flow.waiting_since = now
        if not flow.is_waiting:
            self._retire(flow)
        elif flow.deficit <= 0:
            self.turns.append(self.turns.pop(0))
        return Piece(flow, payload, waited, more)

    def _take(self, flow: Flow[K], payload_bytes: int) -> tuple[bytes, Sequence[bytes]]:
        """Take the next piece of a flow, and the messages that leave with it."""
        before_bytes = flow.queued_bytes
        more: Sequence[bytes] = ()
        if flow.whole:
            payload = flow.take(len(flow.chunks[0]))
            if flow.chunks:
                room_bytes = min(payload_bytes, flow.deficit, JOINED_BYTES)
                more = flow.take_small(room_bytes - len(payload) - PIECE_COST_BYTES)
        else:
            payload = flow.take(min(payload_bytes, flow.deficit))
        taken_bytes = before_bytes - flow.queued_bytes
        self.queued_bytes -= taken_bytes
        flow.deficit -= taken_bytes + (1 + len(more)) * PIECE_COST_BYTES
        return payload, more

    def _retire(self, flow: Flow[K]) -> None:
        del self.turns[0]
        del self._flows[flow.key]
