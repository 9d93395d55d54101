"""Who is told of what, in which order: by table."""

from __future__ import annotations

from tunnelfleet.actors.api.outbox import SendLedger
from tunnelfleet.actors.tunnel.messages import ConnectionKey

A = ConnectionKey("A", 1, 1, 1)
B = ConnectionKey("B", 1, 1, 2)


def queued(*entries: str) -> SendLedger[str]:
    ledger: SendLedger[str] = SendLedger()
    for entry in entries:
        ledger.queued(A if entry.startswith("a") else B, entry)
    return ledger


def test_written_tells_in_order_by_connection() -> None:
    ledger = queued("a1", "b1", "a2", "b2")
    for key in (A, B, A, B):
        ledger.taken(key)
    assert ledger.written(B, 1) == ["b1"]
    assert ledger.written(A, 2) == ["a1", "a2"]
    assert ledger.written(B, 1) == ["b2"]
    assert len(ledger) == 0


def test_what_is_not_on_its_way_is_not_written() -> None:
    ledger = queued("a1", "a2")
    ledger.taken(A)
    assert ledger.written(A, 5) == ["a1"]
    assert ledger.written(A, 5) == []
    assert ledger.written(B, 5) == []
    assert len(ledger) == 1


def test_discarded_leaves_what_is_on_its_way() -> None:
    ledger = queued("a1", "a2", "a3", "b1")
    ledger.taken(A)
    assert ledger.discarded(A) == ["a2", "a3"]
    assert ledger.discarded(A) == []
    assert ledger.written(A, 1) == ["a1"]
    assert ledger.discarded(B) == ["b1"]


def test_refused_is_the_next_of_the_queue() -> None:
    ledger = queued("a1", "a2", "a3")
    ledger.taken(A)
    assert ledger.refused(A) == ["a2"]
    assert ledger.refused(B) == []
    ledger.taken(A)
    assert ledger.refused(A) == []
    assert ledger.written(A, 2) == ["a1", "a3"]


def test_lost_is_everything() -> None:
    ledger = queued("a1", "b1", "a2")
    ledger.taken(A)
    assert ledger.lost() == ["a1", "a2", "b1"]
    assert ledger.lost() == []


def test_more_is_not_taken_than_there_is() -> None:
    ledger = queued("a1")
    ledger.taken(A)
    ledger.taken(A)
    ledger.taken(B)
    assert ledger.written(A, 9) == ["a1"]
