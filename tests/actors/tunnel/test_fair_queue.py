"""The queue in front of the wire: order within flows, fairness between them, ends behind bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.tunnel.pacing import JOIN_LIMIT_BYTES, PIECE_COST_BYTES, FairQueue
from tunnelfleet.proto import JOINED_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

FLOWS = ("A", "B", "C")

pushes = st.lists(
    st.tuples(st.sampled_from(FLOWS), st.integers(0, 9_000), st.booleans()), max_size=40
)
quanta = st.integers(1, 5_000)


def contents(size: int, mark: int) -> bytes:
    """Bytes that show where they belong: neighbours differ."""
    return bytes((mark + index) % 251 for index in range(size))


def drain(queue: FairQueue[str], quantum: int) -> list[tuple[str, bytes | None]]:
    pieces: list[tuple[str, bytes | None]] = []
    while (piece := queue.pop(quantum, 0.0)) is not None:
        assert piece.payload != b"", "an empty piece: this would never end"
        pieces.append((piece.flow.key, piece.payload))
        pieces += [(piece.flow.key, payload) for payload in piece.more]
    return pieces


def of(key: str, pieces: Iterable[tuple[str, bytes | None]]) -> list[bytes | None]:
    return [payload for flow, payload in pieces if flow == key]


@given(pushes, quanta)
def test_no_byte_is_lost_or_reordered_within_a_flow(
    pushed: list[tuple[str, int, bool]], quantum: int
) -> None:
    queue: FairQueue[str] = FairQueue()
    expected = dict.fromkeys(FLOWS, b"")
    for mark, (key, size, join) in enumerate(pushed):
        chunk = contents(size, mark * 7)
        expected[key] += chunk
        queue.push(key, chunk, 0.0, join=join)
    assert queue.queued_bytes == sum(map(len, expected.values()))
    pieces = drain(queue, quantum)
    for key in FLOWS:
        payloads = of(key, pieces)
        assert None not in payloads
        assert b"".join(p for p in payloads if p) == expected[key]
        assert all(p and len(p) <= quantum for p in payloads)
    assert queue.queued_bytes == 0
    assert len(queue) == 0


@given(pushes, quanta)
def test_an_end_comes_once_and_after_all_bytes_of_its_flow(
    pushed: list[tuple[str, int, bool]], quantum: int
) -> None:
    queue: FairQueue[str] = FairQueue()
    for mark, (key, size, join) in enumerate(pushed):
        queue.push(key, contents(size, mark), 0.0, join=join)
    for key in FLOWS:
        queue.push_end(key, 0.0)
    pieces = drain(queue, quantum)
    for key in FLOWS:
        payloads = of(key, pieces)
        assert payloads.count(None) == 1
        assert payloads[-1] is None


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.integers(16, 2_000),
    st.integers(1, 2_000),
)
def test_a_new_flow_waits_for_at_most_one_quantum_of_each_other_flow(
    backlog_quanta: list[int], quantum: int, taken: int
) -> None:
    queue: FairQueue[str] = FairQueue()
    others = [f"bulk {index}" for index in range(len(backlog_quanta))]
    for key, rounds in zip(others, backlog_quanta, strict=True):
        queue.push(key, contents(rounds * quantum * 2, 0), 0.0)
    for _ in range(min(taken, len(others) * 2)):
        queue.pop(quantum, 0.0)
    queue.push("shell", b"k", 0.0)
    waited = dict.fromkeys(others, 0)
    while (piece := queue.pop(quantum, 0.0)) is not None and piece.flow.key != "shell":
        assert piece.payload is not None
        waited[piece.flow.key] += len(piece.payload)
    assert piece is not None, "the shell never had its turn"
    assert all(waited_bytes <= quantum for waited_bytes in waited.values()), waited


@given(st.integers(1, 3_000), st.lists(st.integers(1, 3_000), min_size=2, max_size=4))
def test_busy_flows_get_equal_shares_whatever_their_chunks(quantum: int, chunks: list[int]) -> None:
    queue: FairQueue[int] = FairQueue()
    quantum_on_wire, rounds = quantum + PIECE_COST_BYTES, 5
    for key, size in enumerate(chunks):
        for _ in range(1 + (rounds + 1) * quantum_on_wire // size):
            queue.push(key, contents(size, key), 0.0, join=False)
    shares = dict.fromkeys(range(len(chunks)), 0)
    while sum(shares.values()) < rounds * quantum_on_wire * len(chunks):
        piece = queue.pop(quantum, 0.0)
        assert piece is not None
        assert piece.payload is not None
        shares[piece.flow.key] += len(piece.payload) + PIECE_COST_BYTES
    assert max(shares.values()) - min(shares.values()) <= quantum_on_wire + PIECE_COST_BYTES


def test_the_shell_is_served_beside_a_copy() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("copy", contents(10_000, 0), 0.0)
    assert drain_one(queue) == ("copy", 1_000)
    queue.push("shell", b"ls\n", 0.0)
    assert [drain_one(queue) for _ in range(3)] == [("copy", 1_000), ("shell", 3), ("copy", 1_000)]


def drain_one(queue: FairQueue[str]) -> tuple[str, int]:
    piece = queue.pop(1_000, 0.0)
    assert piece is not None
    assert piece.payload is not None
    return piece.flow.key, len(piece.payload)


def test_small_chunks_of_a_byte_stream_are_joined() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(100):
        queue.push("A", b"x", 0.0)
    assert drain(queue, 64_512) == [("A", b"x" * 100)]


def test_joining_has_a_limit() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("A", b"x" * JOIN_LIMIT_BYTES, 0.0)
    queue.push("A", b"y", 0.0)
    assert [len(payload or b"") for _, payload in drain(queue, 64_512)] == [JOIN_LIMIT_BYTES, 1]


def test_messages_keep_their_borders() -> None:
    queue: FairQueue[str] = FairQueue()
    for payload in (b"one", b"two", b"three"):
        queue.push("A", payload, 0.0, join=False)
    assert drain(queue, 64_512) == [("A", b"one"), ("A", b"two"), ("A", b"three")]


def test_joining_behind_a_half_taken_chunk_keeps_the_order() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("A", b"abcdef", 0.0)
    first = queue.pop(4, 0.0)
    queue.push("A", b"ghi", 0.0)
    assert first is not None
    assert first.payload == b"abcd"
    assert b"".join(p or b"" for p in of("A", drain(queue, 100))) == b"efghi"


def test_an_empty_chunk_is_nothing_to_send() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("A", b"", 0.0)
    assert "A" not in queue
    assert queue.pop(100, 0.0) is None


def test_an_end_without_bytes_is_sent() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push_end("A", 0.0)
    assert len(queue) == 1
    assert drain(queue, 100) == [("A", None)]
    assert "A" not in queue


def test_discard_forgets_bytes_and_end_of_one_flow_alone() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("A", b"gone", 0.0)
    queue.push_end("A", 0.0)
    queue.push("B", b"stays", 0.0)
    assert queue.discard("A") == 4
    assert queue.queued_bytes == 5
    assert queue.discard("A") == 0
    assert drain(queue, 100) == [("B", b"stays")]


def test_discard_of_a_half_taken_flow_counts_what_is_left() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("A", b"abcdef", 0.0)
    queue.pop(2, 0.0)
    assert queue.discard("A") == 4


def test_waiting_is_measured_from_the_first_byte_and_from_the_last_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("A", b"abcd", 10.0)
    queue.push("A", b"efgh", 11.0, join=False)
    pieces = [queue.pop(4, now) for now in (12.0, 12.5)]
    assert [piece.waited_seconds for piece in pieces if piece] == [2.0, 0.5]


def test_messages_of_one_byte_do_not_hold_the_wire_for_a_whole_quantum_of_payload() -> None:
    """What a message adds on the wire counts, or many small ones would be a large one unseen."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(10_000):
        queue.push("chatty", b"x", 0.0, join=False)
    queue.push("shell", b"k", 0.0)
    turns = 0
    while (piece := queue.pop(4_096, 0.0)) is not None and piece.flow.key != "shell":
        turns += 1
    assert turns <= 4_096 // 16


def test_a_whole_message_is_one_piece_however_small_the_payload() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push_messages("A", [b"x" * 5_000, b"y" * 10], 0.0)
    assert drain(queue, 1_000) == [("A", b"x" * 5_000), ("A", b"y" * 10)]


def test_whole_messages_take_no_more_than_their_share() -> None:
    """After a message of many quanta the others have as many before the next."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(4):
        queue.push_messages("messages", [contents(10_000, 0)], 0.0)
    queue.push("copy", contents(60_000, 0), 0.0)
    sent = {"messages": 0, "copy": 0}
    most_apart = 0
    while queue.queued_bytes > 25_000:
        piece = queue.pop(1_000, 0.0)
        assert piece is not None
        assert piece.payload is not None
        sent[piece.flow.key] += len(piece.payload)
        most_apart = max(most_apart, abs(sent["messages"] - sent["copy"]))
    assert most_apart <= 10_000 + 2 * (1_000 + PIECE_COST_BYTES)


@given(
    st.lists(st.tuples(st.sampled_from(FLOWS), st.integers(1, 9_000)), max_size=30),
    st.integers(1, 3_000),
)
def test_no_whole_message_is_lost_cut_or_reordered(
    pushed: list[tuple[str, int]], quantum: int
) -> None:
    queue: FairQueue[str] = FairQueue()
    expected: dict[str, list[bytes | None]] = {key: [] for key in FLOWS}
    for mark, (key, size) in enumerate(pushed):
        chunk = contents(size, mark)
        expected[key].append(chunk)
        queue.push_messages(key, [chunk], 0.0)
    pieces = drain(queue, quantum)
    assert {key: of(key, pieces) for key in FLOWS} == expected
    assert queue.queued_bytes == 0


def test_an_empty_message_is_one_too() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push_messages("A", [b""], 0.0)
    piece = queue.pop(1_000, 0.0)
    assert piece is not None
    assert piece.payload == b""
    assert queue.pop(1_000, 0.0) is None


def test_small_messages_of_a_connection_leave_together() -> None:
    queue: FairQueue[str] = FairQueue()
    messages = [contents(64, mark) for mark in range(100)]
    queue.push_messages("A", messages, 0.0)
    queue.push_messages("B", [b"other"], 0.0)
    piece = queue.pop(64_512, 0.0)
    assert piece is not None
    assert [piece.payload, *piece.more] == messages[: 1 + len(piece.more)]
    most = JOINED_BYTES // (64 + PIECE_COST_BYTES)
    assert 1 + len(piece.more) == most
    # On a slow link, where pieces are small, fewer.
    piece = queue.pop(1_000, 0.0)
    assert piece is not None
    assert 1 + len(piece.more) == 1_000 // (64 + PIECE_COST_BYTES)
    assert queue.queued_bytes == (100 - most - 1 - len(piece.more)) * 64 + len(b"other")


def test_a_large_message_leaves_alone() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push_messages("A", [b"x" * JOINED_BYTES, b"y", b"z" * JOINED_BYTES], 0.0)
    pieces = [queue.pop(64_512, 0.0) for _ in range(3)]
    assert [piece and (piece.payload or b"")[:1] for piece in pieces] == [b"x", b"y", b"z"]
    assert all(piece is not None and not piece.more for piece in pieces)
