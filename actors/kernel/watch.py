"""Death watch: why an actor ended, and who is told.

Owns the reasons for which actors end, the notice of it, the sets of watchers, and the mix-in with
which a host's ThreadingActor takes part: pykka does not tell how one ended. Must not know
supervisors.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

from pykka import ActorDeadError, ActorRef, ThreadingActor

from .compat import actor_of

if TYPE_CHECKING:
    from .context import CellLike


class ExitKind(Enum):
    """The ways in which an actor ends."""

    NORMAL = "normal"
    """It called `exit()` because its work is done."""
    SHUTDOWN = "shutdown"
    """It was asked to stop and has stopped."""
    KILLED = "killed"
    """It was killed, or its dispatcher was stopped; no hook of it ran."""
    FAILED = "failed"
    """An exception ended it."""
    NOPROC = "noproc"
    """It had already ended when the watch began."""


REASON_TEXT_LIMIT: Final = 300
"""Longest text, in characters, that `str()` of a reason takes from an exception."""


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


class Ended(NamedTuple):
    """Death notice; becomes `Terminated` unless the actor has stopped watching meanwhile."""

    ref: ActorRef[Any]
    reason: ExitReason


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
    actor: Watchable | None = actor_of(target)
    return actor


def _cell_of(ref: ActorRef[Any]) -> CellLike | None:
    """Return the cell of a dispatched actor's ref, None of any other."""
    return getattr(ref, "cell", None)


class _Watchers:
    """Who watches one actor; shared by threads."""

    __slots__ = ("lock", "reason", "told", "watchers")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.watchers: set[ActorRef[Any]] = set()
        self.reason: ExitReason | None = None
        self.told = False


_making_watchers = threading.Lock()


class TerminationReporter(ThreadingActor):
    """Mix-in for a ThreadingActor that a dispatched actor is to watch or supervise.

    Put it before `ThreadingActor` among the bases:

        class Camera(TerminationReporter, pykka.ThreadingActor): ...

    Its watchers are told once, when its thread is through: `SHUTDOWN` after a stop, else `FAILED`.
    The rules for failures stay pykka's own: an exception under `ask` does not end it, and a
    BaseException makes pykka stop every actor in the registry.

    With the mix-in it can also watch others, and gets `Terminated` in its `on_receive`.
    """

    _termination_watchers: _Watchers | None = None

    def watch(self, ref: ActorRef[Any]) -> None:
        """Have `Terminated(ref, reason)` sent to this actor once, when the other has ended.

        Raises:
            TypeError: the other is a ThreadingActor without this mix-in.
        """
        start_watching(ref, self.actor_ref)

    def unwatch(self, ref: ActorRef[Any]) -> None:
        """Undo `watch`. A message that is in the inbox already is still handled."""
        stop_watching(ref, self.actor_ref)

    def add_watcher(self, watcher: ActorRef[Any]) -> bool:
        """Tell `watcher` when this actor has ended; return False if it has. Any thread."""
        watchers = self._watchers()
        with watchers.lock:
            if watchers.told:
                return False
            watchers.watchers.add(watcher)
            return True

    def remove_watcher(self, watcher: ActorRef[Any]) -> None:
        """Undo `add_watcher`. Any thread."""
        watchers = self._watchers()
        with watchers.lock:
            watchers.watchers.discard(watcher)

    def _watchers(self) -> _Watchers:
        # Made when first needed, as a host's constructor may not call this class's.
        with _making_watchers:
            if self._termination_watchers is None:
                self._termination_watchers = _Watchers()
            return self._termination_watchers

    def _handle_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exception_value is not None:
            self._watchers().reason = ExitReason.failed(exception_value)
        super()._handle_failure(exception_type, exception_value, traceback)

    def _stop(self) -> None:
        fatal = sys.exc_info()[1]
        watchers = self._watchers()
        watchers.reason = SHUTDOWN if fatal is None else ExitReason.failed(fatal)
        super()._stop()
        if fatal is not None:
            # pykka now stops every actor and waits for them, our watchers perhaps: tell them first.
            self._tell_watchers()

    def _actor_loop(self) -> None:
        watchers = self._watchers()
        try:
            super()._actor_loop()
        except BaseException as exception:
            watchers.reason = ExitReason.failed(exception)
            self.actor_stopped.set()
            raise
        finally:
            self._tell_watchers()

    def _tell_watchers(self) -> None:
        watchers = self._watchers()
        with watchers.lock:
            if watchers.told:
                return
            watchers.told = True
            told = list(watchers.watchers)
        for watcher in told:
            tell_terminated(watcher, self.actor_ref, watchers.reason or KILLED)
