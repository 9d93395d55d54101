from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.placement import (
    SHARDS,
    Assigned,
    Revoked,
    StaticPlacement,
    owner_of,
    shard_of,
    shards_of_member,
)

MEMBERS = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True)


def test_one_gateway_has_all() -> None:
    told: list[Assigned | Revoked] = []
    placement = StaticPlacement()
    placement.start(told.append)
    placement.stop()
    assert told == [Assigned(frozenset(range(SHARDS)), epoch=1)]


@settings(deadline=None)
@given(st.integers(1, 12))
def test_members_share_all_shards_and_none_twice(members: int) -> None:
    parts = [shards_of_member(ordinal, members) for ordinal in range(members)]
    assert sorted(shard for part in parts for shard in part) == list(range(SHARDS))


@settings(deadline=None)
@given(st.integers(2, 8))
def test_no_member_has_much_more_than_its_part(members: int) -> None:
    sizes = [len(shards_of_member(ordinal, members)) for ordinal in range(members)]
    assert max(sizes) <= 2 * SHARDS / members
    assert min(sizes) >= SHARDS / members / 2


@settings(deadline=None)
@given(MEMBERS, st.text(min_size=9, max_size=9))
def test_a_new_member_takes_and_nobody_else_does(members: list[str], new: str) -> None:
    for shard in range(SHARDS):
        before, after = owner_of(shard, members), owner_of(shard, [*members, new])
        assert after in (before, new)


@settings(deadline=None)
@given(MEMBERS)
def test_the_order_of_members_does_not_matter(members: list[str]) -> None:
    for shard in range(0, SHARDS, 16):
        assert owner_of(shard, members) == owner_of(shard, members[::-1])


def test_names_are_spread_and_stay_where_they_are() -> None:
    # These numbers are what other gateways and earlier versions found: they must not change.
    assert [shard_of(name) for name in ("press-1", "press-2", "é")] == [47, 183, 47]
    counts = Counter(shard_of(f"press-{number}") for number in range(10_000))
    assert len(counts) == SHARDS
    assert max(counts.values()) < 3 * 10_000 / SHARDS


@pytest.mark.parametrize(("ordinal", "members"), [(1, 1), (-1, 2), (0, 0)])
def test_a_member_that_is_none(ordinal: int, members: int) -> None:
    with pytest.raises(ConfigError):
        StaticPlacement(ordinal, members)
