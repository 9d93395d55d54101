"""A fleet of gateways on virtual time: the real protocol, a store of a few lines, and every fault.

Owns the clockwork (a heap of events), a model of what the store's statements do, and gateways
whose clocks do not go alike, who die, freeze, and whose requests are lost before or after they
were done. After each action it is checked that no shard has two gateways that may connect.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunnelfleet.runtime.gateway.placement.lease import (
    Lease,
    LeaseAnswer,
    LeasePhase,
    LeaseRequest,
    LeaseTimes,
    RequestKind,
    Resume,
    Share,
    Suspend,
    TellFleet,
)
from tunnelfleet.runtime.gateway.placement.members import FleetTable, GatewayRow, Owner
from tunnelfleet.runtime.gateway.placement.shards import Assigned

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.runtime.gateway.placement.lease import Action

SHARDS = 8
TIMES = LeaseTimes(10.0)
CLOCK_ERROR = 0.01
"""How much faster or slower than the store's the clock of a gateway goes."""
MAX_VACATE_SECONDS = 3.0
LATENCY_SECONDS = 0.02
MAX_LATE_SECONDS = 8.0
BOUND_SECONDS = 2 * TIMES.lease_seconds + 4 * TIMES.beat_seconds + 2 * MAX_VACATE_SECONDS
"""After the last fault, every shard is where it belongs: a grace after an outage, the lease of who
has died, and the way from one gateway to another.
"""


@dataclass
class StoredGateway:
    """A row of the model."""

    run: int
    epoch: int
    lease_until: float
    beat_at: float
    serial: int
    is_leaving: bool = False


class ModelStore:
    """What the statements of the real store do, each at once."""

    def __init__(self) -> None:
        self.gateways: dict[str, StoredGateway] = {}
        self.owners: list[Owner | None] = [None] * SHARDS
        self.version = 0
        self.epoch = 0
        self.grace_until = 0.0
        self.is_down = False
        self.clock_error = 0.0
        self.claims: list[tuple[float, int, Owner | None, Owner]] = []
        """When, which shard, from whom, to whom."""

    def do(self, name: str, run: int, request: LeaseRequest, now: float) -> LeaseAnswer:
        """Carry a request out."""
        if request.kind is RequestKind.CLAIM:
            return LeaseAnswer(claimed=self._claim(name, request, now))
        if request.kind is RequestKind.GOODBYE:
            self._goodbye(name, request)
            return LeaseAnswer()
        self._look_for_outage(now)
        if request.kind is RequestKind.JOIN:
            return self._join(name, run, request, now)
        row = self.gateways.get(name)
        if row is None or row.epoch != request.epoch or row.serial >= request.serial:
            return LeaseAnswer(self.table(now))
        me = Owner(name, row.epoch)
        for shard in request.shards:
            if self.owners[shard] == me:
                self.owners[shard] = None
        self.version += row.is_leaving != request.is_leaving
        row.is_leaving, row.serial = request.is_leaving, request.serial
        row.beat_at, row.lease_until = now, now + TIMES.lease_seconds
        return LeaseAnswer(self.table(now), row.epoch)

    def _look_for_outage(self, now: float) -> None:
        last = max((row.beat_at for row in self.gateways.values()), default=now)
        if now - last > TIMES.outage_seconds:
            self.grace_until = now + TIMES.lease_seconds

    def _join(self, name: str, run: int, request: LeaseRequest, now: float) -> LeaseAnswer:
        row = self.gateways.get(name)
        if row is not None and row.run != run and row.lease_until > now:
            return LeaseAnswer(self.table(now), taken_seconds=row.lease_until - now)
        if row is not None and row.run == run and row.serial >= request.serial:
            return LeaseAnswer(self.table(now))
        self.epoch += 1
        self.version += 1
        self.gateways[name] = StoredGateway(
            run, self.epoch, now + TIMES.lease_seconds, now, request.serial
        )
        return LeaseAnswer(self.table(now), self.epoch)

    def _claim(self, name: str, request: LeaseRequest, now: float) -> frozenset[int]:
        row = self.gateways.get(name)
        if row is None or row.epoch != request.epoch or row.lease_until <= now:
            return frozenset()
        if request.version != self.version or row.serial >= request.serial:
            return frozenset()
        table = self.table(now)
        claimed = frozenset(filter(table.is_free, request.shards))
        for shard in claimed:
            owner = Owner(name, row.epoch)
            self.claims.append((now, shard, self.owners[shard], owner))
            self.owners[shard] = owner
        return claimed

    def _goodbye(self, name: str, request: LeaseRequest) -> None:
        row = self.gateways.get(name)
        if row is None or row.epoch != request.epoch:
            return
        me = Owner(name, row.epoch)
        self.owners = [None if owner == me else owner for owner in self.owners]
        del self.gateways[name]
        self.version += 1

    def table(self, now: float) -> FleetTable:
        """All that it knows."""
        rows = tuple(
            GatewayRow(name, row.epoch, row.lease_until, row.is_leaving)
            for name, row in self.gateways.items()
        )
        return FleetTable(now, rows, tuple(self.owners), self.version, self.grace_until)


@dataclass
class Network:
    """How likely what becomes of a request, of 1."""

    lost: float = 0.0
    unanswered: float = 0.0
    late: float = 0.0


@dataclass
class Gateway:
    """A simulated gateway."""

    name: str
    run: int
    rate: float
    lease: Lease
    is_alive: bool = True
    frozen_until: float = 0.0
    gate_until: float = 0.0
    present: set[int] = field(default_factory=set)
    """Shards whose tunnels are here."""
    members: int = 0
    deferred: list[Callable[[], object]] = field(default_factory=list)
    """What it will do when it thaws."""

    def clock(self, now: float) -> float:
        """Its own time."""
        return 1_000.0 * self.run + now * self.rate

    def may_connect(self, shard: int, now: float) -> bool:
        """Whether it would connect a tunnel of this shard, if it had its turn now."""
        return self.is_alive and shard in self.present and self.clock(now) < self.gate_until


class Simulation:
    """Gateways, a store, and time.

    Args:
        seed: of all that is left to chance.
    """

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.store = ModelStore()
        self.network = Network()
        self.gateways: list[Gateway] = []
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._wakes: dict[int, float] = {}

    # -- clockwork

    def at(self, when: float, do: Callable[[], object]) -> None:
        """Do something at a time."""
        heapq.heappush(self._events, (when, next(self._numbers), do))

    def run(self, until: float) -> None:
        """Let time go on."""
        while self._events and self._events[0][0] <= until:
            self.now, _number, do = heapq.heappop(self._events)
            do()
        self.now = until
        self.check()

    def check(self) -> None:
        """No shard has two gateways that may connect."""
        connected: dict[int, str] = {}
        for gateway in self.gateways:
            if gateway.is_alive and gateway.clock(self.now) < gateway.gate_until:
                for shard in gateway.present:
                    other = connected.setdefault(shard, gateway.name)
                    assert other is gateway.name, (
                        f"at {self.now:.2f} s shard {shard} is connected by "
                        f"{other} and {gateway.name}"
                    )

    def _of(self, gateway: Gateway, delay_seconds: float, do: Callable[[], object]) -> None:
        """Something that a gateway does itself: not while it is frozen, nor when it is dead."""

        def turn() -> None:
            if not gateway.is_alive:
                return
            if gateway.frozen_until > self.now:
                gateway.deferred.append(turn)
                return
            do()

        self.at(self.now + delay_seconds, turn)

    # -- gateways

    def join(self, name: str) -> Gateway:
        """Start a gateway; a former process of this name, if any, is not asked."""
        rate = 1.0 + self.rng.uniform(-CLOCK_ERROR, CLOCK_ERROR)
        gateway = Gateway(name, len(self.gateways), rate, Lease(name, TIMES))
        self.gateways.append(gateway)
        self._of(gateway, 0.0, lambda: self._turn(gateway))
        return gateway

    def kill(self, gateway: Gateway) -> None:
        """It ends at once."""
        gateway.is_alive = False
        gateway.present.clear()

    def freeze(self, gateway: Gateway, seconds: float) -> None:
        """It stands still; its clock does not."""
        gateway.frozen_until = max(gateway.frozen_until, self.now + seconds)
        self.at(gateway.frozen_until, lambda: self.thaw(gateway))

    def thaw(self, gateway: Gateway, *, early: bool = False) -> None:
        """It goes on, with all that has come meanwhile."""
        if early:
            gateway.frozen_until = self.now
        if gateway.frozen_until <= self.now:
            deferred, gateway.deferred = gateway.deferred, []
            for turn in deferred:
                self.at(self.now, turn)

    def leave(self, gateway: Gateway) -> None:
        """It is stopped in good order."""

        def begin() -> None:
            self._act(gateway, gateway.lease.leave(gateway.clock(self.now)))
            self._turn(gateway)

        self._of(gateway, 0.0, begin)

    def notify(self) -> None:
        """Wake those who listen."""
        for gateway in self.gateways:
            if not gateway.is_alive:
                continue

            def hear(gateway: Gateway = gateway) -> None:
                gateway.lease.notified(gateway.clock(self.now))
                self._turn(gateway)

            self._of(gateway, LATENCY_SECONDS, hear)

    def _turn(self, gateway: Gateway) -> None:
        clock = gateway.clock(self.now)
        request = gateway.lease.next_request(clock)
        if request is not None:
            self._send(gateway, request)
            return
        due_at = gateway.lease.due_at
        if due_at == float("inf"):
            if gateway.lease.phase is LeasePhase.LEFT:
                gateway.is_alive = False
            return
        wake_at = self.now + max(0.0, due_at - clock) / gateway.rate + 1e-6
        # One that comes later is of no use; one that comes before finds nothing to do.
        if self._wakes.get(gateway.run, 0.0) <= self.now or wake_at < self._wakes[gateway.run]:
            self._wakes[gateway.run] = wake_at
            self._of(gateway, wake_at - self.now, lambda: self._turn(gateway))

    def _send(self, gateway: Gateway, request: LeaseRequest) -> None:
        chance = self.rng.random()
        lost = chance < self.network.lost
        unanswered = chance < self.network.lost + self.network.unanswered
        late = self.rng.random() < self.network.late
        delay = self.rng.uniform(0.001, MAX_LATE_SECONDS if late else LATENCY_SECONDS)

        def arrive() -> None:
            if self.store.is_down or lost:
                return
            before = self.store.version
            clock = self.now + self.store.clock_error
            answer = self.store.do(gateway.name, gateway.run, request, clock)
            if self.store.version != before or request.shards:
                self.notify()
            if not unanswered:
                back = self.rng.uniform(0.001, LATENCY_SECONDS)
                self._of(gateway, back, lambda: self._hear(gateway, request, answer))

        def give_up() -> None:
            self._act(gateway, gateway.lease.failed(request, gateway.clock(self.now)))
            self._turn(gateway)

        self.at(self.now + delay, arrive)
        self._of(gateway, TIMES.request_seconds, give_up)

    def _hear(self, gateway: Gateway, request: LeaseRequest, answer: LeaseAnswer) -> None:
        clock = gateway.clock(self.now)
        self._act(gateway, gateway.lease.answered(request, answer, clock))
        self._turn(gateway)

    def _act(self, gateway: Gateway, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Suspend():
                    gateway.gate_until = 0.0
                case Resume(seconds):
                    gateway.gate_until = gateway.clock(self.now) + seconds
                case Share(members):
                    gateway.members = members
                case TellFleet(Assigned(shards)):
                    gateway.present |= shards
                case TellFleet(revoked):
                    for shard in revoked.shards:
                        self._vacate(gateway, shard)
        if actions:
            # Only these open a gate, or bring a shard: a gate closes with time.
            self.check()

    def _vacate(self, gateway: Gateway, shard: int) -> None:
        def ended() -> None:
            if shard not in gateway.lease.owned:
                gateway.present.discard(shard)
            clock = gateway.clock(self.now)
            self._act(gateway, gateway.lease.vacated(frozenset({shard}), clock))
            self._turn(gateway)

        self._of(gateway, self.rng.uniform(0.0, MAX_VACATE_SECONDS), ended)

    # -- what is to be seen

    @property
    def living(self) -> list[Gateway]:
        """The gateways that run."""
        return [each for each in self.gateways if each.is_alive]

    def is_settled(self) -> bool:
        """Whether each shard runs where it belongs, and may connect."""
        table = self.store.table(self.now + self.store.clock_error)
        if {each.name for each in self.living} != set(table.members):
            return False
        for gateway in self.living:
            share = table.shards_of(Owner(gateway.name, gateway.lease.epoch))
            if share != gateway.present or table.handovers_of(gateway.name, share):
                return False
            if not all(gateway.may_connect(shard, self.now) for shard in share):
                return False
        return sum(len(each.present) for each in self.living) == (SHARDS if self.living else 0)
