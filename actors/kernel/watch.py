"""Death watch between any two pykka actors, whatever runs them.

Owns who can be watched and how a notice reaches its watcher. Must not know how an actor ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pykka import ActorDeadError

from .mail import Ended
from .reasons import NOPROC, ExitReason, Terminated

if TYPE_CHECKING:
    from pykka import ActorRef

    from .cell import ActorCell


@runtime_checkable
class Watchable(Protocol):
    """What can be watched: an actor's cell, or a ThreadingActor that reports its termination."""

    def add_watcher(self, watcher: ActorRef[Any]) -> bool:
        """Remember whom to tell; return False if the actor has already ended. Any thread."""
        ...

    def remove_watcher(self, watcher: ActorRef[Any]) -> None:
        """Undo `add_watcher`. Any thread."""
        ...


def start_watching(target: ActorRef[Any], watcher: ActorRef[Any]) -> None:
    """Let `watcher` be told `Terminated(target, reason)` once `target` has ended.

    Raises:
        TypeError: the target is a plain ThreadingActor, whose end nobody can see.
    """
    watchable = _watchable(target)
    if watchable is None or not watchable.add_watcher(watcher):
        tell_terminated(watcher, target, NOPROC)


def stop_watching(target: ActorRef[Any], watcher: ActorRef[Any]) -> None:
    """Undo `start_watching`."""
    watchable = _watchable(target)
    if watchable is not None:
        watchable.remove_watcher(watcher)


def tell_terminated(watcher: ActorRef[Any], target: ActorRef[Any], reason: ExitReason) -> None:
    """Deliver a death notice. A watcher that has ended itself does not get it."""
    cell = _cell_of(watcher)
    if cell is not None:
        cell.send(Ended(target, reason))
        return
    try:
        watcher.tell(Terminated(target, reason))
    except ActorDeadError:
        return


def _watchable(target: ActorRef[Any]) -> Watchable | None:
    cell = _cell_of(target)
    if cell is not None:
        return cell
    if not issubclass(target.actor_class, Watchable):
        msg = (
            f"{target.actor_class.__name__} cannot be watched: pykka does not tell when a "
            "ThreadingActor ends; add the TerminationReporter mix-in to its bases"
        )
        raise TypeError(msg)
    actor: Watchable | None = target._actor_weakref()  # noqa: SLF001
    return actor


def _cell_of(ref: ActorRef[Any]) -> ActorCell | None:
    """Return the cell of a dispatched actor's ref, None of any other."""
    return getattr(ref, "cell", None)
