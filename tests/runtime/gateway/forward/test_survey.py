"""A page of a fleet: gateways that answer for their parts, some that do not, and the state."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gateway_pair import NAMES
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.forward import survey
from tunnelfleet.runtime.gateway.forward.survey import FleetSurvey, look_at_fleet, own_rows
from tunnelfleet.runtime.gateway.listing import Listing, Page
from tunnelfleet.runtime.gateway.placement import Member

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.gateway_pair import GatewayPair

GATEWAYS = ("one", "two", "three")
MIN_SHARE = 2


@dataclass
class FakeFleet:
    """Gateways by name, each with the names of its tunnels, and a state that has all of them.

    It stands for the gateway that looks, which has none itself; for the way to the others; for the
    engine of placement, with a shard for each tunnel; and for the state.
    """

    tunnels: dict[str, list[str]]
    away: frozenset[str] = frozenset()
    old: frozenset[str] = frozenset()
    """Gateways that know no pages."""
    asked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.names = sorted(name for each in self.tunnels.values() for name in each)
        owners = {name: owner for owner, each in self.tunnels.items() for name in each}
        self.owners = tuple(owners[name] for name in self.names)
        settings = SimpleNamespace(gateway=SimpleNamespace(name="me"))
        self.state = SimpleNamespace(
            config=settings,
            running={},
            shard_count=len(self.names),
            wishes=dict,
            shard_of=self.names.index,
        )
        self.store = self.placement = self
        self.runtime = None

    def snapshot(self, _names: object) -> Any:
        return SimpleNamespace(entries=())

    def members(self) -> tuple[Member, ...]:
        return tuple(Member(name, "192.0.2.1:7443", 1, True, 1) for name in ("me", *self.tunnels))

    def owner_names(self) -> tuple[str | None, ...]:
        return self.owners

    def list_shards(
        self, shards: frozenset[int], _count: int, limit: int, after: str
    ) -> list[tuple[str, str]]:
        names = [self.names[shard] for shard in sorted(shards)]
        return [(name, '{"mode": "source"}') for name in names if name > after][:limit]

    def ask_tunnels(
        self, member: Member, filters: dict[str, list[str]]
    ) -> Callable[[float], Listing]:
        if member.name in self.away:
            raise TunnelError("it is away")
        names = sorted(self.tunnels[member.name])
        page = Page.of(filters)
        assert page is not None
        if member.name in self.old:
            rows = [{"name": name, "state": "connected"} for name in names]
            return lambda _seconds: Listing.of_bytes(json.dumps(rows).encode())
        self.asked[member.name] = max(self.asked[member.name], page.limit)
        behind = [name for name in names if name > page.after]
        listing = Listing(
            [{"name": name, "state": "connected"} for name in behind[: page.limit]],
            len(behind) > page.limit,
            None if page.after else Counter(dict.fromkeys(names, "connected").values()),
        )
        return lambda _seconds: Listing.of_bytes(listing.to_bytes())

    def pages(self, limit: int) -> list[FleetSurvey]:
        """All of them, as somebody reads them who goes on to the end."""
        found = []
        after: str | None = ""
        while after is not None:
            page: Any = look_at_fleet(self, self, {}, Page(limit, after))  # type: ignore[arg-type]
            found.append(page)
            assert page.next is None or page.next > after
            after = page.next
        return found


def names_of(pages: Sequence[FleetSurvey]) -> list[str]:
    return [row["name"] for page in pages for row in page.tunnels]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "MIN_SHARE", MIN_SHARE)
    monkeypatch.setattr(survey, "KNOWN_AT_ONCE", 3)
    monkeypatch.setattr(survey, "MAX_KNOWN", 6)


_OWNED = st.dictionaries(
    st.text("abcdefghijk", min_size=1, max_size=3), st.sampled_from(GATEWAYS), max_size=25
)


@given(
    owned=_OWNED,
    away=st.frozensets(st.sampled_from(GATEWAYS)),
    old=st.frozensets(st.sampled_from(GATEWAYS)),
    limit=st.integers(1, 50),
)
def test_its_pages_have_each_tunnel_once_and_in_order(
    owned: dict[str, str], away: frozenset[str], old: frozenset[str], limit: int
) -> None:
    tunnels = {name: [each for each in owned if owned[each] == name] for name in GATEWAYS}
    fleet = FakeFleet(tunnels, away, old)
    pages = fleet.pages(limit)
    assert names_of(pages) == sorted(owned)
    assert all(len(page.tunnels) <= limit for page in pages)
    states = {row["name"]: row["state"] for page in pages for row in page.tunnels}
    assert states == {
        name: "unknown" if owner in away else "connected" for name, owner in owned.items()
    }
    # What a gateway is asked for does not grow with the fleet.
    assert max(fleet.asked.values(), default=0) <= max(MIN_SHARE, limit)


def test_the_first_page_tells_how_many_there_are() -> None:
    fleet = FakeFleet({"one": [f"a{number}" for number in range(30)], "two": ["b"], "three": []})
    first, second, *_rest = fleet.pages(4)
    assert [each["tunnels"] for each in first.gateways] == [
        {},
        {"connected": 30},
        {},
        {"connected": 1},
    ]
    assert [each["tunnels"] for each in second.gateways] == [{}] * 4
    assert fleet.asked["one"] == MIN_SHARE


@pytest.mark.parametrize(
    "content",
    [
        b"[1]",
        b"{}",
        b'"text"',
        b"not json",
        b'{"tunnels": [{}], "has_more": 1, "states": null}',
        b'{"tunnels": [], "has_more": false, "states": {"connected": "many"}}',
        b'{"tunnels": ["t"], "has_more": false, "states": null}',
    ],
)
def test_an_answer_that_is_no_listing(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"list of tunnels|Expecting"):
        Listing.of_bytes(content)


def test_a_gateway_without_rows_has_no_more() -> None:
    found = Listing.of_bytes(b'{"tunnels": [], "has_more": true, "states": null}')
    assert not found.has_more


@pytest.mark.parametrize(
    ("filters", "page"),
    [
        ({}, None),
        ({"limit": ["many"]}, None),
        ({"limit": ["5"]}, Page(5, "")),
        ({"limit": ["5"], "after": ["a"]}, Page(5, "a")),
        ({"limit": ["9" * 20]}, Page()),
    ],
)
def test_what_page_another_gateway_asks_for(
    filters: dict[str, list[str]], page: Page | None
) -> None:
    assert Page.of(filters) == page
    if page is not None:
        assert Page.of(page.to_filters()) == page


def test_pages_of_real_gateways(pair: GatewayPair) -> None:
    names = sorted(pair.add(owner, number) for owner in NAMES for number in range(3))
    pair.open()
    gateway = pair.one.gateway
    first = look_at_fleet(gateway, gateway.others, {}, Page(4))
    assert [each["tunnels"] for each in first.gateways] == [{"connected": 3}, {"connected": 3}]
    found = [first]
    while found[-1].next is not None:
        found.append(look_at_fleet(gateway, gateway.others, {}, Page(4, found[-1].next)))
    assert names_of(found) == names
    assert {row["name"]: row["gateway"] for page in found for row in page.tunnels} == {
        name: owner
        for owner in NAMES
        for name in names
        if gateway.placement.owner(name).name == owner  # type: ignore[union-attr]
    }
    mine = own_rows(gateway, {"state": ["connected"]}, Page(1))
    assert (len(mine.rows), mine.has_more, mine.states) == (1, True, {"connected": 3})
    rest = own_rows(gateway, {"state": ["connected"]}, Page(5, mine.last))
    assert (len(rest.rows), rest.has_more, rest.states) == (2, False, None)
