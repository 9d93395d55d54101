"""A supervisor's children: how each is started and restarted, and its present run.

Owns the child spec in OTP's terms, the delay before a restart (exponential, capped first and then
jittered), and what a supervisor remembers of a child. Pure; the time is an argument.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from pykka import ActorRef

if TYPE_CHECKING:
    from .loop_io import Timer
    from .mailbox import Reply
    from .watch import ExitReason


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays, capped first and then jittered over the full range.

    Args:
        min_seconds: ceiling of the first delay.
        max_seconds: ceiling of all delays, and the interval of retries in quarantine.
        factor: by which the ceiling grows from one failure to the next.
        stability_seconds: a child that stays up so long has recovered: its next failure is a first.

    Raises:
        TypeError: one is no number.
        ValueError: the numbers make no sense together.
    """

    min_seconds: float = 1.0
    max_seconds: float = 120.0
    factor: float = 2.0
    stability_seconds: float = 30.0

    def __post_init__(self) -> None:
        numbers = self.min_seconds, self.max_seconds, self.factor, self.stability_seconds
        if not all(math.isfinite(number) for number in numbers):
            msg = f"backoff needs finite numbers, not {numbers}"
            raise ValueError(msg)
        if not 0 < self.min_seconds <= self.max_seconds:
            msg = (
                "backoff needs 0 < min_seconds <= max_seconds, "
                f"not {self.min_seconds} and {self.max_seconds}"
            )
            raise ValueError(msg)
        if self.factor < 1 or self.stability_seconds < 0:
            msg = (
                "backoff needs factor >= 1 and stability_seconds >= 0, "
                f"not {self.factor} and {self.stability_seconds}"
            )
            raise ValueError(msg)

    def ceiling(self, attempt: int) -> float:
        """Return the longest delay, in seconds, before retry `attempt`; the first is 0."""
        try:
            return min(self.max_seconds, self.min_seconds * self.factor**attempt)
        except OverflowError:
            return self.max_seconds

    def delay(self, attempt: int, rng: random.Random) -> float:
        """Return the delay, in seconds, before retry `attempt`: any value up to its ceiling."""
        return rng.uniform(0.0, self.ceiling(attempt))


class BackoffState:
    """Where one child stands in its backoff.

    Args:
        policy: the delays.
    """

    __slots__ = ("failures", "policy")

    def __init__(self, policy: Backoff) -> None:
        self.policy = policy
        self.failures = 0
        """Consecutive failures without having been stable in between."""

    def record_failure(self, up_seconds: float) -> None:
        """Count a failure of a child that had been up for `up_seconds`, 0 if it never was."""
        if up_seconds >= self.policy.stability_seconds and up_seconds > 0:
            self.failures = 0
        self.failures += 1

    def next_delay(self, rng: random.Random) -> float:
        """Return the delay in seconds that follows the recorded failures."""
        return self.policy.delay(max(0, self.failures - 1), rng)

    def reset(self) -> None:
        """Forget all failures."""
        self.failures = 0


def require(owner: object, name: str, *types: type, optional: bool = False) -> None:
    """Check the type of an attribute where the object is made.

    Args:
        owner: the object.
        name: of the attribute.
        *types: what it may be an instance of. A bool is no int here.
        optional: it may be None as well.

    Raises:
        TypeError: it is something else.
    """
    value = getattr(owner, name)
    if (optional and value is None) or (
        isinstance(value, types) and (bool in types or not isinstance(value, bool))
    ):
        return
    kinds = " or ".join([each.__name__ for each in types] + (["None"] if optional else []))
    msg = f"{type(owner).__name__}: {name} must be {kinds}, not {type(value).__name__}"
    raise TypeError(msg)


def require_callable(owner: object, name: str) -> None:
    """Check that an attribute can be called, where the object is made."""
    value = getattr(owner, name, None)
    if not callable(value):
        msg = f"{type(owner).__name__}: {name} must be a function, not {type(value).__name__}"
        raise TypeError(msg)


class Strategy(Enum):
    """Which children are restarted when one has to be. The names are OTP's."""

    ONE_FOR_ONE = "one_for_one"
    """That child alone."""
    ONE_FOR_ALL = "one_for_all"
    """All children."""
    REST_FOR_ONE = "rest_for_one"
    """That child and those that were started after it."""


class Restart(Enum):
    """Whether a child that ended by itself is restarted. The names are OTP's."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """Unless it ended `NORMAL` or `SHUTDOWN`."""
    TEMPORARY = "temporary"
    """Never, and its spec is forgotten when it ends."""


class Shutdown(Enum):
    """How a child is stopped, instead of a number of seconds to do so before it is killed."""

    BRUTAL_KILL = "brutal_kill"
    """Killed at once."""
    INFINITY = "infinity"
    """It gets all the time that it needs; usual for supervisors."""


class AutoShutdown(Enum):
    """Whether a supervisor stops when children that matter have ended by themselves."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


class ChildState(Enum):
    """The state of a child."""

    RUNNING = "running"
    WAITING = "waiting"
    """It is down and will be restarted after a delay."""
    QUARANTINED = "quarantined"
    """It is down after too many failures in a row: retried at the longest delay or on command."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """It is down and restarted only on command, or with its siblings."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to run one child.

    Args:
        id: its name, unique in its supervisor.
        start: starts the actor and returns its ref. Called in the supervisor's turn, so that a
            dispatched actor runs on the supervisor's dispatcher unless told otherwise. It must not
            block. If it raises, the start has failed. A ThreadingActor needs the
            `TerminationReporter` mix-in.
        restart: when it is restarted.
        shutdown: seconds from asking it to stop to killing it, or a `Shutdown`. Nothing can kill a
            ThreadingActor: it is abandoned, and counted.
        significant: its end may end the supervisor: see `AutoShutdown`.
        backoff: wait before restarts. Without it restarts are immediate and count toward the
            supervisor's intensity; with it they do not, as a delayed restart cannot storm.
        quarantine_after: failures in a row, none of them after a stable time, that put it into
            quarantine. Needs `backoff`.
        reports_ready: it is stable some time after its `ChildReady`, not after its start.
        independent: its siblings' order does not matter to it. Children in a row that are
            independent are asked to stop together, as OTP's simple_one_for_one does it, each with
            its own shutdown time; the others stop one after the other.

    Raises:
        TypeError: a value is of another type.
        ValueError: the values do not go together.
    """

    id: str
    start: Callable[[], ActorRef[Any]]
    restart: Restart = Restart.PERMANENT
    shutdown: float | Shutdown = 5.0
    significant: bool = False
    backoff: Backoff | None = None
    quarantine_after: int | None = None
    reports_ready: bool = False
    independent: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        if self.significant and self.restart is Restart.PERMANENT:
            msg = f"child {self.id!r}: a permanent child cannot be significant"
            raise ValueError(msg)
        if self.quarantine_after is not None and (
            self.backoff is None or self.quarantine_after < 1
        ):
            msg = f"child {self.id!r}: quarantine_after must be at least 1, and needs a backoff"
            raise ValueError(msg)
        seconds = self.shutdown
        if not isinstance(seconds, Shutdown) and not (math.isfinite(seconds) and seconds >= 0):
            msg = f"child {self.id!r}: shutdown must be seconds or a Shutdown, not {seconds!r}"
            raise ValueError(msg)

    def _check_types(self) -> None:
        require(self, "id", str)
        require(self, "restart", Restart)
        require(self, "shutdown", int, float, Shutdown)
        require(self, "backoff", Backoff, optional=True)
        require(self, "quarantine_after", int, optional=True)
        for name in ("significant", "reports_ready", "independent"):
            require(self, name, bool)
        require_callable(self, "start")


def require_spec(spec: object) -> None:
    """Raise `TypeError` unless it is a child spec."""
    if not isinstance(spec, ChildSpec):
        msg = f"a child spec is needed, not a {type(spec).__name__}"
        raise TypeError(msg)


class ChildInfo(NamedTuple):
    """One child, as `WhichChildren` tells.

    Args:
        id: of its spec.
        ref: None while it is down.
        state: where it stands.
        restarts: how often it was started again.
        last_reason: why it last ended, or failed to start; None if it never did.
    """

    id: str
    ref: ActorRef[Any] | None
    state: ChildState
    restarts: int
    last_reason: ExitReason | None


class ChildCounts(NamedTuple):
    """All children, as `CountChildren` tells: how many specs, and how many are in each state."""

    specs: int
    running: int
    waiting: int
    quarantined: int
    stopping: int
    stopped: int


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
        """The moment from which it counts as up, by the supervisor's clock."""
        self.timer: Timer | None = None
        """The timer of its restart while it is down, or of its deadline while it stops."""
        self.stop_requested = False
        self.stop_replies: tuple[Reply, ...] = ()
        self.start_replies: tuple[Reply, ...] = ()

    def __repr__(self) -> str:
        return f"<Child {self.spec.id!r} {self.state.value}>"

    @property
    def is_quarantined(self) -> bool:
        """Whether it has failed too often in a row."""
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
        delays: how many are not over.
    """

    __slots__ = ("delays", "members")

    def __init__(self, members: list[Child], delays: int = 0) -> None:
        self.members = members
        self.delays = delays

    def remove(self, child: Child) -> None:
        """Leave a child out, if it is in."""
        if child in self.members:
            self.members.remove(child)


class RestartIntensity:
    """Counts restarts, and says when there are too many in too short a time.

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
