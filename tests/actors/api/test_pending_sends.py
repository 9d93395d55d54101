"""Who is told of what, in which order: by table."""

from __future__ import annotations

from tunnelfleet.actors.api.outbox import PendingSends
from tunnelfleet.actors.tunnel.messages import ConnectionKey

A = ConnectionKey("A", 1, 1, 1)
B = ConnectionKey("B", 1, 1, 2)


def queued(*entries: str) -> PendingSends[str]:
    pending: PendingSends[str] = PendingSends()
    for entry in entries:
        pending.queued(A if entry.startswith("a") else B, entry)
    return pending


def test_written_tells_in_order_by_connection() -> None:
    pending = queued("a1", "b1", "a2", "b2")
    for key in (A, B, A, B):
        pending.taken(key)
    assert pending.written(B, 1) == ["b1"]
    assert pending.written(A, 2) == ["a1", "a2"]
    assert pending.written(B, 1) == ["b2"]
    assert len(pending) == 0


def test_what_is_not_on_its_way_is_not_written() -> None:
    pending = queued("a1", "a2")
    pending.taken(A)
    assert pending.written(A, 5) == ["a1"]
    assert pending.written(A, 5) == []
    assert pending.written(B, 5) == []
    assert len(pending) == 1


def test_discarded_leaves_what_is_on_its_way() -> None:
    pending = queued("a1", "a2", "a3", "b1")
    pending.taken(A)
    assert pending.discarded(A) == ["a2", "a3"]
    assert pending.discarded(A) == []
    assert pending.written(A, 1) == ["a1"]
    assert pending.discarded(B) == ["b1"]


def test_refused_is_the_next_of_the_queue() -> None:
    pending = queued("a1", "a2", "a3")
    pending.taken(A)
    assert pending.refused(A) == ["a2"]
    assert pending.refused(B) == []
    pending.taken(A)
    assert pending.refused(A) == []
    assert pending.written(A, 2) == ["a1", "a3"]


def test_lost_is_everything() -> None:
    pending = queued("a1", "b1", "a2")
    pending.taken(A)
    assert pending.lost() == ["a1", "a2", "b1"]
    assert pending.lost() == []


def test_more_is_not_taken_than_there_is() -> None:
    pending = queued("a1")
    pending.taken(A)
    pending.taken(A)
    pending.taken(B)
    assert pending.written(A, 9) == ["a1"]
