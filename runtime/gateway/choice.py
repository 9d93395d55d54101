"""Which tunnels somebody asks for: by name, state, mode, label, source. Pure.

Owns what the filters of the admin API mean, and how other gateways of a shared fleet, which get the
same filters, are asked.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.placement import Member

__all__ = ["AsksTunnels", "Choice", "Filters", "Row", "name_pattern"]

Row = dict[str, Any]
"""A tunnel, for programs."""
Filters = dict[str, list[str]]
"""Values by the name of the filter."""


class AsksTunnels(Protocol):
    """The way to other gateways: `Forwarding`."""

    def ask_tunnels(self, member: Member, filters: Filters) -> Callable[[float], list[Row]]:
        """Begin to ask a gateway; returns what waits so many seconds for the answer."""


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
