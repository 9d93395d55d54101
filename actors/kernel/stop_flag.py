"""What pykka's `actor_stopped` is for a dispatched actor. Must not know how an actor ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cell import ActorCell


class StopFlag:
    """What `actor_stopped` is for a dispatched actor: a `threading.Event` made when waited for."""

    __slots__ = ("_cell",)

    def __init__(self, cell: ActorCell) -> None:
        self._cell = cell

    def is_set(self) -> bool:
        """Whether the actor has ended."""
        return self._cell.ended

    def set(self) -> None:
        """End the actor without `on_stop`, as setting pykka's event does."""
        self._cell.kill()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the actor has ended, at most `timeout` seconds; return whether it has."""
        return self._cell.wait_ended(timeout)
