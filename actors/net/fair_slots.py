"""Who may have one of a few slots next, when some of those who ask will not give theirs back soon.

Owns the rule by which connect permits and name look-ups are shared, so that one tunnel's trouble
is no other's. Pure: the time is an argument, and nothing is called.

Whoever asks has a *group* (an endpoint, a host name) and a *member* (a tunnel, a host name):

- Groups take turns; within a group it is first come, first served.
- One group never has all slots: `per_group` at most.
- Members are remembered by how they last used a slot. One that held a slot for longer than
  `slow_seconds` without success is *slow*; one that succeeded is *proven*; of others nothing is
  known, and what holds for their group holds for them. Slow ones have at most half of the slots,
  and proven ones always find one that only they may take, in all and within their group.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

__all__ = [
    "FairSlots",
    "reserved_share",
]


MAX_RECORDS = 20_000
"""Members and groups that are remembered; the ones that were heard of last."""

Key = TypeVar("Key")


class _Trust(Enum):
    """What is known of a member or a group."""

    PROVEN = "proven"
    UNKNOWN = "unknown"
    SLOW = "slow"


class _Holder(NamedTuple):
    """One who has a slot."""

    group: str
    member: str
    trust: _Trust
    since: float


class _Line(NamedTuple):
    """Where those wait who are served alike."""

    group: str
    trust: _Trust
    """Of the member; with `UNKNOWN` that of the group counts."""


def reserved_share(slots: int) -> int:
    """How many of `slots` those may have who must leave some to others: about three quarters."""
    return max(1, slots - max(1, slots // 4))


class FairSlots(Generic[Key]):
    """A number of slots, those who have one, and those who wait for one.

    Args:
        slots: how many there are.
        per_group: how many of them one group may have.
        slow_seconds: whoever holds a slot for longer without success is slow from then on.
    """

    def __init__(self, slots: int, per_group: int, slow_seconds: float) -> None:
        self._slots = slots
        self._per_group = min(slots, per_group)
        self._slow_seconds = slow_seconds
        self._lines: OrderedDict[_Line, OrderedDict[Key, str]] = OrderedDict()
        self._line_of: dict[Key, _Line] = {}
        self._holders: dict[Key, _Holder] = {}
        self._held: Counter[tuple[str | None, _Trust]] = Counter()
        """By group and trust; with None for the group, over all groups."""
        self._records: OrderedDict[tuple[str, str], _Trust] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line_of)

    @property
    def held(self) -> int:
        """How many slots are taken."""
        return len(self._holders)

    def ask(self, key: Key, group: str, member: str) -> None:
        """Wait for a slot under `key`, which neither waits nor holds one."""
        line = _Line(group, self._records.get(("member", member), _Trust.UNKNOWN))
        self._lines.setdefault(line, OrderedDict())[key] = member
        self._line_of[key] = line

    def take_next(self, now: float) -> Key | None:
        """Give a slot to whoever is next, and return its key; None if nobody may have one."""
        if len(self._holders) >= self._slots:
            return None
        for line, keys in self._lines.items():
            trust = self._trust_in(line)
            if not self._may_have_one(line.group, trust):
                continue
            key, member = keys.popitem(last=False)
            del self._line_of[key]
            self._lines.move_to_end(line)
            if not keys:
                del self._lines[line]
            self._holders[key] = _Holder(line.group, member, trust, now)
            self._held[line.group, trust] += 1
            self._held[None, trust] += 1
            return key
        return None

    def give_back(self, key: Key, now: float, *, succeeded: bool) -> None:
        """Take back the slot of `key`, or its place in the queue. Harmless if it has neither."""
        holder = self._holders.pop(key, None)
        if holder is None:
            self._leave_queue(key)
            return
        self._release(holder.group, holder.trust)
        if succeeded:
            self._remember(holder, _Trust.PROVEN)
        elif now - holder.since > self._slow_seconds:
            self._remember(holder, _Trust.SLOW)

    def _leave_queue(self, key: Key) -> None:
        line = self._line_of.pop(key, None)
        if line is not None:
            del self._lines[line][key]
            if not self._lines[line]:
                del self._lines[line]

    def _trust_in(self, line: _Line) -> _Trust:
        if line.trust is not _Trust.UNKNOWN:
            return line.trust
        return self._records.get(("group", line.group), _Trust.UNKNOWN)

    def _may_have_one(self, group: str, trust: _Trust) -> bool:
        return self._fits(None, self._slots, trust) and self._fits(group, self._per_group, trust)

    def _fits(self, group: str | None, slots: int, trust: _Trust) -> bool:
        """Whether one more of `trust` fits into the `slots` of a group, or into all."""
        slow = self._held[group, _Trust.SLOW]
        unproven = slow + self._held[group, _Trust.UNKNOWN]
        if unproven + self._held[group, _Trust.PROVEN] >= slots:
            return False
        if trust is _Trust.PROVEN:
            return True
        if unproven >= reserved_share(slots):
            return False
        return trust is _Trust.UNKNOWN or slow < max(1, slots // 2)

    def _release(self, group: str, trust: _Trust) -> None:
        for each in (group, None):
            self._held[each, trust] -= 1
            if not self._held[each, trust]:
                del self._held[each, trust]

    def _remember(self, holder: _Holder, trust: _Trust) -> None:
        for record in (("member", holder.member), ("group", holder.group)):
            self._records[record] = trust
            self._records.move_to_end(record)
        while len(self._records) > MAX_RECORDS:
            self._records.popitem(last=False)
