"""The protocol of leases, as one gateway follows it. Pure: facts and the time in, actions out.

A gateway has one lease, which it renews with a heartbeat; its shards are rows of the store with its
name and epoch. Owns the order in which a gateway joins, claims, hands over and leaves, and when its
tunnels may connect: only while a heartbeat that the store has answered is younger than the lease,
less a margin, and only when the tunnels of shards that were lost have ended here. At most one
request is under way; an answer that comes too late is of no account, for the next heartbeat tells
all. The time is of a clock that goes on while the process is frozen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from .members import FleetTable, Owner
from .shards import Assigned, Revoked

NEVER = -math.inf
LEAVING_PART = 0.5
"""Of the fleet's connect rate, for what a gateway that leaves hands over: others connect too."""
JOINING_PART = 0.8
"""The same of a new gateway's share, for what all others together hand over to it."""
MAX_DOUBLINGS = 10
"""Of the time after a failure; it reaches the time between heartbeats long before."""
MEMBERS_A_GAP = 5
"""With more gateways each hears less often, so that the store has the same work."""
NOT_JOINED = "this gateway has no lease yet"
LOST_SHARDS = "others have taken shards over, and their tunnels have not ended here yet"
LEFT = "this gateway has left the fleet"


class LeaseTimes(NamedTuple):
    """The times that follow from one: how long a lease holds, in seconds."""

    lease_seconds: float

    @property
    def beat_seconds(self) -> float:
        """Between heartbeats."""
        return self.lease_seconds / 5

    @property
    def margin_seconds(self) -> float:
        """How long before the lease may have run out connects stop.

        For attempts that are on their way, and for clocks that do not go alike.
        """
        return self.lease_seconds / 10

    @property
    def outage_seconds(self) -> float:
        """When no gateway was heard for so long, the store itself was away."""
        return self.lease_seconds / 2

    @property
    def settle_seconds(self) -> float:
        """How long the first of a fleet waits for others that start at the same time."""
        return self.lease_seconds / 10

    @property
    def retry_seconds(self) -> float:
        """After a first failure; it doubles up to the time between heartbeats."""
        return self.lease_seconds / 40

    def retry_after(self, failures: int) -> float:
        """How many seconds to wait after so many failures in a row, of which there is one."""
        doublings = min(failures - 1, MAX_DOUBLINGS)
        return min(self.retry_seconds * 2.0**doublings, self.beat_seconds)

    @property
    def gap_seconds(self) -> float:
        """Between heartbeats at the least, however much there is to hear."""
        return self.lease_seconds / 200

    @property
    def request_seconds(self) -> float:
        """For the answer to a request."""
        return self.lease_seconds * 0.3


class LeasePhase(Enum):
    """How far a gateway has come."""

    OUT = "out"
    """The store does not know it, or not any more."""
    IN = "in"
    LEAVING = "leaving"
    """It hands over all that it has."""
    LEFT = "left"


class RequestKind(Enum):
    """What a store can be asked."""

    JOIN = "join"
    """Begin a life in the fleet."""
    BEAT = "beat"
    """Renew the lease, let go of shards that are vacated, and tell how the fleet is."""
    CLAIM = "claim"
    """Take those of some shards that are free, if no gateway has joined or left meanwhile."""
    GOODBYE = "goodbye"
    """Leave: whatever this gateway still has is free."""


class LeaseRequest(NamedTuple):
    """What a store is asked.

    Attributes:
        kind: what it is.
        epoch: of the asker's life; 0 before it has joined.
        shards: to let go of, or to claim.
        is_leaving: whether it hands over all that it has.
        version: of the table that a claim follows from.
        serial: of this request. It grows; a store that has answered a later one of the same
            process changes nothing for this one, which was held up on its way.
    """

    kind: RequestKind
    epoch: int = 0
    shards: frozenset[int] = frozenset()
    is_leaving: bool = False
    version: int = 0
    serial: int = 0


class LeaseAnswer(NamedTuple):
    """What a store answers.

    Attributes:
        table: how the fleet is; None to a claim.
        epoch: of the asker's life; 0 if it has none.
        claimed: the shards that a claim has brought.
        taken_seconds: to a join: for how long another process of this name still has a lease.
    """

    table: FleetTable | None = None
    epoch: int = 0
    claimed: frozenset[int] = frozenset()
    taken_seconds: float = 0.0


class Suspend(NamedTuple):
    """No tunnel may connect, because."""

    reason: str


class Resume(NamedTuple):
    """Tunnels may connect for so many seconds."""

    valid_seconds: float


class TellFleet(NamedTuple):
    """Tell the fleet of this gateway."""

    message: Assigned | Revoked


class Share(NamedTuple):
    """So many gateways share the connects of the fleet."""

    members: int


Action = Suspend | Resume | TellFleet | Share


@dataclass(slots=True)
class _UnderWay:
    request: LeaseRequest
    sent_at: float


class Lease:
    """One gateway's part in the protocol.

    Args:
        name: of the gateway, unique in the fleet.
        times: how long a lease holds.
    """

    def __init__(self, name: str, times: LeaseTimes) -> None:
        self._name = name
        self._times = times
        self.phase = LeasePhase.OUT
        self.epoch = 0
        self.table: FleetTable | None = None
        """What the store has told last."""
        self.owned: frozenset[int] = frozenset()
        """What this gateway's tunnels run for."""
        self.confirmed_at = NEVER
        """When the last request was sent that has confirmed the lease."""
        self.takeovers = 0
        """Shards that were claimed although another gateway had them, whose lease had run out."""
        self.taken_seconds = 0.0
        """For how long another process of the same name still has a lease."""
        self._leaving: frozenset[int] = frozenset()
        """Ours still, and on their way out: told, and not let go of."""
        self._vacated: frozenset[int] = frozenset()
        """Of these, the ones to let go of at the next heartbeat."""
        self._lost: frozenset[int] = frozenset()
        """Others' already, and their tunnels have not ended here."""
        self._claims: frozenset[int] = frozenset()
        self._claims_from = NEVER
        self._due_at = NEVER
        self._sent_at = NEVER
        self._under_way: _UnderWay | None = None
        self._serial = 0
        self._failures = 0
        self._has_heard = False
        """Whether others have told that something has changed, since the last request was sent."""
        self._members = 0

    # -- what the shell asks

    @property
    def due_at(self) -> float:
        """When the next request is due; never while one is under way, or all is over."""
        return math.inf if self._under_way or self.phase is LeasePhase.LEFT else self._due_at

    @property
    def valid_until(self) -> float:
        """Until when tunnels may connect, if nothing is confirmed any more."""
        times = self._times
        return self.confirmed_at + times.lease_seconds - times.margin_seconds

    def is_valid(self, now: float) -> bool:
        """Whether the lease holds for certain."""
        return self.epoch > 0 and now < self.valid_until

    def next_request(self, now: float) -> LeaseRequest | None:
        """The request that is due, if one is; an answer or a failure has to follow."""
        if now < self.due_at:
            return None
        self._serial += 1
        request = self._make_request(now)._replace(serial=self._serial)
        self._under_way = _UnderWay(request, now)
        self._sent_at = now
        self._has_heard = False
        return request

    def _make_request(self, now: float) -> LeaseRequest:
        leaving = self.phase is LeasePhase.LEAVING
        if self.phase is LeasePhase.OUT:
            return LeaseRequest(RequestKind.JOIN)
        if leaving and self._leaving <= self._vacated:
            return LeaseRequest(RequestKind.GOODBYE, self.epoch)
        if self._claims and not leaving and now >= self._claims_from and self.table is not None:
            claims, self._claims = self._claims, frozenset()
            return LeaseRequest(RequestKind.CLAIM, self.epoch, claims, version=self.table.version)
        return LeaseRequest(RequestKind.BEAT, self.epoch, self._vacated, is_leaving=leaving)

    # -- facts

    def answered(self, request: LeaseRequest, answer: LeaseAnswer, now: float) -> list[Action]:
        """The store has answered a request."""
        under_way = self._under_way
        if under_way is None or under_way.request.serial != request.serial:
            return []
        self._under_way = None
        self._failures = 0
        actions = self._follow(request, answer, under_way.sent_at, now)
        if self._has_heard:
            # It may have happened after the store had looked for this answer.
            self._beat_soon(now)
        return actions

    def _follow(
        self, request: LeaseRequest, answer: LeaseAnswer, sent_at: float, now: float
    ) -> list[Action]:
        if request.kind is RequestKind.GOODBYE:
            return self._has_left()
        if request.kind is RequestKind.CLAIM:
            return self._has_claimed(answer.claimed, now)
        assert answer.table is not None
        self.table = answer.table
        if not answer.epoch:
            return self._is_out(answer, now)
        self.confirmed_at = sent_at
        self.taken_seconds = 0.0
        if request.kind is RequestKind.JOIN:
            return self._has_joined(answer, now)
        return self._compare(request.shards, answer.table, now)

    def failed(self, request: LeaseRequest, now: float) -> list[Action]:
        """Nobody knows whether the store has done what it was asked."""
        if self._under_way is None or self._under_way.request.serial != request.serial:
            return []
        self._under_way = None
        self._failures += 1
        self._due_at = now + self._times.retry_after(self._failures)
        return []

    def interrupted(self, now: float) -> None:
        """Something unforeseen has happened here, and what was under way is given up.

        The next request is due at once; the caller waits before, and tells the fleet anew, which
        may have missed some actions.
        """
        self._under_way = None
        self._due_at = now

    def notified(self, now: float) -> None:
        """Something in the store has changed."""
        self._has_heard = True
        self._beat_soon(now)

    def vacated(self, shards: frozenset[int], now: float) -> list[Action]:
        """The tunnels of these shards have ended here."""
        found = shards & self._leaving
        if found:
            self._vacated |= found
            self._beat_soon(now)
        was_lost = bool(self._lost)
        self._lost -= shards
        return self._gate(now) if was_lost and not self._lost else []

    def leave(self, now: float) -> list[Action]:
        """This gateway is about to stop."""
        if self.phase is LeasePhase.OUT:
            return self._has_left()
        if self.phase is not LeasePhase.IN:
            return []
        self.phase = LeasePhase.LEAVING
        self._due_at = now
        return self._hand_over(self.owned, LEAVING_PART)

    # -- what follows from an answer

    def _has_left(self) -> list[Action]:
        self.phase, self.epoch = LeasePhase.LEFT, 0
        self.confirmed_at = NEVER
        return [Suspend(LEFT)]

    def _is_out(self, answer: LeaseAnswer, now: float) -> list[Action]:
        """The store does not know this life any more, or another process has the name."""
        if self.phase is LeasePhase.LEAVING:
            return self._has_left()
        self.phase, self.epoch = LeasePhase.OUT, 0
        self.confirmed_at = NEVER
        self.taken_seconds = answer.taken_seconds
        # When the other's lease runs out, and not before: it may be renewed until then.
        wait_seconds = min(answer.taken_seconds, self._times.beat_seconds)
        self._due_at = now + wait_seconds
        lost = self.owned | self._leaving
        self.owned = self._leaving = self._vacated = self._claims = frozenset()
        return [*self._lose(lost), *self._gate(now)]

    def _has_joined(self, answer: LeaseAnswer, now: float) -> list[Action]:
        assert answer.table is not None
        self.phase, self.epoch = LeasePhase.IN, answer.epoch
        # Where nobody has anything, others may be about to start as well.
        settle_seconds = 0.0 if answer.table.has_owners else self._times.settle_seconds
        self._claims_from = now + settle_seconds
        return self._compare(frozenset(), answer.table, now)

    def _has_claimed(self, claimed: frozenset[int], now: float) -> list[Action]:
        assert self.table is not None
        owners = self.table.owners
        self.takeovers += sum(owners[shard] is not None for shard in claimed)
        self._due_at = self._sent_at + self._times.gap_seconds
        return self._assign(claimed - self._leaving, now)

    def _compare(self, released: frozenset[int], table: FleetTable, now: float) -> list[Action]:
        """The store has told what is whose."""
        self._vacated -= released
        self._leaving -= released
        mine = table.shards_of(Owner(self._name, self.epoch))
        actions = self._lose((self.owned | self._leaving) - mine)
        self.owned &= mine
        self._leaving &= mine
        self._vacated &= mine
        actions += self._assign(mine - self.owned - self._leaving, now)
        if self.phase is LeasePhase.IN:
            actions += self._rebalance(table)
            self._claims = table.claims_of(self._name)
        self._due_at = self._next_beat_at(table, now)
        if (members := max(1, len(table.members))) != self._members:
            self._members = members
            actions.append(Share(members))
        return [*actions, *self._gate(now)]

    def _next_beat_at(self, table: FleetTable, now: float) -> float:
        if self._vacated:
            return max(now, self._sent_at + self._gap_seconds)
        if self._claims:
            return max(now, self._claims_from)
        at = self._sent_at + self._times.beat_seconds
        for row in table.gateways:
            # Whoever runs out before that is looked at in the same moment.
            left_seconds = table.expires_at(row) - table.now
            if left_seconds > 0:
                at = min(at, now + left_seconds + self._times.gap_seconds)
        return at

    def _beat_soon(self, now: float) -> None:
        soon = max(now, self._sent_at + self._gap_seconds)
        # After a failure the store has its time.
        if not self._failures:
            self._due_at = min(self._due_at, soon)

    @property
    def _gap_seconds(self) -> float:
        """Between heartbeats at the least: what one gateway changes, all others look at."""
        return self._times.gap_seconds * max(1.0, self._members / MEMBERS_A_GAP)

    def _lose(self, shards: frozenset[int]) -> list[Action]:
        if not shards:
            return []
        self._lost |= shards
        # Before their tunnels may connect again: they have to be told to end first.
        return [Suspend(LOST_SHARDS), TellFleet(Revoked(shards))]

    def _assign(self, shards: frozenset[int], now: float) -> list[Action]:
        if not shards:
            return []
        if self.phase is LeasePhase.LEAVING:
            # They came too late: nothing runs for them.
            self._leaving |= shards
            self._vacated |= shards
            self._beat_soon(now)
            return []
        self.owned |= shards
        # What has ended here for another begins anew.
        self._lost -= shards
        return [TellFleet(Assigned(shards, self.epoch)), *self._gate(now)]

    def _rebalance(self, table: FleetTable) -> list[Action]:
        """Hand over what a gateway that has joined should have: all others do so too."""
        shards = table.handovers_of(self._name, self.owned)
        members = max(2, len(table.members))
        return self._hand_over(shards, JOINING_PART / members / (members - 1))

    def _hand_over(self, shards: frozenset[int], rate_part: float) -> list[Action]:
        if not shards:
            return []
        self.owned -= shards
        self._leaving |= shards
        return [TellFleet(Revoked(shards, may_drain=True, rate_part=rate_part))]

    def _gate(self, now: float) -> list[Action]:
        if self._lost:
            return [Suspend(LOST_SHARDS)]
        if not self.epoch:
            return [Suspend(NOT_JOINED)]
        return [Resume(max(0.0, self.valid_until - now))]

    def tell_anew(self) -> list[Action]:
        """All that is and is not assigned, for a fleet that may have missed some of it."""
        if self.table is None:
            return []
        others = frozenset(range(len(self.table.owners))) - self.owned - self._leaving
        found: list[Assigned | Revoked] = [Revoked(others)]
        if self._leaving:
            found.append(Revoked(self._leaving, may_drain=True, rate_part=LEAVING_PART))
        if self.owned:
            found.append(Assigned(self.owned, self.epoch))
        return [TellFleet(each) for each in found]
