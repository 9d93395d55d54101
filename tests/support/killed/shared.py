"""Cases that share a rig: what is done around each one, whatever the rig is.

A rig that takes long to make serves all cases of a file: it begins each one with what must not
notice, and looks afterwards that all is as it was.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tests.support.killed.killing import Kill, Moment, failed
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pykka import ActorRef

    from tunnelfleet.actors.kernel import DispatchedActor, Dispatcher


@dataclass(frozen=True)
class SharedCase:
    """One class at one message.

    Attributes:
        actor: the class.
        message: the type of the message.
        do: makes it come; called with the rig and this.
        others: classes that fail besides, since `do` makes them.
        cuts: the connection beside it is cut as well, by a reset.
        is_slow: processes have to be started again: not tried each time.
    """

    actor: type[DispatchedActor]
    message: type
    do: Callable[[Any, SharedCase], object]
    others: tuple[str, ...] = ()
    cuts: bool = False
    is_slow: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.actor.__name__}-{self.message.__name__.strip('_')}"


class SharedRig(Protocol):
    """What serves the cases of a file."""

    @property
    def dispatchers(self) -> Collection[Dispatcher]:
        """Those of the actors that may be killed."""

    @property
    def spared(self) -> Collection[ActorRef[Any]]:
        """The actors that are not killed: those of what must not notice."""

    def begin(self) -> None:
        """Make what must not notice."""

    def check(self, case: SharedCase) -> None:
        """All is as it was."""


def kill_in(rig: SharedRig, case: SharedCase, moment: Moment) -> None:
    """Kill the actor of a case, and look at what is so afterwards."""
    rig.begin()
    before = failed(rig.dispatchers)
    with Kill(case.actor, case.message, moment, spares=rig.spared) as kill:
        case.do(rig, case)
        kill.wait()
        victim = kill.victim
        assert victim is not None
        eventually(lambda: not victim.is_alive(), f"the end of {victim}")
    rig.check(case)
    expected = Counter((case.actor.__name__, *case.others))
    eventually(
        lambda: failed(rig.dispatchers) - before == expected,
        f"{expected} to have failed, not {failed(rig.dispatchers) - before}",
    )


def refs_beside(
    refs: Collection[ActorRef[Any]], spared: Collection[ActorRef[Any]]
) -> ActorRef[Any]:
    """The one of these that is not spared."""
    (found,) = [each for each in refs if each not in spared]
    return found
