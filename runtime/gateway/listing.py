"""A page of the tunnels of a shared fleet: how a gateway is asked, and what it answers. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.placement import Member

    from .snapshot import Filters, Row

MAX_PAGE_ROWS = 20_000
"""Tunnels in one answer about a shared fleet, which may have a million."""


SOURCES = ("files", "api", "notify", "on demand")
"""Who may want a tunnel: what `source` of a row says, and what lists can be narrowed to."""


class AsksTunnels(Protocol):
    """The way to other gateways: `Forwarding`."""

    def ask_tunnels(self, member: Member, filters: Filters) -> Callable[[float], Listing]:
        """Begin to ask a gateway; returns what waits so many seconds for the answer."""


class Page(NamedTuple):
    """Which part of a list, which is sorted by name.

    Attributes:
        limit: at most so many.
        after: only names behind this one; empty for the first page.
    """

    limit: int = MAX_PAGE_ROWS
    after: str = ""

    @classmethod
    def of(cls, filters: Mapping[str, Sequence[str]]) -> Page | None:
        """The page that another gateway asks for with its filters; None for all."""
        limit, after = (filters.get(each, [""])[:1] for each in ("limit", "after"))
        if not limit or not limit[0].isdecimal():
            return None
        return cls(min(int(limit[0][:9]), MAX_PAGE_ROWS), "".join(after))

    def to_filters(self) -> Filters:
        """The same, to go with filters."""
        return {"limit": [str(self.limit)], "after": [self.after]}


class Listing(NamedTuple):
    """The tunnels that a gateway has, or a page of them.

    Attributes:
        rows: sorted by name.
        has_more: whether there are others behind the last one.
        states: how many of all are in each state; counted for the first page alone.
    """

    rows: list[Row]
    has_more: bool = False
    states: Mapping[str, int] | None = None

    @property
    def last(self) -> str:
        """The name up to which this is all there is; empty if there is nothing."""
        return str(self.rows[-1].get("name")) if self.rows else ""

    def to_bytes(self) -> bytes:
        """As it goes to a gateway that has asked for a page."""
        found = {"tunnels": self.rows, "has_more": self.has_more, "states": self.states}
        return json.dumps(found).encode()

    @classmethod
    def of_bytes(cls, content: bytes) -> Listing:
        """Read it; an older gateway answers with the rows alone, and with all.

        Raises:
            ValueError: it is none.
        """
        given = json.loads(content)
        if isinstance(given, list):
            given = {"tunnels": given, "has_more": False, "states": None}
        match given:
            case {
                "tunnels": list(rows),
                "has_more": bool(has_more),
                "states": dict() | None as states,
            }:
                if _are_objects(rows) and _are_counts(states or {}):
                    return cls(rows, has_more and bool(rows), states)
        raise ValueError("it is no list of tunnels")


def _are_objects(rows: Iterable[object]) -> bool:
    return all(isinstance(each, dict) for each in rows)


def _are_counts(states: Mapping[str, object]) -> bool:
    return all(isinstance(each, int) for each in states.values())
