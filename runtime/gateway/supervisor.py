"""The actors of a gateway: the root, and which part of the fleet is ours.

    GatewaySupervisor           one_for_one; the only one in pykka's registry
     |- StoreActor              the audit; started first, so that it hears the last ends
     |- RuntimeSupervisor       the core; started before those that give it work
     |- PlacementActor          which shards are ours
     `- FleetActor              makes what runs what is wanted and ours

Owns how they are kept up, and how they find each other after one was started again. All restarts
wait a little, so that no crash of one ends the gateway. A source of wishes (a store, a listener for
notifications, a front door) is one more child, which tells FleetActor.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pykka
from pykka import ActorRef

from tunnelfleet.actors.kernel import Backoff, ChildSpec, DispatchedActor, Shutdown, SupervisorActor

from .messages import RuntimeStarted
from .placement import Assigned, FleetLeaves, Placement, Revoked, Vacated

RUNTIME = "runtime"
STORE = "store"
PLACEMENT = "placement"
FLEET = "fleet"
NOTIFY = "notify"
"""The devices' actor, and the source of its wishes."""
LOOK_SECONDS = 1.0
BACKOFF = Backoff(min_seconds=0.05, max_seconds=5.0)


class GatewayRefs:
    """The present actors; written by the root alone, when it has started one."""

    def __init__(self) -> None:
        self.by_id: dict[str, ActorRef[Any]] = {}
        self.has_fleet = threading.Event()
        """Set when FleetActor has been started, and can be asked."""

    def tell(self, child_id: str, message: Any) -> bool:
        """Tell an actor, if it is there; return whether it is."""
        ref = self.by_id.get(child_id)
        if ref is None or not ref.is_alive():
            return False
        ref.tell(message)
        return True


class GatewaySupervisor(SupervisorActor):
    """The root of a gateway.

    Args:
        refs: kept up to date.
        children: in the order of their start.
    """

    def __init__(self, refs: GatewayRefs, children: Sequence[ChildSpec]) -> None:
        self._refs = refs
        super().__init__(list(children))

    def on_child_started(self, child_id: str, ref: ActorRef[Any]) -> None:
        """Let the others find it."""
        self._refs.by_id[child_id] = ref
        if child_id == FLEET:
            self._refs.has_fleet.set()
        elif child_id == RUNTIME:
            for each in (STORE, NOTIFY):
                self._refs.tell(each, RuntimeStarted())


def child(child_id: str, start: Callable[[], ActorRef[Any]]) -> ChildSpec:
    """How an actor of a gateway is run."""
    return ChildSpec(id=child_id, start=start, shutdown=Shutdown.INFINITY, backoff=BACKOFF)


class _LookAfter(NamedTuple):
    """Does the engine hang?"""


class TellShards(NamedTuple):
    """Tell FleetActor all shards that are ours: it has begun anew."""


class PlacementActor(DispatchedActor):
    """Passes on what an engine of placement says, and remembers it for a new FleetActor.

    Args:
        placement: the engine; this actor starts and stops it.
        refs: where FleetActor is.
    """

    def __init__(self, placement: Placement, refs: GatewayRefs) -> None:
        super().__init__()
        self._placement = placement
        self._refs = refs
        self._shards: frozenset[int] = frozenset()
        self._epoch = 0

    def on_start(self) -> None:
        """Have the engine tell this actor, on whatever thread it is."""
        self._placement.start(self._hear)
        self._look()

    def _hear(self, message: Assigned | Revoked) -> None:
        # Where this actor has just ended, the next one has all told anew.
        with contextlib.suppress(pykka.ActorDeadError):
            self.actor_ref.tell(message)

    def _look(self) -> None:
        self._placement.look()
        self.schedule(LOOK_SECONDS, _LookAfter())

    def on_receive(self, message: Any) -> Any:
        """Pass on an assignment or a revocation."""
        match message:
            case Assigned(shards, epoch):
                self._shards, self._epoch = self._shards | shards, epoch
                self._refs.tell(FLEET, message)
            case Revoked(shards):
                self._shards -= shards
                self._refs.tell(FLEET, message)
            case TellShards():
                self._refs.tell(FLEET, Assigned(self._shards, self._epoch))
            case Vacated(shards):
                self._placement.vacated(shards)
            case FleetLeaves():
                self._placement.leave()
            case _LookAfter():
                self._look()
            case _:
                super().on_receive(message)

    def on_stop(self) -> None:
        """Give up what is owned."""
        self._placement.stop()
