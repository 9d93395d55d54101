from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tunnelfleet.runtime.gateway.devices.connection import MAX_FILTERS, ThingDeal, batches

THINGS = st.lists(st.integers(0, 60).map("press-{}".format), max_size=40, unique=True)


def test_they_are_dealt_in_order() -> None:
    deal = ThingDeal(50)
    deal.change(f"press-{n}" for n in range(120))
    assert [len(each) for each in deal.connections.values()] == [50, 50, 20]
    assert deal.connections[1][0] == "press-0"
    assert deal.connections[3][-1] == "press-119"


@settings(max_examples=80)
@given(st.integers(1, 7), st.lists(THINGS, max_size=8))
def test_what_stays_keeps_its_connection_and_none_has_too_many(
    limit: int, steps: list[list[str]]
) -> None:
    deal = ThingDeal(limit)
    before: dict[str, int] = {}
    for things in steps:
        deal.change(things)
        dealt = [(thing, number) for number, some in deal.connections.items() for thing in some]
        now = dict(dealt)
        assert len(dealt) == len(now) == len(things)
        assert set(now) == set(things)
        assert all(0 < len(some) <= limit for some in deal.connections.values())
        assert all(now[thing] == before[thing] for thing in now.keys() & before.keys())
        before = now


@settings(max_examples=80)
@given(st.lists(st.text()))
def test_a_lot_is_what_aws_takes(topics: list[str]) -> None:
    lots = list(batches(topics))
    assert all(0 < len(lot) <= MAX_FILTERS == 8 for lot in lots)
    assert [topic for lot in lots for topic in lot] == topics
