"""The fair queue against a model: a string of bytes for each connection, and who was served when.

No byte is lost, doubled or out of place; an end comes behind all bytes; and whoever waits is served
before any other connection has had more than two turns and a message.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.support.examples import stateful_settings
from tunnelfleet.actors.tunnel.pacing import PIECE_COST_BYTES, FairQueue

STREAMS, MESSAGES = ("a", "b", "c"), ("m", "n")
MOST_BYTES = 6_000
keys = st.sampled_from(STREAMS + MESSAGES)


class FairQueueModel(RuleBasedStateMachine):
    """Bytes are pushed, taken and thrown away in any order."""

    @initialize(quantum=st.integers(1, 4_000))
    def begin(self, quantum: int) -> None:
        self.queue: FairQueue[str] = FairQueue()
        self.quantum = quantum
        self.waiting: dict[str, list[bytes]] = {}
        """The chunks of each connection that has something waiting."""
        self.ending: set[str] = set()
        self.others: dict[str, dict[str, int]] = {}
        """For each that waits: what others were given since it was served."""
        self.mark = 0

    def _waits(self, key: str) -> None:
        self.waiting.setdefault(key, [])
        self.others.setdefault(key, {})

    @rule(key=keys, size=st.integers(0, MOST_BYTES), join=st.booleans())
    def push(self, key: str, size: int, join: bool) -> None:
        if key in self.ending:
            return
        self.mark += 1
        chunk = bytes((self.mark * 31 + index) % 251 for index in range(size))
        is_message = key in MESSAGES
        if is_message:
            self.queue.push_messages(key, [chunk], 0.0)
        else:
            self.queue.push(key, chunk, 0.0, join=join)
        if chunk or is_message:
            self._waits(key)
            self.waiting[key].append(chunk)

    @rule(key=keys)
    def end(self, key: str) -> None:
        self.queue.push_end(key, 0.0)
        self._waits(key)
        self.ending.add(key)

    @rule(key=keys)
    def discard(self, key: str) -> None:
        wanted = sum(map(len, self.waiting.pop(key, [])))
        assert self.queue.discard(key) == wanted
        self.ending.discard(key)
        self.others.pop(key, None)

    @precondition(lambda self: self.waiting)
    @rule(count=st.integers(1, 12))
    def pop(self, count: int) -> None:
        for _ in range(count):
            piece = self.queue.pop(self.quantum, 0.0)
            assert (piece is None) is (not self.waiting)
            if piece is None:
                return
            self._check(piece.flow.key, piece.payload)
            for payload in piece.more:
                self._check(piece.flow.key, payload)

    def _check(self, key: str, payload: bytes | None) -> None:
        chunks = self.waiting[key]
        if payload is None:
            assert not chunks, "an end before the bytes"
            assert key in self.ending
        elif key in MESSAGES:
            assert payload == chunks.pop(0)
        else:
            assert 0 < len(payload) <= self.quantum
            rest = b"".join(chunks)
            assert rest.startswith(payload)
            self.waiting[key] = [rest[len(payload) :]] if len(rest) > len(payload) else []
        self._count(key, len(payload or b"") + PIECE_COST_BYTES)
        if payload is None:
            self.ending.discard(key)
        if not self.waiting[key] and key not in self.ending:
            del self.waiting[key], self.others[key]

    def _count(self, key: str, cost: int) -> None:
        self.others[key] = {}
        turn = self.quantum + PIECE_COST_BYTES
        # A message that is larger than its share is paid for with the rounds that follow.
        most = 2 * turn + (MOST_BYTES + PIECE_COST_BYTES if key in MESSAGES else 0)
        for waiter, given in self.others.items():
            if waiter == key:
                continue
            given[key] = given.get(key, 0) + cost
            if waiter in STREAMS:
                assert given[key] <= most, f"{waiter} waits while {key} has had {given[key]}"

    @invariant()
    def it_knows_what_waits(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.queued_bytes == sum(
                len(chunk) for chunks in self.waiting.values() for chunk in chunks
            )
            assert {flow.key for flow in self.queue.turns} == set(self.waiting)


FairQueueModel.TestCase.settings = stateful_settings()
TestFairQueue = FairQueueModel.TestCase
