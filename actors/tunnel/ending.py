"""How a tunnel ends in good order: it drains, or it stops (docs/architecture.md section 4).

Pure: owns how far the end has come and who is to be told. What follows from it is TunnelActor's.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pykka import ActorRef

    from .messages import Quiesce


class EndingPhase(Enum):
    """How far the end of a tunnel has come; it only goes forward."""

    RUNNING = auto()
    DRAINING = auto()
    """It takes no new connection, and is over when the last one has ended."""
    STOPPING = auto()
    """Nothing more is read; what was read is sent, for as long as the request allows."""


class Ending:
    """The end of one tunnel."""

    __slots__ = ("_asker", "phase")

    def __init__(self) -> None:
        self.phase = EndingPhase.RUNNING
        self._asker: ActorRef[Any] | None = None

    @property
    def is_running(self) -> bool:
        """Whether no end was asked for."""
        return self.phase is EndingPhase.RUNNING

    def drain(self) -> bool:
        """Begin to drain; return False if the end has begun already."""
        if self.phase is not EndingPhase.RUNNING:
            return False
        self.phase = EndingPhase.DRAINING
        return True

    def stop(self, request: Quiesce) -> bool:
        """Begin to stop, whether it drains or not; return False if it stops already."""
        if self.phase is EndingPhase.STOPPING:
            return False
        self.phase = EndingPhase.STOPPING
        self._asker = request.reply_to
        return True

    @property
    def asker(self) -> ActorRef[Any] | None:
        """Who waits to hear that the tunnel has stopped; None if it was told to drain alone."""
        return self._asker
