"""The records of tunnels: how long closed ones are remembered, and what pages are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clocks import SetClock
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.service.management.records import (
    CLOSED_KEPT_SECONDS,
    MAX_CLOSED,
    RecordTable,
    Status,
    TunnelRecord,
)


def test_closed_ones_are_forgotten_after_their_time() -> None:
    table = RecordTable()
    for name, closed_at in (("old", 0.0), ("young", CLOSED_KEPT_SECONDS)):
        table.add(name, 0.0)
        table.close(name, closed_at)
    table.add("open", 0.0)
    table.forget_old(CLOSED_KEPT_SECONDS + 1)
    assert {record.tunnel_id for record in table} == {"young", "open"}
    assert table.open_count == 1


def test_of_too_many_closed_ones_the_oldest_go() -> None:
    table = RecordTable()
    for number in range(MAX_CLOSED + 10):
        table.add(f"t{number}", 0.0)
        table.close(f"t{number}", 1.0)
    assert len(table) == MAX_CLOSED
    assert table.find("t9") is None
    assert table.find("t10") is not None


@pytest.mark.parametrize("step_seconds", [-56 * 365 * 86_400.0, 56 * 365 * 86_400.0])
def test_a_clock_that_is_set_forgets_none_and_keeps_none_for_ever(step_seconds: float) -> None:
    clock = SetClock()
    table = RecordTable(clock=clock)
    table.add("closed", clock.wall())
    table.close("closed", clock.wall())
    clock.steps(step_seconds)
    table.forget_old(clock.wall())
    assert len(table) == 1
    clock.passes(CLOSED_KEPT_SECONDS + 1)
    table.forget_old(clock.wall())
    assert len(table) == 0


def test_no_change_is_older_than_what_was_before() -> None:
    """Whatever the clock says: whoever reads it takes the difference."""
    table = RecordTable()
    table.add("a", 100.0)
    changed = table.change("a", updated_at=40.0, services=("SSH",))
    assert changed is not None
    assert changed.updated_at == 100.0
    changed = table.change("a", updated_at=130.0)
    table.close("a", 70.0)
    assert table.get("a").updated_at == 130.0


class Kept:
    """Keeps records in memory, for a table after the next start."""

    def __init__(self) -> None:
        self.bodies: dict[str, tuple[int, dict[str, Any]]] = {}
        self.flushes = 0

    def load_records(self) -> list[tuple[str, int, dict[str, Any]]]:
        # In no order that counts.
        return [(name, *kept) for name, kept in sorted(self.bodies.items(), reverse=True)]

    def put_record(self, tunnel_id: str, number: int, body: Mapping[str, Any] | None) -> None:
        if body is None:
            del self.bodies[tunnel_id]
        else:
            # As JSON has it, so that nothing of the table's is shared.
            self.bodies[tunnel_id] = (number, json.loads(json.dumps(body)))

    def flush(self) -> None:
        self.flushes += 1


def test_what_was_kept_is_there_after_a_start_and_ages_on() -> None:
    kept = Kept()
    table = RecordTable(kept)
    for name in ("first", "second", "third"):
        table.add(name, 0.0, services=("SSH",), tags={"site": "north"})
    table.close("second", 5.0)
    table.close("first", 7.0)
    table.note_connection("third", Mode.DESTINATION, 9.0)
    table.flush()
    assert kept.flushes == 1
    again = RecordTable(kept)
    assert list(again) == list(table)
    assert again.open_count == 1
    # Closed ones are forgotten in the order in which they were closed, and no number comes twice.
    again.forget_old(5.0 + CLOSED_KEPT_SECONDS + 1)
    assert [record.tunnel_id for record in again] == ["first", "third"]
    assert "second" not in kept.bodies
    assert again.add("fourth", 10.0).number > max(record.number for record in table)


def test_what_is_not_there_is_not_changed() -> None:
    table = RecordTable()
    table.close("nobody", 0.0)
    table.note_connection("nobody", Mode.SOURCE, 0.0)
    assert table.change("nobody", thing="x") is None
    assert len(table) == 0


@given(
    st.lists(st.sampled_from(["a", "b", None]), max_size=40),
    st.integers(1, 7),
    st.sampled_from(["a", None]),
)
def test_pages_together_are_the_list(
    things: list[str | None], size: int, wanted: str | None
) -> None:
    table = RecordTable()
    for number, thing in enumerate(things):
        table.add(f"t{number}", 0.0, thing=thing)
    expected = [
        f"t{number}"
        for number in range(len(things) - 1, -1, -1)
        if wanted is None or things[number] == wanted
    ]
    found: list[str] = []
    token: str | None = None
    while True:
        page, token = table.page(wanted, size, token)
        assert len(page) <= size
        found += [record.tunnel_id for record in page]
        if token is None:
            break
        assert len(page) == size
    assert found == expected


def test_a_record_is_the_same_after_it_was_kept() -> None:
    record = TunnelRecord(
        "id",
        3,
        1.5,
        2.5,
        Status.CLOSED,
        "description",
        "thing",
        ("SSH",),
        30,
        {"a": "b"},
        {Mode.SOURCE: 2.0},
    )
    assert TunnelRecord.from_json("id", 3, record.to_json()) == record
