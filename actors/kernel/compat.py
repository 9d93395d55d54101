"""What the kernel takes of pykka that pykka does not promise.

Owns every use of a private name of pykka in `actors`, so that a new version is checked in one
place: here and by the tests of this file. Checked against pykka 4.5.0; pyproject.toml allows 4.5
only. A dispatched actor needs these because it lives where pykka's own threads would:

- `Envelope` is what an ask puts into an inbox, and what a ThreadingActor expects there;
- `ActorStop` is the message by which `ActorRef.stop` of pykka asks an actor to stop;
- `actor_of` and `ProxiedRef` are how a proxy finds the actor that a ref stands for.

Beside these, `DispatchedActor` fills in the hooks that `pykka.Actor` leaves to new types of actors
(`_create_actor_inbox`, `_create_future`, `_start_actor_loop`) and sets `_actor_ref`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pykka import Actor, ActorRef
from pykka._envelope import Envelope
from pykka.messages import _ActorStop as ActorStop

if TYPE_CHECKING:
    # An alias is how a type checker knows that a name may be taken from here.
    from pykka._actor import ActorInbox as ActorInbox  # noqa: PLC0414
    from pykka._future import GetHookFunc as GetHookFunc  # noqa: PLC0414
    from pykka._types import OptExcInfo as OptExcInfo  # noqa: PLC0414

__all__ = ["ActorStop", "Envelope", "ProxiedRef", "actor_of"]


def actor_of(ref: ActorRef[Any]) -> Any:
    """Return the actor behind a ref of pykka's own, or None when it is gone."""
    return ref._actor_weakref()  # noqa: SLF001


A = TypeVar("A", bound=Actor)


class ProxiedRef(ActorRef[A]):
    """A ref whose actor pykka's proxies find by asking `held_actor`."""

    __slots__ = ()

    def held_actor(self) -> A | None:
        """Return the actor; None once it has ended."""
        raise NotImplementedError

    def _actor_weakref(self) -> A | None:  # type: ignore[override]
        return self.held_actor()
