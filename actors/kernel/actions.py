"""What a supervision asks of its supervisor: the actions, one class each.

Owns their names and what they carry. What follows from each is said where it is carried out
(`supervisor`), and when it is asked for where that is decided (`supervision`).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pykka import ActorRef

if TYPE_CHECKING:
    from .children import Child
    from .futures import Reply
    from .supervisor_messages import ChildStartError
    from .watch import ExitReason


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
