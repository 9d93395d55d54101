"""Why an actor ended, and the message that says so to whoever watches it.

Pure data; must not know actors or dispatchers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from pykka import ActorRef

REASON_TEXT_LIMIT: Final = 300
"""Longest text, in characters, that `str()` of a reason takes from an exception."""


class ExitKind(Enum):
    """The ways in which an actor ends."""

    NORMAL = "normal"
    """It called `exit()`: its work is done."""
    SHUTDOWN = "shutdown"
    """It was asked to stop, and did."""
    KILLED = "killed"
    """It was killed, or its dispatcher was stopped; no hook of it ran."""
    FAILED = "failed"
    """An exception ended it."""
    NOPROC = "noproc"
    """It had already ended when the watch began."""


@dataclass(frozen=True, slots=True)
class ExitReason:
    """Why an actor ended.

    Args:
        kind: in which way.
        exception: the one that ended it; only with `ExitKind.FAILED`.
    """

    kind: ExitKind
    exception: BaseException | None = None

    @classmethod
    def failed(cls, exception: BaseException) -> ExitReason:
        """Return the reason of an actor that `exception` ended."""
        return cls(ExitKind.FAILED, exception)

    @property
    def is_failure(self) -> bool:
        """Whether an exception ended the actor."""
        return self.kind is ExitKind.FAILED

    @property
    def is_normal(self) -> bool:
        """Whether a transient child that ended so stays down: `NORMAL` or `SHUTDOWN`."""
        return self.kind is ExitKind.NORMAL or self.kind is ExitKind.SHUTDOWN

    def __str__(self) -> str:
        if self.exception is None:
            return self.kind.value
        try:
            text = " ".join(str(self.exception).split())[:REASON_TEXT_LIMIT]
        except Exception:  # noqa: BLE001 - an exception of a host's, whatever its text does
            text = "(its text cannot be read)"
        name = type(self.exception).__name__
        return f"{self.kind.value}: {name}: {text}" if text else f"{self.kind.value}: {name}"


NORMAL: Final = ExitReason(ExitKind.NORMAL)
SHUTDOWN: Final = ExitReason(ExitKind.SHUTDOWN)
KILLED: Final = ExitReason(ExitKind.KILLED)
NOPROC: Final = ExitReason(ExitKind.NOPROC)


class Terminated(NamedTuple):
    """A watched actor has ended; told once to each watcher.

    Args:
        ref: the ref that was given to `watch`.
        reason: why it ended.
    """

    ref: ActorRef[Any]
    reason: ExitReason
