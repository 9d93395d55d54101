"""What supervisors are asked and told, what they answer with, and what a supervision decides.

A message with a field of another type raises `TypeError` in whoever makes it. Asked, a refused
command raises a SupervisorError at the asker; told, it is logged; the supervisor lives on. The
actions at the end are what the pure core (`supervision`) has its shell (`supervisor`) do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pykka import ActorRef

from .children import ChildSpec, require

if TYPE_CHECKING:
    from .children import Child, ChildState
    from .mailbox import Reply
    from .watch import ExitReason


@dataclass(frozen=True, slots=True)
class StartChild:
    """Add a child and start it, after the others.

    Answers its ref. If it cannot be started: with a backoff it is kept and retried, and the answer
    is None; without one it is not kept, and the answer is `ChildStartError`.
    """

    spec: ChildSpec

    def __post_init__(self) -> None:
        require(self, "spec", ChildSpec)


@dataclass(frozen=True, slots=True)
class StopChild:
    """Stop a child and keep it stopped (a temporary one is forgotten). Answers when it has ended.

    As in OTP, a stopped child is started again with its siblings when a strategy restarts them.
    """

    id: str

    def __post_init__(self) -> None:
        require(self, "id", str)


@dataclass(frozen=True, slots=True)
class RestartChild:
    """Start a child that is down, at once: stopped, waiting or in quarantine.

    Its failures so far are forgotten. Answers its ref, or as `StartChild` does if that fails.
    """

    id: str

    def __post_init__(self) -> None:
        require(self, "id", str)


@dataclass(frozen=True, slots=True)
class DeleteChild:
    """Forget a child that is stopped."""

    id: str

    def __post_init__(self) -> None:
        require(self, "id", str)


@dataclass(frozen=True, slots=True)
class WhichChildren:
    """Answers a list of `ChildInfo`, in the order of their start."""


@dataclass(frozen=True, slots=True)
class CountChildren:
    """Answers `ChildCounts`."""


@dataclass(frozen=True, slots=True)
class ChildReady:
    """A child, whose spec says `reports_ready`, works from now on; its stable time begins."""

    ref: ActorRef[Any]

    def __post_init__(self) -> None:
        require(self, "ref", ActorRef)


class SupervisorError(Exception):
    """Base of what a supervisor raises at its askers, and of what ends it."""


class ChildStartError(SupervisorError):
    """A child could not be started.

    Args:
        id: of the child.
        reason: what its start raised; also the `__cause__`.
    """

    def __init__(self, id: str, reason: ExitReason) -> None:  # noqa: A002 - the field's name
        super().__init__(id, reason)
        self.id = id
        self.reason = reason
        self.__cause__ = reason.exception

    def __str__(self) -> str:
        return f"child {self.id!r} could not be started: {self.reason}"


class RestartIntensityExceeded(SupervisorError):  # noqa: N818 - says what happened
    """The children ended too often; the supervisor gave up.

    Args:
        id: of the child whose end was one too many.
        reason: why it ended.
        max_restarts: how many restarts were allowed.
        period_seconds: in which time.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - the field's name
        reason: ExitReason,
        max_restarts: int,
        period_seconds: float,
    ) -> None:
        super().__init__(id, reason, max_restarts, period_seconds)
        self.id = id
        self.reason = reason
        self.max_restarts = max_restarts
        self.period_seconds = period_seconds

    def __str__(self) -> str:
        return (
            f"more than {self.max_restarts} restarts in {self.period_seconds:g} s; "
            f"the last to end was child {self.id!r}: {self.reason}"
        )


class UnknownChildError(SupervisorError):
    """No child has this id."""

    def __init__(self, id: str) -> None:  # noqa: A002 - the field's name
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return f"there is no child {self.id!r}"


class ChildExistsError(SupervisorError):
    """A child has this id already."""

    def __init__(self, id: str) -> None:  # noqa: A002 - the field's name
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return f"there already is a child {self.id!r}: stop and delete it, or restart it"


class ChildBusyError(SupervisorError):
    """The child is in a state in which the command makes no sense."""

    def __init__(self, id: str, state: ChildState) -> None:  # noqa: A002 - the field's name
        super().__init__(id, state)
        self.id = id
        self.state = state

    def __str__(self) -> str:
        return f"child {self.id!r} is {self.state.value}: stop it first"


class SupervisorStoppingError(SupervisorError):
    """The supervisor stops and starts nothing any more."""

    def __str__(self) -> str:
        return "the supervisor is stopping and starts no children any more"


class StartKind(Enum):
    """Why a child is started, which says what follows when that fails."""

    BEGIN = auto()
    """The supervisor starts, and its children one after the other."""
    GROUP = auto()
    """It is restarted with others, one after the other."""
    ALONE = auto()
    """It is restarted, and its siblings are not concerned."""
    ADDED = auto()
    """By command; if that fails for good it is forgotten."""
    COMMANDED = auto()
    """By command; it was there before."""

    @property
    def is_restart(self) -> bool:
        """Whether it ran before."""
        return self in (StartKind.GROUP, StartKind.ALONE, StartKind.COMMANDED)


class StartNow(NamedTuple):
    """Start a child, and say what became of it."""

    child: Child
    kind: StartKind


class AskToStop(NamedTuple):
    """Ask a child to stop, and say so when it has not after so many seconds; None: never."""

    child: Child
    deadline_seconds: float | None


class Force(NamedTuple):
    """End a child that has had its time to stop."""

    child: Child


class RestartAfter(NamedTuple):
    """Say so after some seconds: a child is due."""

    child: Child
    seconds: float


class CancelTimer(NamedTuple):
    """Of its restart, or of its deadline."""

    child: Child


class GroupAfter(NamedTuple):
    """Say so after some seconds: a delay of the group is over."""

    seconds: float


class CancelGroupTimers(NamedTuple):
    """The group is due now, or is not restarted."""


class StopOnTurn(NamedTuple):
    """Say in a later turn that the next child may be asked to stop."""


class ExitNow(NamedTuple):
    """All children are down: end."""

    reason: ExitReason


class Settle(NamedTuple):
    """Answer a command with a value or, if there is one, an error."""

    reply: Reply
    value: Any = None
    error: Exception | None = None


class NoteStarted(NamedTuple):
    """A child runs."""

    child: Child
    ref: ActorRef[Any]
    is_restart: bool


class NoteFailedStart(NamedTuple):
    """A child could not be started."""

    error: ChildStartError


class NoteEnded(NamedTuple):
    """A child has ended."""

    child: Child
    ref: ActorRef[Any]
    reason: ExitReason


class NoteWaiting(NamedTuple):
    """A child will be restarted after a delay."""

    child: Child
    seconds: float


class NoteQuarantined(NamedTuple):
    """A child failed too often in a row, or again in quarantine."""

    child: Child
    reason: ExitReason


class NoteGivingUp(NamedTuple):
    """The supervisor ends as failed."""

    reason: ExitReason


Action: TypeAlias = (
    StartNow
    | AskToStop
    | Force
    | RestartAfter
    | CancelTimer
    | GroupAfter
    | CancelGroupTimers
    | StopOnTurn
    | ExitNow
    | Settle
    | NoteStarted
    | NoteFailedStart
    | NoteEnded
    | NoteWaiting
    | NoteQuarantined
    | NoteGivingUp
)
