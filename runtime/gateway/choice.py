"""Which tunnels somebody asks for: by name, state, mode, label, source, and how many. Pure.

Owns what the filters of the admin API mean, and how other gateways of a shared fleet, which get the
same filters, are asked for a page, and what they answer.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.placement import Member

__all__ = [
    "MAX_PAGE_ROWS",
    "AsksTunnels",
    "Choice",
    "Filters",
    "Listing",
    "Page",
    "Row",
    "name_pattern",
]

MAX_PAGE_ROWS = 20_000
"""Tunnels in one answer about a shared fleet, which may have a million."""

Row = dict[str, Any]
"""A tunnel, for programs."""
Filters = dict[str, list[str]]
"""Values by the name of the filter."""


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


def name_pattern(pattern: str) -> Callable[[str], object]:
    """Return whether a name matches; `*` stands for anything, and nothing else is special."""
    # fnmatch's expressions do not run away on many stars.
    plain = pattern.replace("[", "[[]").replace("?", "[?]")
    return re.compile(fnmatch.translate(plain)).match


class Choice:
    """Some tunnels of a fleet.

    Args:
        given: values by the name of the filter; none of them excludes nothing. One of several
            values has to match, of labels (`NAME=VALUE`) all.
    """

    def __init__(self, given: Mapping[str, Sequence[str]]) -> None:
        self._patterns = [name_pattern(each) for each in given.get("name", [])]
        self._modes, self._sources = given.get("mode"), given.get("source")
        self._states = given.get("state")
        self._labels = [each.partition("=") for each in given.get("label", [])]

    def has(self, name: str, mode: str, source: str, labels: Mapping[str, Any]) -> bool:
        """Whether a tunnel is one of them, but for its state."""
        return (
            (not self._patterns or any(each(name) for each in self._patterns))
            and (self._modes is None or mode in self._modes)
            and (self._sources is None or source in self._sources)
            and all(labels.get(label) == value for label, _equals, value in self._labels)
        )

    def has_state(self, state: str) -> bool:
        """Whether a tunnel in this state is one of them."""
        return self._states is None or state in self._states
