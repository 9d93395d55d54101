"""A message to oneself after a delay.

Owns the handle given out by `DispatchedActor.schedule`. Must not know what actors do with messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from .cell import ActorCell


MAX_DELAY_SECONDS = 1e8
"""Three years: event loops take no infinity."""


class Timer:
    """A scheduled message. It belongs to its actor and dies with it."""

    __slots__ = ("_cell", "_handle", "message")

    def __init__(self, cell: ActorCell, delay_seconds: float, message: Any) -> None:
        self.message = message
        self._cell: ActorCell | None = cell
        dispatcher = cell.dispatcher
        self._handle: asyncio.TimerHandle | None = dispatcher.loop.call_later(
            min(max(0.0, delay_seconds), MAX_DELAY_SECONDS),
            _fire,
            self,
            context=dispatcher.timer_context,
        )

    @property
    def active(self) -> bool:
        """Whether the message is still to be handled."""
        return self._cell is not None

    def cancel(self) -> None:
        """Cancel: the message is not handled, even if the time is up and it is in the mailbox.

        Call it in a turn of the owning actor. A second call does nothing.
        """
        cell, handle = self._cell, self._handle
        if cell is not None and handle is not None:
            handle.cancel()
            if cell.timers is not None:
                cell.timers.discard(self)
            self.expire()

    def expire(self) -> None:
        """Mark the timer as over, whatever way it went; the kernel calls this."""
        self._cell = None
        # A handle keeps its arguments, this timer for one, after it has run.
        self._handle = None


def _fire(timer: Timer) -> None:
    # A function, not a method of the dispatcher: each timer would keep a bound one of its own.
    cell = timer._cell  # noqa: SLF001
    assert cell is not None
    cell.dispatcher.timer_fired(cell, timer)
