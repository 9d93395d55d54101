"""Answering an ask later than the handler's return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .futures import resolve, resolve_exception

if TYPE_CHECKING:
    from pykka import Future

    from .cell import ActorCell


class Reply:
    """The answer to an ask, given later than the handler's return.

    Obtained from `DispatchedActor.defer_reply`. An actor that ends without answering answers
    `ActorDeadError`. For a message that was told, not asked, answering does nothing.
    """

    __slots__ = ("_cell", "_future")

    def __init__(self, cell: ActorCell, future: Future[Any] | None) -> None:
        self._cell = cell
        self._future = future

    @property
    def is_wanted(self) -> bool:
        """Whether somebody asked, and has no answer yet."""
        return self._future is not None

    def set(self, value: Any = None) -> None:
        """Answer with a value; only the first answer counts."""
        future = self._take()
        if future is not None:
            resolve(future, value)

    def fail(self, exception: BaseException) -> None:
        """Let the asker's `get()` raise `exception`; the answering actor lives on."""
        future = self._take()
        if future is not None:
            resolve_exception(future, exception)

    def _take(self) -> Future[Any] | None:
        future, self._future = self._future, None
        if self._cell.replies is not None:
            self._cell.replies.discard(self)
        return future
