"""A few slots, shared fairly when some of those who ask will not give theirs back soon.

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
from collections.abc import Iterator
from enum import Enum
from itertools import islice
from typing import Generic, NamedTuple, TypeVar


class _Trust(Enum):
    """How far a member or a group is trusted, from what is known of it."""

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
    """The queue in which those wait who are served alike."""

    group: str
    trust: _Trust
    """The trust in the member. If it is `UNKNOWN`, the group's counts."""


def reserved_share(slots: int) -> int:
    """Return how many of `slots` may go to those who must leave some to others: about 3/4."""
    return max(1, slots - max(1, slots // 4))


MAX_RECORDS = 20_000
"""Members and groups that are remembered; the ones that were heard of last."""
Key = TypeVar("Key")


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
        self._lines: dict[_Line, OrderedDict[Key, str]] = {}
        self._queues: dict[_Trust, OrderedDict[_Line, int]] = {
            trust: OrderedDict() for trust in _Trust
        }
        """The lines by how those in them are served, in turn, each with the number of its turn."""
        self._turn = 0
        self._line_of: dict[Key, _Line] = {}
        self._holders: dict[Key, _Holder] = {}
        self._held: Counter[tuple[str | None, _Trust]] = Counter()
        """How many slots are taken, by group and trust; the key None stands for all groups."""
        self._records: OrderedDict[tuple[str, str], _Trust] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many keys wait for a slot."""
        return len(self._line_of)

    @property
    def held(self) -> int:
        """How many slots are taken."""
        return len(self._holders)

    def ask(self, key: Key, group: str, member: str) -> None:
        """Wait for a slot under `key`, which neither waits nor holds one."""
        line = _Line(group, self._records.get(("member", member), _Trust.UNKNOWN))
        if line not in self._lines:
            self._lines[line] = OrderedDict()
            self._enqueue(line)
        self._lines[line][key] = member
        self._line_of[key] = line

    def _enqueue(self, line: _Line) -> None:
        """Give a line the last turn."""
        self._turn += 1
        self._queues[self._trust_in(line)][line] = self._turn

    def _remove(self, line: _Line) -> None:
        del self._lines[line]
        del self._queues[self._trust_in(line)][line]

    def take_next(self, now: float) -> Key | None:
        """Give a slot to whoever is next, and return its key; None if nobody may have one."""
        found = self._next_line()
        if found is None:
            return None
        line, trust = found
        keys = self._lines[line]
        key, member = keys.popitem(last=False)
        del self._line_of[key]
        if keys:
            del self._queues[trust][line]
            self._enqueue(line)
        else:
            self._remove(line)
        self._holders[key] = _Holder(line.group, member, trust, now)
        self._held[line.group, trust] += 1
        self._held[None, trust] += 1
        return key

    def _next_line(self) -> tuple[_Line, _Trust] | None:
        """Return the line whose turn it is, of those that may have a slot.

        It does not matter how many wait: what is passed over are groups that have slots.
        """
        if len(self._holders) >= self._slots:
            return None
        firsts = [
            (turn, line, trust)
            for trust, lines in self._queues.items()
            if lines and self._fits(None, self._slots, trust)
            for line, turn in self._first_of(lines, trust)
        ]
        return min(firsts, key=lambda each: each[0])[1:] if firsts else None

    def _first_of(self, lines: dict[_Line, int], trust: _Trust) -> Iterator[tuple[_Line, int]]:
        """Yield the first line whose group may have one more slot, if there is one."""
        fitting = (
            each for each in lines.items() if self._fits(each[0].group, self._per_group, trust)
        )
        return islice(fitting, 1)

    def leave_group(self, group: str) -> list[tuple[Key, str]]:
        """Take all of a group who wait out of the queue; return their keys and members."""
        left: list[tuple[Key, str]] = []
        for trust in _Trust:
            line = _Line(group, trust)
            if line in self._lines:
                left += self._lines[line].items()
                self._remove(line)
        for key, _member in left:
            del self._line_of[key]
        return left

    def hindering(self) -> list[tuple[Key, str, float]]:
        """Those who keep newcomers of other groups waiting, and may be asked to stand back.

        A newcomer is one of whom nothing is known. Whoever is proven hinders nobody: there are
        slots that newcomers cannot have anyway.

        Returns:
            Key, group, and since when it has its slot; the longest first.
        """
        if not self._line_of:
            return []
        newcomers = self._waiting_newcomers()
        return [
            (key, holder.group, holder.since)
            for key, holder in self._holders.items()
            if holder.trust is not _Trust.PROVEN and newcomers - {holder.group}
        ]

    def _waiting_newcomers(self) -> set[str]:
        """Return the groups of newcomers who wait; two of them are enough to know."""
        return {line.group for line in islice(self._queues[_Trust.UNKNOWN], 2)}

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
                self._remove(line)

    def _trust_in(self, line: _Line) -> _Trust:
        if line.trust is not _Trust.UNKNOWN:
            return line.trust
        return self._records.get(("group", line.group), _Trust.UNKNOWN)

    def _fits(self, group: str | None, slots: int, trust: _Trust) -> bool:
        """Return whether one more of `trust` fits into the `slots` of a group, or into all."""
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
            self._set_record(record, trust)
            self._records.move_to_end(record)
        while len(self._records) > MAX_RECORDS:
            self._set_record(next(iter(self._records)), None)

    def _set_record(self, record: tuple[str, str], trust: _Trust | None) -> None:
        """Remember it, or nothing any more. What holds for a group holds for those who wait."""
        kind, name = record
        line = _Line(name, _Trust.UNKNOWN)
        turn = None
        if kind == "group" and line in self._lines and trust != self._records.get(record):
            turn = self._queues[self._trust_in(line)].pop(line)
        if trust is None:
            del self._records[record]
        else:
            self._records[record] = trust
        if turn is not None:
            # It keeps its turn among the others. That is rare: a group is proven once.
            queue = self._queues[self._trust_in(line)]
            queue[line] = turn
            lines = sorted(queue.items(), key=lambda item: item[1])
            queue.clear()
            queue.update(lines)
