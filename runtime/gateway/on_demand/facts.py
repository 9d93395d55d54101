"""The words in which the plan of tunnels on demand is written: phases, facts, what is to be done.

Owns them as data. `plan` has the rules, the actor carries the actions out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

LEAD_SECONDS = 900.0
"""So long before a tunnel's end the next one is opened, or a quarter of a shorter life."""
LEAD_PART = 0.25
FIRST_LOOK_SECONDS = 0.5
"""From a look for a device to the next one, at first."""


class DemandPhase(Enum):
    """Where a tunnel on demand stands; see `plan`."""

    QUEUED = "queued"
    OPENING = "opening"
    AWAITED = "awaited"
    READY = "ready"
    RETIRING = "retiring"
    ENDING = "ending"


class AskOutcome(Enum):
    """What becomes of who asks."""

    READY = "ready"
    BEGUN = "begun"
    """A tunnel is opened for it."""
    JOINED = "joined"
    """It waits with others."""
    FAILED_BEFORE = "failed_before"
    FULL = "max_open"
    TOO_OFTEN = "max_opens_per_hour"


class FailKind(Enum):
    """How OpenTunnel has failed."""

    THROTTLED = "throttled"
    """It came too often, and has opened nothing; it is called again."""
    REFUSED = "refused"
    """It has opened nothing, and would not if it were called again at once."""
    UNKNOWN = "unknown"
    """It may have opened a tunnel."""


class EndCause(Enum):
    """Why a tunnel is closed; the label of the metric."""

    IDLE = "idle"
    LIFETIME = "lifetime"
    NO_DEVICE = "no_device"
    LOST = "lost"
    """Somebody else has closed it, or its token."""
    NOT_ALLOWED = "not_allowed"
    STOP = "stop"
    ABANDONED = "abandoned"
    """It was opened when nobody expected it any more."""


class AskVerdict(NamedTuple):
    """The answer to who asks: the tunnel if it is there, and a text for who is refused."""

    outcome: AskOutcome
    slot: str = ""
    text: str = ""


class SlotLook(NamedTuple):
    """A tunnel of the fleet as it is now.

    Attributes:
        runs: whether the fleet has it.
        is_connected: whether its link is up.
        is_down: whether it will not come back by itself.
        reason: why it is not connected, for people.
        connections: that are open.
    """

    runs: bool
    is_connected: bool = False
    is_down: bool = False
    reason: str = ""
    connections: int = 0


# -- what is to be done


class CallOpen(NamedTuple):
    """Call OpenTunnel for a thing; its tunnel here is to be called `slot`."""

    request: str
    name: str
    slot: str


class CallDescribe(NamedTuple):
    """Look whether the device is there."""

    request: str
    tunnel_id: str


class CallSearch(NamedTuple):
    """Look for a tunnel that OpenTunnel may have opened, and close it."""

    request: str


class LetGo(NamedTuple):
    """Have the tunnel take no new connections and end with the last one."""

    request: str
    slot: str


class CallClose(NamedTuple):
    """Call CloseTunnel."""

    request: str
    tunnel_id: str
    cause: EndCause


class Tell(NamedTuple):
    """Tell those who wait for a name: the tunnel that serves it, or why there is none."""

    name: str
    slot: str
    text: str = ""


Action = CallOpen | CallDescribe | CallSearch | LetGo | CallClose | Tell


@dataclass(slots=True)
class Demanded:
    """A tunnel on demand. Times are in seconds on the plan's clock.

    Attributes:
        request: tells it from all others, before it has an id.
        name: of the thing.
        slot: what it is called in the fleet.
        since: when it came into its phase.
        asked_at: when it was asked for.
        opened_at: when it was opened.
        ends_at: when the service ends it.
        used_at: when it was asked for, or had a connection, the last time.
        tunnel_id: of the service; empty before it is open.
        next_call_at: of DescribeTunnel or CloseTunnel.
        delay_seconds: to the call after that.
        is_calling: whether such a call is under way.
        cause: why it ends.
        is_adopted: whether an earlier life has opened it: that it is gone says nothing of the next.
    """

    request: str
    name: str
    slot: str
    phase: DemandPhase
    since: float
    asked_at: float = 0.0
    opened_at: float = 0.0
    ends_at: float = 0.0
    used_at: float = 0.0
    tunnel_id: str = ""
    next_call_at: float = 0.0
    delay_seconds: float = FIRST_LOOK_SECONDS
    is_calling: bool = False
    cause: EndCause = EndCause.IDLE
    is_adopted: bool = False

    @property
    def lead_seconds(self) -> float:
        """So long before its end the next one is opened."""
        return min(LEAD_SECONDS, LEAD_PART * (self.ends_at - self.opened_at))

    def enter(self, phase: DemandPhase, now: float) -> None:
        """Come into a phase."""
        self.phase, self.since = phase, now
        self.next_call_at, self.delay_seconds = now, FIRST_LOOK_SECONDS
        self.is_calling = False
