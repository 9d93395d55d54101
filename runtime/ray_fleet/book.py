"""Who has which shards of a fleet on Ray, and until when. Pure: requests and the time in.

A fleet has so many groups, by name. A shard stays with its group while Ray brings the group up on
another node: a new life of a group gets its shards when the lease of the life before has run out,
and not earlier, for that life may be frozen and not dead. Groups that are not wanted any more hand
over what they have. Owns the answers to the requests of `placement.lease`, and the form in which
all of it is kept. The time is of the directory's machine; a directory that is started again gives
each life a whole lease, which is longer than any life may count on.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.runtime.gateway.placement.lease import LeaseAnswer, RequestKind
from tunnelfleet.runtime.gateway.placement.members import FleetTable, GatewayRow, Owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tunnelfleet.runtime.gateway.placement.lease import LeaseRequest


MAX_PAST_RUNS = 16
"""Processes of a group that are remembered, so that none of them comes back."""
NEVER = -math.inf


class Asker(NamedTuple):
    """Who asks.

    Attributes:
        name: of the group.
        run: of its process, unlike that of any other.
        node: where it is, as Ray calls it.
        address: where its metrics are, as `HOST:PORT`; None for nowhere.
        version: of its program.
    """

    name: str
    run: str
    node: str = ""
    address: str | None = None
    version: str = ""


class Dismissal(Enum):
    """Whether a process has to end."""

    NONE = "none"
    REPLACED = "replaced"
    """Another process has its place: Ray has brought the group up again."""
    UNWANTED = "unwanted"
    """The fleet has this group no more, and nothing of it may begin again."""


class Ruling(NamedTuple):
    """What an asker is told.

    Attributes:
        answer: to its request.
        dismissal: whether its process has to end, and why.
    """

    answer: LeaseAnswer
    dismissal: Dismissal = Dismissal.NONE


@dataclass(slots=True)
class Seat:
    """A group.

    Attributes:
        name: of the group.
        is_wanted: whether the fleet should have it.
        counts: whether it has a share. A group that is new has none before it is there.
        run: of the process that has, or had, the lease.
        epoch: of that life; 0 for none.
        lease_until: when it runs out.
        heir: of a process that waits until it has; the other does not get it again.
        past_runs: of processes that must not come back.
        lives: how many there were.
    """

    name: str
    is_wanted: bool = True
    counts: bool = False
    run: str = ""
    epoch: int = 0
    lease_until: float = NEVER
    heir: str = ""
    past_runs: list[str] = field(default_factory=list)
    node: str = ""
    address: str | None = None
    version: str = ""
    lives: int = 0
    came_at: float = 0.0
    """When its present life began."""
    serial: int = 0
    """Of its last request: one that was held up on its way comes too late."""

    def take(self, asker: Asker) -> None:
        """Note where it is."""
        self.node, self.address, self.version = asker.node, asker.address, asker.version

    def retire(self, run: str) -> None:
        """This process must not come back."""
        if run and run not in self.past_runs:
            self.past_runs = [*self.past_runs, run][-MAX_PAST_RUNS:]


class Book:
    """The groups of a fleet and their shards.

    Args:
        shards: into how many the fleet is cut.
        lease_seconds: how long a lease holds that is not renewed.
    """

    def __init__(self, shards: int, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self.seats: dict[str, Seat] = {}
        self.owners: list[Owner | None] = [None] * shards
        self.version = 0
        """Grows when a group gets or loses its share."""
        self.epoch = 0
        self.is_ending = False
        """Whether all groups are to end, and none may begin."""
        self.changes = 0
        """Grows with all that has to be kept."""

    # -- what the fleet should be

    def declare(self, names: Iterable[str]) -> None:
        """These are the groups of the fleet from now on."""
        wanted = set(names)
        is_new = not any(self.owners)
        for name in sorted(wanted - set(self.seats)):
            self.seats[name] = Seat(name)
        for seat in self.seats.values():
            seat.is_wanted = seat.name in wanted
            # At the very start all have their shares, though one is there before the others.
            seat.counts = seat.is_wanted and (seat.counts or is_new)
        self.version += 1
        self.changes += 1

    def dismiss(self, name: str) -> None:
        """Have a group hand over what it has and end, until it is declared again."""
        seat = self.seats.get(name)
        if seat is not None and seat.is_wanted:
            seat.is_wanted = seat.counts = False
            self.version += 1
            self.changes += 1

    @property
    def wanted(self) -> frozenset[str]:
        """The names of the groups that it should have."""
        return frozenset(seat.name for seat in self.seats.values() if seat.is_wanted)

    def end(self) -> None:
        """Nothing may begin any more."""
        self.is_ending = True
        self.changes += 1

    # -- requests

    def handle(self, asker: Asker, request: LeaseRequest, now: float) -> Ruling:
        """Carry out what a group asks for."""
        self._sweep(now)
        self._admit(now)
        seat = self.seats.get(asker.name)
        if seat is None or self.is_ending:
            return Ruling(LeaseAnswer(self.table(now)), Dismissal.UNWANTED)
        if asker.run in seat.past_runs:
            return Ruling(LeaseAnswer(self.table(now)), Dismissal.REPLACED)
        match request.kind:
            case RequestKind.JOIN:
                return Ruling(self._join(seat, asker, request, now))
            case RequestKind.BEAT:
                return self._beat(seat, asker, request, now)
            case RequestKind.CLAIM:
                return Ruling(LeaseAnswer(claimed=self._claim(seat, asker, request, now)))
            case RequestKind.GOODBYE:
                self._leave(seat, asker)
                return Ruling(LeaseAnswer())

    def _join(self, seat: Seat, asker: Asker, request: LeaseRequest, now: float) -> LeaseAnswer:
        if seat.run not in ("", asker.run):
            # Ray has started this process, so the other is dead to Ray, or about to be.
            if seat.heir != asker.run:
                seat.retire(seat.heir)
                seat.heir = asker.run
                self.changes += 1
            if seat.lease_until > now:
                return LeaseAnswer(self.table(now), taken_seconds=seat.lease_until - now)
            seat.retire(seat.run)
        elif seat.run and self._is_late(seat, request):
            # Another life now, and this process would go on in the one that it has.
            return LeaseAnswer(self.table(now))
        self._free(seat)
        self.epoch += 1
        seat.run, seat.epoch, seat.heir = asker.run, self.epoch, ""
        seat.lease_until = now + self.lease_seconds
        seat.lives += 1
        seat.serial = request.serial
        seat.take(asker)
        seat.came_at = now
        self.changes += 1
        self._admit(now)
        return LeaseAnswer(self.table(now), epoch=seat.epoch)

    def _beat(self, seat: Seat, asker: Asker, request: LeaseRequest, now: float) -> Ruling:
        if not self._has(seat, asker, request) or seat.heir:
            return Ruling(LeaseAnswer(self.table(now)))
        owner = Owner(seat.name, seat.epoch)
        released = [each for each in request.shards if self.owners[each] == owner]
        for shard in released:
            self.owners[shard] = None
        if released or asker.address != seat.address:
            self.changes += 1
        seat.lease_until = now + self.lease_seconds
        seat.take(asker)
        is_over = not seat.is_wanted and owner not in self.owners
        if is_over:
            del self.seats[seat.name]
            self.changes += 1
        dismissal = Dismissal.UNWANTED if is_over else Dismissal.NONE
        return Ruling(LeaseAnswer(self.table(now), epoch=seat.epoch), dismissal)

    def _claim(self, seat: Seat, asker: Asker, request: LeaseRequest, now: float) -> frozenset[int]:
        is_current = request.version == self.version and seat.lease_until > now
        if not (is_current and self._has(seat, asker, request)) or seat.heir:
            return frozenset()
        free = self.table(now).is_free
        claimed = frozenset(shard for shard in request.shards if free(shard))
        for shard in claimed:
            self.owners[shard] = Owner(seat.name, seat.epoch)
        self.changes += bool(claimed)
        return claimed

    def _leave(self, seat: Seat, asker: Asker) -> None:
        if seat.run == asker.run:
            self._free(seat)
            seat.run, seat.epoch, seat.lease_until = "", 0, NEVER
            seat.retire(asker.run)
            self.changes += 1

    @staticmethod
    def _has(seat: Seat, asker: Asker, request: LeaseRequest) -> bool:
        """Whether the asker has the present life of a group, and this is news from it."""
        is_present = bool(seat.epoch) and (seat.epoch, seat.run) == (request.epoch, asker.run)
        if not is_present or Book._is_late(seat, request):
            return False
        seat.serial = max(seat.serial, request.serial)
        return True

    @staticmethod
    def _is_late(seat: Seat, request: LeaseRequest) -> bool:
        """Whether a later request of the same process was answered before."""
        return 0 < request.serial <= seat.serial

    def _free(self, seat: Seat) -> None:
        """Nothing is of this group any more, in whatever life of it."""
        self.owners = [
            None if owner is not None and owner.name == seat.name else owner
            for owner in self.owners
        ]

    def _admit(self, now: float) -> None:
        """Give new groups their shares, all at the same time, so that no tunnel moves twice.

        One that does not come within a lease keeps the others waiting no more.
        """
        new = [each for each in self.seats.values() if each.is_wanted and not each.counts]
        there = [each for each in new if each.epoch and each.lease_until > now]
        waited = max((now - each.came_at for each in there), default=0.0)
        if there and (len(there) == len(new) or waited >= self.lease_seconds):
            for seat in there:
                seat.counts = True
            self.version += 1
            self.changes += 1

    def _sweep(self, now: float) -> None:
        """Groups that are not wanted, and are dead, have nothing to hand over."""
        for seat in [each for each in self.seats.values() if not each.is_wanted]:
            if seat.lease_until <= now:
                self._free(seat)
                del self.seats[seat.name]
                self.changes += 1

    # -- how it is

    def table(self, now: float) -> FleetTable:
        """The fleet as the protocol of leases sees it."""
        rows = tuple(
            GatewayRow(
                seat.name,
                seat.epoch,
                seat.lease_until,
                is_leaving=not seat.counts,
                address=seat.address,
                version=seat.version,
            )
            for seat in self.seats.values()
        )
        # Nobody takes over from another group: Ray brings that one up again.
        return FleetTable(now, rows, tuple(self.owners), self.version, grace_until=math.inf)

    # -- what is kept

    def to_json(self) -> dict[str, Any]:
        """All that a new directory has to know."""
        return {
            "lease_seconds": self.lease_seconds,
            "version": self.version,
            "epoch": self.epoch,
            "is_ending": self.is_ending,
            "seats": [{**asdict(seat), "lease_until": 0.0} for seat in self.seats.values()],
            "owners": [None if each is None else list(each) for each in self.owners],
        }

    @classmethod
    def of_json(cls, found: Mapping[str, Any], now: float) -> Book:
        """The same, as what another directory has left behind: each life gets a whole lease."""
        book = cls(len(found["owners"]), found["lease_seconds"])
        book.version, book.epoch = found["version"], found["epoch"]
        book.is_ending = found["is_ending"]
        book.owners = [None if each is None else Owner(*each) for each in found["owners"]]
        for each in found["seats"]:
            seat = Seat(**each)
            seat.lease_until = now + book.lease_seconds if seat.epoch else NEVER
            seat.came_at = now
            book.seats[seat.name] = seat
        return book
