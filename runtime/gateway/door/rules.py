"""Who may reach what through a front door.

Owns what `[[door_rule]]` means: without any rule, whoever reaches the door reaches everything; with
rules, one of them has to match. What a rule does not name is all. Names may have `*`, `?` and
`[...]` in them, as those of files; service ids are compared without case. Pure.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnelfleet.runtime.gateway.config import DoorRule

__all__ = ["may_reach"]


def may_reach(rules: Iterable[DoorRule], user: str, tunnel: str, service: str | None) -> bool:
    """Whether a user may reach a service.

    Args:
        rules: all that there are.
        user: who it is; empty if nobody knows, which no rule with `users` matches.
        tunnel: its name, whether there is such a tunnel or not.
        service: its id; None if any of the tunnel's will do.
    """
    rules = list(rules)
    return not rules or any(_matches(rule, user, tunnel, service) for rule in rules)


def _matches(rule: DoorRule, user: str, tunnel: str, service: str | None) -> bool:
    if rule.users and not (user and _is_one_of(user, rule.users)):
        return False
    if rule.tunnels and not _is_one_of(tunnel, rule.tunnels):
        return False
    if not rule.services or service is None:
        return True
    return _is_one_of(service.casefold(), [each.casefold() for each in rule.services])


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
