"""Who may connect next, and when: permits, pure (docs/architecture.md section 8).

Puts three rules together that know nothing of each other: the rate (`RateWindow`), fair shares of a
few slots, and breakers. The time is an argument.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict, deque
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from tunnelfleet.actors.events import AttemptOutcome
from tunnelfleet.actors.net.fair_slots import FairSlots, reserved_share

from .connect_gate import Breakers, BreakerState, Fact

LATE_SECONDS: Final = 3.0
"""An attempt that takes longer counts as over: whoever says nothing must not slow down others."""
MARGIN_SECONDS: Final = 0.05
"""Added to the second: the other side may look at its clock a little after it has answered."""
MAX_PER_SECOND: Final = 1_000_000

Key = TypeVar("Key")


class RateWindow(Generic[Key]):
    """How many may begin now, so that the service never sees more than the rate in any second.

    A permit is one thing, its arrival at the service another: between the two are dials, threads
    and networks. So it counts where attempts may be. One that is under way may arrive at any
    moment; one that is over arrived before its end. While those under way and those that were over
    less than a second ago are fewer than the rate, one more does no harm.

    Args:
        rate_per_second: more than 0. Of a rate of at least 1 the whole part counts; below that it
            is one in `1 / rate` seconds.
    """

    def __init__(self, rate_per_second: float) -> None:
        self.change_rate(rate_per_second)
        self._under_way: dict[Key, float] = {}
        """Since when, in the order of their begin."""
        self._over: deque[float] = deque()
        """When those that count still have ended, in order."""

    def change_rate(self, rate_per_second: float) -> None:
        """Keep to another rate from now on; what counts goes on to count."""
        self._most = max(1, int(min(rate_per_second, MAX_PER_SECOND)))
        self._window_seconds = max(1.0, 1.0 / rate_per_second) + MARGIN_SECONDS

    def __len__(self) -> int:
        """How many count, as of the last call that had the time."""
        return len(self._under_way) + len(self._over)

    def fill(self, now: float) -> None:
        """Count as many as may be: nobody knows what was under way before."""
        self._over.extend([now] * (self._most - len(self)))

    def begin(self, key: Key, now: float) -> None:
        """`key` is under way."""
        self._under_way[key] = now

    def end(self, key: Key, now: float) -> None:
        """It is no more. Harmless for one that counts as over already."""
        if self._under_way.pop(key, None) is not None:
            self._over.append(now)

    def wait_seconds(self, now: float) -> float:
        """Return how long to wait until one more may begin; 0 if it may now."""
        self._forget(now)
        if len(self) < self._most:
            return 0.0
        waits = []
        if self._over:
            waits.append(self._over[0] + self._window_seconds - now)
        if self._under_way:
            began = next(iter(self._under_way.values()))
            waits.append(began + LATE_SECONDS + self._window_seconds - now)
        return max(min(waits), 0.001)

    def _forget(self, now: float) -> None:
        while self._under_way:
            key, began = next(iter(self._under_way.items()))
            if now - began < LATE_SECONDS:
                break
            # From now on, though it may have been late for longer: nobody looked.
            self.end(key, now)
        while self._over and now - self._over[0] >= self._window_seconds:
            self._over.popleft()


class Grant(NamedTuple, Generic[Key]):
    """`key` may connect."""

    key: Key


class Cause(Enum):
    """Why an attempt is called back; the value is the label in metrics."""

    SUSPENDED = "suspended"
    HUNG = "connect_timeout"


class CallBack(NamedTuple, Generic[Key]):
    """`key` must not go on with its attempt; it owes its end as before."""

    key: Key
    cause: Cause
    endpoint: str


Action: TypeAlias = "Grant[Key] | CallBack[Key]"


class _Place(Enum):
    """Where one is who has asked."""

    IN_LINE = "in line"
    HELD_BACK = "held back by a breaker"
    GRANTED = "granted"
    CALLED_BACK = "called back"


class _Request:
    """One who has asked, until its end."""

    __slots__ = ("endpoint", "is_probe", "place", "tunnel")

    def __init__(self, endpoint: str, tunnel: str) -> None:
        self.endpoint = endpoint
        self.tunnel = tunnel
        self.place = _Place.IN_LINE
        self.is_probe = False


SLOW_CONNECT_SECONDS: Final = 3.0
"""A tunnel whose attempt took longer and failed shares half of the permits with its like."""
TRIAL_SECONDS: Final = 2.0
"""What an endpoint has to answer at first, while newcomers wait."""
MAX_DOUBLINGS: Final = 10
MAX_ENDPOINTS: Final = 10_000
"""Endpoints whose trials are remembered; the ones that were called back last."""
FORGOTTEN_SECONDS: Final = 300.0
"""An endpoint that is down and that nobody has asked for so long is forgotten."""


class Permits(Generic[Key]):
    """Decides about all connects of a runtime: facts and the time go in, grants come out.

    All tunnels of an endpoint that is down but one are *held back*, outside of the slots' queue,
    and cost the others nothing. An attempt of an endpoint of which nothing good is known has
    `TRIAL_SECONDS` while newcomers of others wait for its slot, then it is called back, and has
    twice as long the next time: those that never answer share the slots with those nobody knows.

    Args:
        rate_per_second: of permits; never more in any second.
        concurrency: permits that may be out at once.
        per_endpoint: of these, for one endpoint; None leaves a quarter, at least one, to others.
        rng: for the delays of breakers.
    """

    def __init__(
        self,
        rate_per_second: float,
        concurrency: int,
        per_endpoint: int | None,
        rng: random.Random,
    ) -> None:
        self.breakers = Breakers(rng)
        self.is_suspended = False
        """Whether nobody may connect; set by `suspend` and `resume`."""
        self._rate: RateWindow[Key] = RateWindow(rate_per_second)
        self._slots: FairSlots[Key] = FairSlots(
            concurrency, per_endpoint or reserved_share(concurrency), SLOW_CONNECT_SECONDS
        )
        self._requests: dict[Key, _Request] = {}
        self._held_back: dict[str, OrderedDict[Key, None]] = {}
        self._dues: list[tuple[float, str]] = []
        """When a breaker is to be looked at; a heap. Of an endpoint the one in `_due_at` counts."""
        self._due_at: dict[str, float] = {}
        self._trials: OrderedDict[str, int] = OrderedDict()

    @property
    def in_line(self) -> int:
        """How many wait for their turn."""
        return self._slots.waiting

    @property
    def held_back(self) -> int:
        """How many are held back by breakers."""
        return len(self._requests) - self._slots.waiting - self._slots.held

    @property
    def under_way(self) -> int:
        """How many have a permit."""
        return self._slots.held

    # -- facts

    def ask(self, key: Key, endpoint: str, tunnel: str) -> None:
        """`key` wants to connect; a second time it is the same wish."""
        if key in self._requests:
            return
        self._requests[key] = request = _Request(endpoint, tunnel)
        if self.breakers.state(endpoint) is BreakerState.CLOSED:
            self._slots.ask(key, endpoint, tunnel)
        else:
            self._hold_back(key, request)
            self._look_at(endpoint)

    def end(self, key: Key, outcome: AttemptOutcome, now: float) -> None:
        """`key` wants nothing any more: its attempt is over, or it gave up its place."""
        request = self._requests.pop(key, None)
        if request is None:
            return
        endpoint = request.endpoint
        if request.place is _Place.HELD_BACK:
            held_back = self._held_back[endpoint]
            del held_back[key]
            if not held_back:
                del self._held_back[endpoint]
            return
        had_permit = request.place is not _Place.IN_LINE
        succeeded = outcome is AttemptOutcome.CONNECTED
        self._slots.give_back(key, now, succeeded=succeeded)
        self._rate.end(key, now)
        if not had_permit or (request.place is _Place.CALLED_BACK and not succeeded):
            outcome = AttemptOutcome.CANCELLED
        self._tell_breaker(request, outcome, now)

    def try_now(self, endpoint: str, tunnel: str, now: float) -> None:
        """An endpoint that is down may be tried at once, not at the end of its delay.

        Args:
            endpoint: that may be tried, once.
            tunnel: tries it, if it is held back; else the next one does.
            now: seconds.
        """
        breaker = self.breakers.get(endpoint)
        if breaker is None or breaker.state is not BreakerState.OPEN:
            # It is closed, or one tries it at this moment.
            return
        breaker.due_at = min(breaker.due_at, now)
        held_back = self._held_back.get(endpoint, OrderedDict())
        for key in held_back:
            if self._requests[key].tunnel == tunnel:
                held_back.move_to_end(key, last=False)
                break
        self._look_at(endpoint)

    def suspend(self) -> list[CallBack[Key]]:
        """Nobody may connect from now on; returns whose attempts have to end."""
        self.is_suspended = True
        return [
            self._call_back(key, request, Cause.SUSPENDED)
            for key, request in self._requests.items()
            if request.place is _Place.GRANTED
        ]

    def resume(self) -> None:
        """Connects are allowed again; all who wait have kept their places."""
        self.is_suspended = False

    def change_rate(self, rate_per_second: float) -> None:
        """Never more permits than this in any second, from now on."""
        self._rate.change_rate(rate_per_second)

    def rest(self, now: float) -> None:
        """Grant nothing for a second: another has granted permits that are not known here."""
        self._rate.fill(now)

    # -- decisions

    def decide(self, now: float) -> tuple[list[Action[Key]], float | None]:
        """What is to be done now.

        Returns:
            The actions, and in how many seconds to ask again if nothing happens; None: not at all.
        """
        if self.is_suspended:
            return [], None
        self._let_probes_go(now)
        actions: list[Action[Key]] = []
        waits: list[float] = []
        while self._slots.waiting:
            if wait_seconds := self._rate.wait_seconds(now):
                waits.append(wait_seconds)
                break
            key = self._slots.take_next(now)
            if key is None:
                waits += self._make_room(actions, now)
                break
            self._requests[key].place = _Place.GRANTED
            self._rate.begin(key, now)
            actions.append(Grant(key))
        if self._dues:
            waits.append(self._dues[0][0] - now)
        return actions, (max(0.0, min(waits)) if waits else None)

    def _make_room(self, actions: list[Action[Key]], now: float) -> list[float]:
        """Call back one who has had its time; return how long the next one still has."""
        left: list[tuple[float, Key]] = []
        for key, endpoint, since in self._slots.hindering():
            if self._requests[key].place is _Place.CALLED_BACK:
                # Its slot is about to be free.
                return []
            left.append((since + self._trial_seconds(endpoint) - now, key))
        if not left:
            return []
        left_seconds, key = min(left, key=lambda each: each[0])
        if left_seconds > 0:
            return [left_seconds]
        request = self._requests[key]
        self._trials[request.endpoint] = self._trials.pop(request.endpoint, 0) + 1
        if len(self._trials) > MAX_ENDPOINTS:
            self._trials.popitem(last=False)
        actions.append(self._call_back(key, request, Cause.HUNG))
        return []

    def _trial_seconds(self, endpoint: str) -> float:
        return TRIAL_SECONDS * 2.0 ** min(self._trials.get(endpoint, 0), MAX_DOUBLINGS)

    def _call_back(self, key: Key, request: _Request, cause: Cause) -> CallBack[Key]:
        request.place = _Place.CALLED_BACK
        return CallBack(key, cause, request.endpoint)

    # -- endpoints that are down

    def _tell_breaker(self, request: _Request, outcome: AttemptOutcome, now: float) -> None:
        endpoint = request.endpoint
        before = self.breakers.state(endpoint)
        fact = _fact(outcome, is_probe=request.is_probe and before is BreakerState.HALF_OPEN)
        if fact is None:
            return
        after = self.breakers.learn(endpoint, fact, request.tunnel, now)
        if after is BreakerState.OPEN and before is not after:
            for key, _tunnel in self._slots.leave_group(endpoint):
                self._hold_back(key, self._requests[key])
            self._look_at(endpoint)
        elif after is BreakerState.CLOSED and before is not after:
            for key in self._held_back.pop(endpoint, ()):
                self._let_in_line(key)

    def _hold_back(self, key: Key, request: _Request) -> None:
        request.place = _Place.HELD_BACK
        request.is_probe = False
        self._held_back.setdefault(request.endpoint, OrderedDict())[key] = None

    def _let_in_line(self, key: Key) -> _Request:
        request = self._requests[key]
        request.place = _Place.IN_LINE
        self._slots.ask(key, request.endpoint, request.tunnel)
        return request

    def _look_at(self, endpoint: str) -> None:
        breaker = self.breakers.get(endpoint)
        if breaker is not None and breaker.state is BreakerState.OPEN:
            self._look_later(endpoint, breaker.due_at)

    def _look_later(self, endpoint: str, due_at: float) -> None:
        if self._due_at.get(endpoint) != due_at:
            self._due_at[endpoint] = due_at
            heapq.heappush(self._dues, (due_at, endpoint))

    def _let_probes_go(self, now: float) -> None:
        while self._dues and self._dues[0][0] <= now:
            due_at, endpoint = heapq.heappop(self._dues)
            if self._due_at.get(endpoint) != due_at:
                continue
            del self._due_at[endpoint]
            breaker = self.breakers.get(endpoint)
            if breaker is None or breaker.state is not BreakerState.OPEN:
                continue
            held_back = self._held_back.get(endpoint)
            if held_back:
                self._let_probe_go(endpoint, held_back, now)
            elif now - breaker.due_at < FORGOTTEN_SECONDS:
                self._look_later(endpoint, breaker.due_at + FORGOTTEN_SECONDS)
            else:
                self.breakers.forget(endpoint)

    def _let_probe_go(self, endpoint: str, held_back: OrderedDict[Key, None], now: float) -> None:
        key, _ = held_back.popitem(last=False)
        if not held_back:
            del self._held_back[endpoint]
        request = self._let_in_line(key)
        request.is_probe = True
        self.breakers.learn(endpoint, Fact.DELAY_OVER, request.tunnel, now)


def _fact(outcome: AttemptOutcome, *, is_probe: bool) -> Fact | None:
    """What an outcome tells of the endpoint; None: nothing."""
    if outcome in (AttemptOutcome.CONNECTED, AttemptOutcome.REFUSED):
        return Fact.SUCCEEDED
    if outcome is AttemptOutcome.FAILED:
        return Fact.PROBE_FAILED if is_probe else Fact.FAILED
    return Fact.PROBE_GONE if is_probe else None
