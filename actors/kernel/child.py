"""A supervisor's book-keeping of one child and of restarts. Must not know strategies."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from .backoff import BackoffState
from .child_spec import ChildInfo, ChildState

if TYPE_CHECKING:
    from pykka import ActorRef

    from .child_spec import ChildSpec
    from .reasons import ExitReason
    from .reply import Reply
    from .timers import Timer


class Child:
    """One child of a supervisor."""

    __slots__ = (
        "backoff",
        "last_reason",
        "ref",
        "restarts",
        "spec",
        "start_replies",
        "state",
        "stop_replies",
        "stop_requested",
        "timer",
        "up_since",
    )

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.state = ChildState.STOPPED
        self.ref: ActorRef[Any] | None = None
        self.restarts = 0
        self.last_reason: ExitReason | None = None
        self.backoff = BackoffState(spec.backoff) if spec.backoff is not None else None
        self.up_since: float | None = None
        """Since when it counts as up, in the supervisor's clock."""
        self.timer: Timer | None = None
        """Its restart while it is down, its deadline while it stops."""
        self.stop_requested = False
        self.stop_replies: tuple[Reply, ...] = ()
        self.start_replies: tuple[Reply, ...] = ()

    def __repr__(self) -> str:
        return f"<Child {self.spec.id!r} {self.state.value}>"

    @property
    def is_quarantined(self) -> bool:
        """Whether its failures in a row are too many."""
        limit = self.spec.quarantine_after
        return self.backoff is not None and limit is not None and self.backoff.failures >= limit

    def cancel_timer(self) -> None:
        """Cancel its restart or its deadline."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def info(self) -> ChildInfo:
        """Describe it as it is now."""
        return ChildInfo(self.spec.id, self.ref, self.state, self.restarts, self.last_reason)


class GroupRestart:
    """Children that a strategy restarts together: once all are down and every delay is over.

    Args:
        members: in the order of their start.
    """

    __slots__ = ("members", "timers")

    def __init__(self, members: list[Child]) -> None:
        self.members = members
        self.timers: list[Timer] = []

    @property
    def is_due(self) -> bool:
        """Whether no delay is left."""
        return not any(timer.active for timer in self.timers)

    def make_due(self) -> None:
        """Cut the delays short."""
        for timer in self.timers:
            timer.cancel()

    def remove(self, child: Child) -> None:
        """Leave a child out, if it is in."""
        if child in self.members:
            self.members.remove(child)


class RestartIntensity:
    """Whether restarts come too thick.

    Args:
        max_restarts: allowed within the period.
        period_seconds: length of the sliding period.
    """

    __slots__ = ("_max_restarts", "_period_seconds", "_times")

    def __init__(self, max_restarts: int, period_seconds: float) -> None:
        self._max_restarts = max_restarts
        self._period_seconds = period_seconds
        self._times: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Count a restart at time `now`; return False if it is one too many."""
        self._times.append(now)
        while self._times[0] <= now - self._period_seconds:
            self._times.popleft()
        return len(self._times) <= self._max_restarts
