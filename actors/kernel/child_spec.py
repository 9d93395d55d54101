"""What a supervisor is told about its children, and what it tells about them. Pure data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from .backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka import ActorRef

    from .reasons import ExitReason


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
    """The same for what has to be called."""
    value = getattr(owner, name, None)
    if not callable(value):
        msg = f"{type(owner).__name__}: {name} must be a function, not {type(value).__name__}"
        raise TypeError(msg)


class Strategy(Enum):
    """Who is restarted when a child has to be; OTP's names."""

    ONE_FOR_ONE = "one_for_one"
    """That child alone."""
    ONE_FOR_ALL = "one_for_all"
    """All children."""
    REST_FOR_ONE = "rest_for_one"
    """That child and those that were started after it."""


class Restart(Enum):
    """When a child that ended by itself is restarted; OTP's names."""

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
    """Given all the time it takes; usual for supervisors."""


class AutoShutdown(Enum):
    """Whether a supervisor stops when children that matter have ended by themselves."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


class ChildState(Enum):
    """Where a child stands."""

    RUNNING = "running"
    WAITING = "waiting"
    """Down; to be restarted after a delay."""
    QUARANTINED = "quarantined"
    """Down after too many failures in a row; retried at the longest delay or on command."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """Down; restarted on command only, or with its siblings."""


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
