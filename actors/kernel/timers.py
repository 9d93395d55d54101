"""A message to oneself after a delay.

Owns the handle given out by `DispatchedActor.schedule`. Must not know what actors do with messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from .cell import ActorCell


class Timer:
    """A scheduled message. It belongs to its actor and dies with it."""

    __slots__ = ("_cell", "_handle", "message")

    def __init__(self, cell: ActorCell, delay_seconds: float, message: Any) -> None:
        self.message = message
        self._cell: ActorCell | None = cell
        self._handle: asyncio.TimerHandle = cell.dispatcher.loop.call_later(
            max(0.0, delay_seconds), cell.dispatcher.timer_fired, cell, self
        )

    @property
    def active(self) -> bool:
        """Whether the message is still to be handled."""
        return self._cell is not None

    def cancel(self) -> None:
        """Cancel: the message is not handled, even if the time is up and it is in the mailbox.

        Call it in a turn of the owning actor. A second call does nothing.
        """
        if self._cell is not None:
            self._handle.cancel()
            if self._cell.timers is not None:
                self._cell.timers.discard(self)
            self.expire()

    def expire(self) -> None:
        """Mark the timer as over, whatever way it went; the kernel calls this."""
        self._cell = None
