"""Whether one may connect: to an endpoint that fails (breakers), and at all (the gate).

Failures in a row of so many *different* tunnels open an endpoint's breaker: then nobody connects
there, until after a delay one tunnel may, the *probe*. Pure: time and chance are arguments. The
gate outlives the governor: any thread suspends and resumes it, the governor counts in it.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import islice
from typing import Final, NamedTuple

from tunnelfleet.actors.kernel import Backoff
from tunnelfleet.actors.kernel.moments import boot_seconds
from tunnelfleet.proto import MAX_REASON_CHARACTERS, printable


class BreakerState(Enum):
    """Whether tunnels may connect to an endpoint."""

    CLOSED = "closed"
    """They may."""
    OPEN = "open"
    """None may, until the delay is over."""
    HALF_OPEN = "half_open"
    """One may, the probe."""


class Fact(Enum):
    """What a breaker learns."""

    SUCCEEDED = "succeeded"
    """The endpoint has answered one of its tunnels: with a refusal of a token, too."""
    FAILED = "failed"
    """It has not, or with an error of its own; the tunnel is not the probe."""
    FAILED_TOO_OFTEN = "failed too often"
    """The same, and it is the last one that was missing."""
    DELAY_OVER = "delay over"
    """It is time for a probe, and there is one."""
    PROBE_FAILED = "probe failed"
    PROBE_GONE = "probe gone"
    """The probe was given up, and nothing is known."""


class _Effect(Enum):
    """What a breaker does besides."""

    NOTHING = "nothing"
    NOTE = "note which tunnel"
    DELAY = "wait, longer than the last time"
    FORGET = "forget the failures"


class _Consequence(NamedTuple):
    state: BreakerState
    effect: _Effect


_S, _E = BreakerState, _Effect
RULES: Final = {
    (_S.CLOSED, Fact.SUCCEEDED): _Consequence(_S.CLOSED, _E.FORGET),
    (_S.CLOSED, Fact.FAILED): _Consequence(_S.CLOSED, _E.NOTE),
    (_S.CLOSED, Fact.FAILED_TOO_OFTEN): _Consequence(_S.OPEN, _E.DELAY),
    (_S.OPEN, Fact.SUCCEEDED): _Consequence(_S.CLOSED, _E.FORGET),
    # Begun before it opened: that says nothing new.
    (_S.OPEN, Fact.FAILED): _Consequence(_S.OPEN, _E.NOTHING),
    (_S.OPEN, Fact.DELAY_OVER): _Consequence(_S.HALF_OPEN, _E.NOTHING),
    (_S.HALF_OPEN, Fact.SUCCEEDED): _Consequence(_S.CLOSED, _E.FORGET),
    (_S.HALF_OPEN, Fact.FAILED): _Consequence(_S.HALF_OPEN, _E.NOTHING),
    (_S.HALF_OPEN, Fact.PROBE_FAILED): _Consequence(_S.OPEN, _E.DELAY),
    # The delay is over as before, so the next one that waits is the probe.
    (_S.HALF_OPEN, Fact.PROBE_GONE): _Consequence(_S.OPEN, _E.NOTHING),
}
"""What follows from a fact in a state; no other fact can come there."""


BREAKER_DELAYS: Final = Backoff(min_seconds=1.0, max_seconds=15.0)
"""Until the next probe: drawn by chance, up to a ceiling that grows with each probe that fails."""


@dataclass(slots=True)
class Breaker:
    """What is known of an endpoint.

    Attributes:
        state: whether tunnels may connect.
        tunnels: those that have failed in a row, while it is closed.
        openings: how often it has opened in a row.
        due_at: when a probe may be made, in seconds of the caller's clock, while it is open.
    """

    state: BreakerState = BreakerState.CLOSED
    tunnels: set[str] = field(default_factory=set)
    openings: int = 0
    due_at: float = 0.0

    def learn(self, fact: Fact, tunnel: str, now: float, rng: random.Random) -> None:
        """Do what the table says."""
        self.state, effect = RULES[self.state, fact]
        if effect is _Effect.NOTE:
            self.tunnels.add(tunnel)
        elif effect is _Effect.FORGET:
            self.tunnels.clear()
            self.openings = 0
        elif effect is _Effect.DELAY:
            self.tunnels.clear()
            self.due_at = now + BREAKER_DELAYS.delay(self.openings, rng)
            self.openings += 1


BREAKER_FAILURES: Final = 5
"""So many different tunnels in a row open the breaker of an endpoint."""
MAX_ENDPOINTS: Final = 10_000
"""Endpoints that fail and are remembered; the ones that were heard of last."""
SEARCHED: Final = 16
"""Records that are looked at for one to forget."""


class Breakers:
    """The breakers of all endpoints; those without a failure have no record.

    Args:
        rng: for the delays.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._records: OrderedDict[str, Breaker] = OrderedDict()
        self.changes = 0
        """How often one has changed its state."""
        self.openings = 0
        """How often one that was closed has opened."""

    def __len__(self) -> int:
        return len(self._records)

    def get(self, endpoint: str) -> Breaker | None:
        """The breaker of an endpoint that has failed; None if it is closed and all is well."""
        return self._records.get(endpoint)

    def state(self, endpoint: str) -> BreakerState:
        """Whether tunnels may connect there."""
        found = self._records.get(endpoint)
        return BreakerState.CLOSED if found is None else found.state

    def not_closed(self) -> dict[str, Breaker]:
        """The breakers that hold tunnels back, by endpoint."""
        found = self._records.items()
        return {name: each for name, each in found if each.state is not BreakerState.CLOSED}

    def learn(self, endpoint: str, fact: Fact, tunnel: str, now: float) -> BreakerState:
        """Tell a breaker what has become of an attempt, or that a probe may begin.

        Args:
            endpoint: whose breaker.
            fact: what is known; `FAILED_TOO_OFTEN` is found out here.
            tunnel: which one tried.
            now: seconds.

        Returns:
            Its state from now on.
        """
        breaker = self._records.get(endpoint)
        if breaker is None:
            if fact is not Fact.FAILED or not self._has_room():
                return BreakerState.CLOSED
            breaker = self._records[endpoint] = Breaker()
        self._records.move_to_end(endpoint)
        if (
            fact is Fact.FAILED
            and breaker.state is BreakerState.CLOSED
            and len(breaker.tunnels | {tunnel}) >= BREAKER_FAILURES
        ):
            fact = Fact.FAILED_TOO_OFTEN
            self.openings += 1
        before = breaker.state
        breaker.learn(fact, tunnel, now, self._rng)
        self.changes += breaker.state is not before
        if breaker.state is BreakerState.CLOSED and not breaker.tunnels:
            del self._records[endpoint]
        return breaker.state

    def forget(self, endpoint: str) -> None:
        """Nobody has asked for the endpoint for long: it is as one that was never heard of."""
        self._records.pop(endpoint, None)
        self.changes += 1

    def _has_room(self) -> bool:
        """Whether one more can be remembered; forgets an old one that holds nobody back."""
        if len(self._records) < MAX_ENDPOINTS:
            return True
        for endpoint, breaker in islice(self._records.items(), SEARCHED):
            if breaker.state is BreakerState.CLOSED:
                del self._records[endpoint]
                return True
        return False


SHOWN_ENDPOINTS = 5
EXPIRED = "the time for which connects were allowed is over, and nobody has renewed it"


class BreakerStatus(NamedTuple):
    """An endpoint to which tunnels may not connect freely.

    `openings` is how often in a row its breaker has opened, `due_at` when the next tunnel may try,
    in seconds of `time.monotonic`.
    """

    endpoint: str
    state: BreakerState
    openings: int
    due_at: float


class _Opening(NamedTuple):
    """What holds at present: an empty reason allows connects, until a time or for good."""

    reason: str = ""
    until: float | None = None


@dataclass(slots=True)
class ConnectStats:
    """How the connects of a runtime are.

    Attributes:
        waiting: how many tunnels wait for their turn.
        held_back: how many wait because their endpoint is down.
        under_way: how many have a permit.
        granted: permits so far.
        called_back: permits that were called back, by cause: hung, suspended.
        breaker_openings: how often the breaker of an endpoint has opened.
        breakers: the endpoints that are down.
        suspended: why nobody may connect; empty if they may.
    """

    waiting: int = 0
    held_back: int = 0
    under_way: int = 0
    granted: int = 0
    called_back: dict[str, int] = field(default_factory=dict)
    breaker_openings: int = 0
    breakers: tuple[BreakerStatus, ...] = ()
    suspended: str = ""

    def __str__(self) -> str:
        parts = [f"connects: {self.waiting} wait, {self.under_way} under way"]
        if self.suspended:
            parts.append(f"suspended: {self.suspended}")
        if self.breakers:
            names = [each.endpoint for each in self.breakers[:SHOWN_ENDPOINTS]]
            more = "" if len(self.breakers) <= SHOWN_ENDPOINTS else " and others"
            parts.append(f"down: {', '.join(names)}{more} ({self.held_back} held back)")
        return "; ".join(parts)


class ConnectGate:
    """Open, closed, or open until a time.

    Args:
        clock: seconds; one that goes on while the process is frozen.
    """

    def __init__(self, clock: Callable[[], float] = boot_seconds) -> None:
        self._clock = clock
        self._opening = _Opening()
        self.stats = ConnectStats()
        """What the governor counts; only it writes this."""
        self.rate_per_second: float | None = None
        """Of connects, in place of the one that the governor was given; None for that one."""
        self.had_governor = False
        """Whether one has been started, which may have granted permits that the next knows not."""

    def snapshot(self) -> ConnectStats:
        """A copy of it, with the suspension of this moment."""
        stats = self.stats
        return replace(stats, called_back=stats.called_back.copy(), suspended=self.closed_because)

    def why_waiting(self, endpoint: str) -> str:
        """Why a tunnel that has not tried yet waits: for people; empty if it is only not its turn.

        Args:
            endpoint: where it connects to.
        """
        if reason := self.closed_because:
            return f"connects are suspended: {reason}"
        if any(each.endpoint == endpoint for each in self.stats.breakers):
            return f"{endpoint} is down: its tunnels wait, and one at a time tries it"
        return ""

    def suspend(self, reason: str) -> None:
        """Allow no connect.

        Args:
            reason: for people.
        """
        self._opening = _Opening(printable(reason, MAX_REASON_CHARACTERS) or "suspended")

    def resume(self, valid_seconds: float | None = None) -> None:
        """Allow connects.

        Args:
            valid_seconds: for how long; None for good.
        """
        until = None if valid_seconds is None else self._clock() + valid_seconds
        self._opening = _Opening(until=until)

    @property
    def closed_because(self) -> str:
        """Why no connect is allowed at this moment; empty if they are."""
        opening = self._opening
        if opening.until is not None and self._clock() >= opening.until:
            return EXPIRED
        return opening.reason

    @property
    def left_seconds(self) -> float | None:
        """For how long connects are still allowed; None if no time is set."""
        until = self._opening.until
        return None if until is None else max(0.0, until - self._clock())
