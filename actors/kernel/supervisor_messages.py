"""What may be asked or told of a supervisor, and the errors it answers with.

What cannot be meant is refused where it is made: a message with a field of another type raises
`TypeError` in whoever makes it.

Asked, a refused command raises one of the errors at the asker; the supervisor lives on. Told, it is
logged.

    SupervisorError
     |- ChildStartError            a child could not be started
     |- RestartIntensityExceeded   why a supervisor ended
     |- UnknownChildError
     |- ChildExistsError
     |- ChildBusyError             the command does not fit the child's state
     `- SupervisorStoppingError
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pykka import ActorRef

from .children import ChildSpec, require

if TYPE_CHECKING:
    from .children import ChildState
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
