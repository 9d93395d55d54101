"""What a mailbox holds besides users' messages. Pure data, of the kernel alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pykka._envelope import Envelope

from .timers import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka import ActorRef

    from .reasons import ExitReason


class Launch(NamedTuple):
    """Put a new actor, made on another thread, into the run queue."""


class Start(NamedTuple):
    """First item of every mailbox: run `on_start`."""


class Kill(NamedTuple):
    """End the actor now, without any hook."""


class Ended(NamedTuple):
    """Death notice; becomes `Terminated` unless the actor has stopped watching meanwhile."""

    ref: ActorRef[Any]
    reason: ExitReason


class Piped(NamedTuple):
    """A future that was given to `pipe_to_self` is resolved."""

    make_message: Callable[[Any], Any]
    future: Any
    discard: Callable[[Any], object] | None


LAUNCH: Final = Launch()
START: Final = Start()
KILL: Final = Kill()


def kind_of(item: Any) -> str:
    """Name the type of a message, or the method that a socket's readiness calls; no content."""
    if isinstance(item, Envelope | Timer):
        item = item.message
    name = getattr(item, "__name__", None)
    return name if isinstance(name, str) else type(item).__name__
