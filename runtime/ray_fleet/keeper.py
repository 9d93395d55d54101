"""What the directory of a fleet on Ray remembers, and how it is the only one that does.

Owns the order of what is kept: a change is written before it is answered, and no answer is given
unless this directory is still the one that counts. Ray may start another while this one is frozen:
each takes a number, the highest counts, and a directory that finds a higher one than its own ends.
It waits for what it writes, so it has a thread of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tunnelfleet.actors.kernel.moments import boot_seconds
from tunnelfleet.proto import ConfigError, TunnelError

from .book import Asker, Book, Dismissal
from .plan import FleetPlan, PlanChange, change_between

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.placement.lease import LeaseAnswer, LeaseRequest


TURN = "turn"
"""The record with the number of the directory that counts."""
MAX_TURNS_BACK = 100
"""How many directories that left nothing behind are looked past."""


class Records(Protocol):
    """Records that outlive a process, and that all nodes see alike. All of it may raise OSError."""

    def get(self, key: str) -> bytes | None:
        """The record; None if there is none."""

    def put(self, key: str, value: bytes) -> None:
        """Write it."""

    def put_new(self, key: str, value: bytes) -> bool:
        """Write it unless it is there; return whether it was written."""

    def delete(self, key: str) -> None:
        """Take it away."""


class NotTheDirectoryError(Exception):
    """Another directory has begun since: this one has to end."""


class NoFleetError(TunnelError):
    """Nobody has said yet what the fleet is."""

    def __str__(self) -> str:
        return "there is no fleet on this cluster yet; begin one with: tunnelfleet ray up FILE"


class LeaseReply(NamedTuple):
    """What a group is answered.

    Attributes:
        answer: to its request.
        dismissal: whether its process has to end.
        plan_version: of what it should run.
        changes: grows with all that others may want to look at.
    """

    answer: LeaseAnswer
    dismissal: Dismissal
    plan_version: int
    changes: int


class DirectoryKeeper:
    """The directory, but for being an actor. For one thread.

    Args:
        records: where it is kept.
        clock: in seconds; goes on while the process is frozen.
    """

    def __init__(self, records: Records, clock: Callable[[], float] = boot_seconds) -> None:
        self._records = records
        self._clock = clock
        self._turn = 0
        self._book: Book | None = None
        self._plan: FleetPlan | None = None
        self._kept = 0

    @property
    def changes(self) -> int:
        """Grows with all that others may want to look at."""
        return 0 if self._book is None else self._book.changes

    # -- what it is asked

    def declare(self, content: bytes) -> PlanChange:
        """Have the fleet be as this plan says from now on.

        Args:
            content: of a `FleetPlan`.

        Raises:
            ConfigError: the fleet cannot become that while it runs.
        """
        self._open()
        # `before` is the plan that the fleet runs. The version goes on after a fleet that ended.
        plan, before = FleetPlan.of_bytes(content), self._plan
        if self._book is None or self._book.is_ending:
            before = None
        if before is None or self._book is None:
            self._book = Book(plan.settings["shards"], plan.settings["lease_seconds"])
            change = PlanChange(len(plan.tunnels), 0, 0, (), (0, plan.groups), 0)
        else:
            change = change_between(before, plan)
        last = 0 if self._plan is None else self._plan.version
        is_same = before is not None and replace(plan, version=last) == before
        plan = replace(plan, version=last if is_same else last + 1)
        if not is_same:
            self._records.put(f"plan/{plan.version}", plan.to_bytes())
        # Also when the command that moved a group has not come to its end.
        names = group_names(plan.groups)
        if before is None or self._book.wanted != frozenset(names):
            self._book.declare(names)
        self._plan = plan
        self._book.changes += 1
        self._keep()
        if not is_same and last:
            self._records.delete(f"plan/{last}")
        return replace(change, version=plan.version)

    def dismiss(self, name: str) -> None:
        """Have a group hand its shards over to the others and end: it is to begin elsewhere.

        Raises:
            ConfigError: there is no other that could take them.
        """
        book, _plan = self._opened()
        if not book.wanted - {name}:
            raise ConfigError(f"{name} is the only group: nobody could take over what it has")
        book.dismiss(name)
        self._keep()

    def restore(self) -> None:
        """Want all groups of the plan again."""
        book, plan = self._opened()
        book.declare(group_names(plan.groups))
        self._keep()

    def lease(self, asker: Asker, request: LeaseRequest) -> LeaseReply:
        """Answer a group's request."""
        book, plan = self._opened()
        ruling = book.handle(asker, request, self._clock())
        self._keep()
        return LeaseReply(ruling.answer, ruling.dismissal, plan.version, book.changes)

    def plan(self) -> bytes:
        """What is to run, with all secrets of the fleet."""
        _book, plan = self._opened()
        return plan.to_bytes()

    def status(self) -> dict[str, Any]:
        """How the fleet is: its groups, and the names of its tunnels. No secrets."""
        book, plan = self._opened()
        self._check_turn()
        now = self._clock()
        members = {each.name: each for each in book.table(now).as_members()}
        groups = [
            {
                "group": seat.name,
                "is_wanted": seat.is_wanted,
                "node": seat.node,
                "metrics": seat.address,
                "version": seat.version,
                "epoch": seat.epoch,
                "restarts": max(0, seat.lives - 1),
                "lease_seconds_left": round(max(0.0, seat.lease_until - now), 1),
                "shards": members[seat.name].shards,
            }
            for seat in sorted(book.seats.values(), key=lambda each: (len(each.name), each.name))
        ]
        return {
            "turn": self._turn,
            "plan_version": plan.version,
            "groups_wanted": plan.groups,
            "is_ending": book.is_ending,
            "groups": groups,
            "shards": len(book.owners),
            "owners": [None if owner is None else owner.name for owner in book.owners],
            "drain_seconds": plan.settings["drain_seconds"],
            "has_metrics_token": bool(plan.settings["metrics_token"]),
            "tunnels": {name: entry["mode"] for name, entry in plan.tunnels.items()},
        }

    def end(self) -> Sequence[str]:
        """Let nothing begin any more; return the names of all groups, leaving ones too."""
        book, _plan = self._opened()
        book.end()
        self._keep()
        return sorted(book.seats)

    # -- what is kept

    def _opened(self) -> tuple[Book, FleetPlan]:
        self._open()
        if self._book is None or self._plan is None:
            raise NoFleetError
        return self._book, self._plan

    def _open(self) -> None:
        """Become the directory that counts, and take up what the last one has left."""
        if self._turn:
            return
        last = int(self._records.get(TURN) or b"0")
        turn = last + 1
        while not self._records.put_new(f"claim/{turn}", b"1"):
            turn += 1
        self._records.put(TURN, str(turn).encode())
        # From here on no other directory answers, so what is read now is the last word.
        for number in range(turn - 1, max(0, turn - MAX_TURNS_BACK), -1):
            found = self._records.get(f"book/{number}")
            if found is not None:
                self._take_up(json.loads(found))
                self._write(turn)
                self._records.delete(f"book/{number}")
                break
        self._turn = turn

    def _take_up(self, found: dict[str, Any]) -> None:
        content = self._records.get(f"plan/{found['plan_version']}")
        if content is not None:
            self._plan = FleetPlan.of_bytes(content)
            self._book = Book.of_json(found["book"], self._clock())
            self._kept = self._book.changes

    def _keep(self) -> None:
        """Write what has changed, and see that this is still the directory that counts.

        Raises:
            NotTheDirectoryError: it is not; nothing that it would answer is true any more.
        """
        assert self._book is not None
        if self._kept != self._book.changes:
            self._write(self._turn)
        self._check_turn()

    def _write(self, turn: int) -> None:
        assert self._book is not None
        assert self._plan is not None
        changes = self._book.changes
        found = {"book": self._book.to_json(), "plan_version": self._plan.version}
        self._records.put(f"book/{turn}", json.dumps(found, separators=(",", ":")).encode())
        self._kept = changes

    def _check_turn(self) -> None:
        found = self._records.get(TURN)
        if found is not None and int(found) != self._turn:
            raise NotTheDirectoryError


def group_names(count: int) -> list[str]:
    """The names of so many groups: those of fewer are among those of more."""
    return [f"group-{number}" for number in range(count)]
