"""Many tunnels over one service that has only so much processor time, in simulated time.

Nothing is throttled here. What makes messages and pings wait is that the service has others to
serve, each message costs it the same whatever its size, and sometimes it does nothing at all.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.counters import TunnelStats
from tunnelfleet.actors.tunnel.messages import ConnectionKey
from tunnelfleet.actors.tunnel.sender import WireSender
from tunnelfleet.proto import Message, MessageType

if TYPE_CHECKING:
    from collections.abc import Callable

WAY_SECONDS = 0.001
PAUSE_EVERY_SECONDS = 1.0
TURN_BYTES = 65_536
"""What the service takes from one tunnel before it looks at the next."""


class Costs(NamedTuple):
    """What the service needs, in seconds of its processor.

    Attributes:
        message: for a message, whatever its size.
        byte: for a byte of a payload.
        ping: to answer a ping.
        hiccup: at most, in one of fifty turns, for nothing.
        pause: for nothing, once a second: somebody else has the processor.
    """

    message: float
    byte: float
    ping: float
    hiccup: float = 0.0
    pause: float = 0.0


class CrowdItem(NamedTuple):
    """What is on its way: a message of so many bytes of payload, or a ping with its number."""

    size_bytes: int
    ping: int | None


class CrowdClock:
    """What happens next."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, at: float, action: Callable[[], None]) -> None:
        """Have something done then."""
        heapq.heappush(self._events, (at, next(self._order), action))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = end


class CrowdService:
    """Takes from its tunnels in turn."""

    def __init__(self, clock: CrowdClock, costs: Costs) -> None:
        self._clock, self._costs = clock, costs
        self._random = random.Random(3)
        self._turns: deque[CrowdTunnel] = deque()
        self._works = False
        self._pauses_at = PAUSE_EVERY_SECONDS if costs.pause else float("inf")
        self.busy_seconds = 0.0
        """Of its processor, so far."""

    def arrive(self, tunnel: CrowdTunnel, item: CrowdItem) -> None:
        """Something has come from a tunnel."""
        if not tunnel.arrived:
            self._turns.append(tunnel)
        tunnel.arrived.append(item)
        if not self._works:
            self._works = True
            self._turn()

    def _turn(self) -> None:
        if not self._turns:
            self._works = False
            return
        costs, clock = self._costs, self._clock
        tunnel, at, taken = self._turns.popleft(), clock.now, 0
        if costs.hiccup and self._random.random() < 1 / 50:
            at += self._random.random() * costs.hiccup
        if clock.now >= self._pauses_at:
            self._pauses_at = clock.now + PAUSE_EVERY_SECONDS
            at += costs.pause
        while tunnel.arrived and taken < TURN_BYTES:
            item = tunnel.arrived.popleft()
            taken += item.size_bytes
            if item.ping is None:
                at += costs.message + item.size_bytes * costs.byte
                tunnel.relayed_bytes += item.size_bytes
            else:
                at += costs.ping
                clock.at(at + WAY_SECONDS, functools.partial(tunnel.hear, item.ping))
        if tunnel.arrived:
            self._turns.append(tunnel)
        self.busy_seconds += at - clock.now
        clock.at(at, self._turn)


class CrowdTunnel:
    """One that sends what it is offered, as TunnelActor does.

    Attributes:
        sender: as in a tunnel.
        arrived: what the service has not looked at.
        relayed_bytes: the payload that has left the service.
    """

    def __init__(
        self,
        clock: CrowdClock,
        service: CrowdService,
        connections: int,
        *,
        paced: bool,
        stagger: float,
    ) -> None:
        self._clock, self._service = clock, service
        self.sender = WireSender(Limits(), None, TunnelStats(), 0.0, pacing=paced, stagger=stagger)
        self._keys = [ConnectionKey("SSH", 1, 1 + number) for number in range(connections)]
        self.arrived: deque[CrowdItem] = deque()
        self.relayed_bytes = 0
        self._wakes_at = -1.0

    def offer(self, size_bytes: int) -> None:
        """Its connections have something to send, each the same."""
        for key in self._keys:
            self.sender.data(key, bytes(size_bytes // len(self._keys)), self._clock.now)
        self._pump()

    def hear(self, number: int) -> None:
        """A pong has come."""
        self.sender.pong(number, self._clock.now)
        self._ping_if_due()
        self._pump()

    def _pump(self) -> None:
        sender, now = self.sender, self._clock.now
        while (piece := sender.next_piece(now)) is not None:
            assert piece.payload is not None
            self._ping_if_due()
            message = Message(MessageType.DATA, 1, payload=piece.payload)
            sender.sent(message, piece.flow.key, now)
            sender.written(1, now, blocked=False)
            self._send(CrowdItem(len(piece.payload), None))
        self._ping_if_due()
        if sender.wait_seconds and self._wakes_at <= now:
            self._wakes_at = now + sender.wait_seconds
            self._clock.at(self._wakes_at, self._pump)

    def _ping_if_due(self) -> None:
        if self.sender.is_ping_due:
            self._send(CrowdItem(0, self.sender.ping(self._clock.now)))

    def _send(self, item: CrowdItem) -> None:
        arrive = functools.partial(self._service.arrive, self, item)
        self._clock.at(self._clock.now + WAY_SECONDS, arrive)


class SimulatedCrowd:
    """So many tunnels, each of which is offered the same amount ten times a second.

    Args:
        tunnels: how many.
        costs: of the service.
        connections: of each tunnel.
        bytes_per_second: offered to each.
        together: all at the same moments, or each at its own.
        paced: by pings, or not.
    """

    def __init__(
        self,
        tunnels: int,
        costs: Costs,
        *,
        connections: int = 1,
        bytes_per_second: int = 100_000,
        together: bool = True,
        paced: bool = True,
    ) -> None:
        self.clock = CrowdClock()
        self.service = CrowdService(self.clock, costs)
        self._size = bytes_per_second // 10
        chance = random.Random(1)
        self.tunnels = [
            CrowdTunnel(self.clock, self.service, connections, paced=paced, stagger=chance.random())
            for _ in range(tunnels)
        ]
        for tunnel in self.tunnels:
            self._offer(tunnel, 0.0 if together else chance.random() / 10)

    def _offer(self, tunnel: CrowdTunnel, at: float) -> None:
        def offer() -> None:
            tunnel.offer(self._size)
            self._offer(tunnel, at + 0.1)

        self.clock.at(at, offer)

    def rates(self, warm_up: float, seconds: float) -> list[float]:
        """What leaves the service of each tunnel, in bytes a second, behind a warm-up."""
        self.clock.run(warm_up)
        before = [tunnel.relayed_bytes for tunnel in self.tunnels]
        self.clock.run(seconds)
        pairs = zip(self.tunnels, before, strict=True)
        return [(tunnel.relayed_bytes - was) / seconds for tunnel, was in pairs]
