"""The queue in front of the wire: fair to connections, by deficit round robin.

Pure. Holds what TunnelActor may not send yet: control messages first, in order, then the
connections in turn, each at most a quantum of bytes a round (Shreedhar and Varghese, "Efficient
fair queueing using deficit round robin", 1995). It bounds nothing itself: the credit of each
connection does (docs/architecture.md section 6).
"""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, TypeVar

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


class Piece(NamedTuple, Generic[K]):
    """What may be sent next: `payload` of the flow, or its end when `payload` is None."""

    flow: Flow[K]
    payload: bytes | None
    waited_seconds: float


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

    def push(
        self, key: K, chunk: bytes, now: float, *, join: bool = True, whole: bool = False
    ) -> None:
        """Queue `chunk` behind what the connection has waiting; empty chunks are nothing to send.

        Args:
            key: the connection.
            chunk: payload bytes.
            now: monotonic seconds.
            join: whether its bytes may share a payload with those before it (a byte stream) or not
                (messages).
            whole: this and all chunks of the connection are messages that must not be split; an
                empty one is sent too.
        """
        if not chunk and not whole:
            return
        flow = self._flow(key, now)
        chunks = flow.chunks
        flow.whole = whole
        if join and not whole and chunks and len(chunks[-1]) + len(chunk) <= JOIN_LIMIT_BYTES:
            chunks[-1] += chunk
        else:
            chunks.append(chunk)
        flow.queued_bytes += len(chunk)
        self.queued_bytes += len(chunk)

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
        limit_bytes = len(flow.chunks[0]) if flow.whole else min(payload_bytes, flow.deficit)
        payload = flow.take(limit_bytes)
        self.queued_bytes -= len(payload)
        flow.deficit -= len(payload) + PIECE_COST_BYTES
        waited = now - flow.waiting_since
        flow.waiting_since = now
        if not flow.is_waiting:
            self._retire(flow)
        elif flow.deficit <= 0:
            self.turns.append(self.turns.pop(0))
        return Piece(flow, payload, waited)

    def _retire(self, flow: Flow[K]) -> None:
        del self.turns[0]
        del self._flows[flow.key]
