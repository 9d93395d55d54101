"""OnDemand: the tunnels on demand of a gateway as a program holds them.

Owns the parts and the order in which they begin and end: what is known outlives the actor, the
threads end last. For the front doors it is a `Resolver`, on their thread.
"""

from __future__ import annotations

import functools
import time
import uuid
from typing import TYPE_CHECKING, Any, Self

from tunnelfleet.actors.kernel import DispatchedFuture, ask_future
from tunnelfleet.runtime.gateway.config import DemandLimits
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.door.resolver import Refused
from tunnelfleet.runtime.gateway.supervisor import child

from .actor import DemandActor, DemandParts
from .calls import DemandCalls
from .cloud import AwsCloud
from .errands import DemandCounters
from .memory import DemandMemory
from .plan import DemandPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tunnelfleet.actors.kernel import ChildSpec
    from tunnelfleet.runtime.gateway.config import CloudPlace, OnDemandSettings
    from tunnelfleet.runtime.gateway.door.resolver import Answer, AskedTunnel
    from tunnelfleet.runtime.gateway.gateway import Gateway
    from tunnelfleet.runtime.gateway.store import Store

    from .cloud import Cloud


ON_DEMAND_ACTOR = "on demand"
"""The id of the actor among the gateway's children."""


class OnDemand:
    """Opens tunnels for those who ask at the doors of one gateway.

        demand = OnDemand(store)
        door = Door(config.gateway, resolver=demand)
        with demand, door, Gateway(load, config, store=store, more_children=lambda gateway: [
            demand.child(gateway), door.child(gateway)
        ]):
            ...

    Args:
        store: keeps tunnels over a crash, and the audit; None for nobody.
        make_cloud: makes what calls AWS, or something in its place.
    """

    def __init__(
        self,
        store: Store | None = None,
        make_cloud: Callable[[CloudPlace], Cloud] = AwsCloud,
    ) -> None:
        self._store = store
        self._make_cloud = make_cloud
        self._gateway: Gateway | None = None
        self._calls: DemandCalls | None = None
        self.counters = DemandCounters()
        self.plan = _make_plan(DemandLimits())
        """What is known of the tunnels; for the gateway's thread."""

    def child(self, gateway: Gateway) -> ChildSpec:
        """How the gateway runs it, as one of `more_children`, before the doors."""
        self._gateway = gateway
        name = gateway.state.config.gateway.name
        self._calls = DemandCalls(name, self._store, self._make_cloud)
        settings = gateway.state.config.on_demand
        if settings is not None:
            self.plan = _make_plan(settings.limits)
        gateway.collector.add(self.counters.collect)
        parts = DemandParts(
            memory=DemandMemory(self.plan),
            calls=self._calls,
            counters=self.counters,
            state=gateway.state,
            runtime=lambda: gateway.runtime,
            refs=gateway.refs,
            note=self._note,
        )
        return child(ON_DEMAND_ACTOR, functools.partial(DemandActor.start, parts))

    def _note(self, asked: AskedTunnel, text: str) -> None:
        if self._store is not None:
            self._store.note_demand(
                asked.name, asked.service_id, peer=asked.peer, user=asked.user, reason=text
            )

    @property
    def _settings(self) -> OnDemandSettings | None:
        return None if self._gateway is None else self._gateway.state.config.on_demand

    # -- for the doors

    def name_of(self, text: str) -> str | None:
        """See `Resolver`."""
        settings = self._settings
        return None if settings is None else settings.thing_of(text)

    def services_of(self, name: str) -> Collection[str] | None:
        """See `Resolver`. An open tunnel has those that it was opened with."""
        settings = self._settings
        slot = self.plan.serving(name)
        if slot is not None and self._gateway is not None:
            wish = self._gateway.state.wish(slot)
            if wish is not None and wish.services is not None:
                return list(wish.services)
        return None if settings is None else settings.services

    def current(self, name: str) -> str | None:
        """See `Resolver`."""
        return self.plan.current(name, time.monotonic())

    def resolve(self, asked: AskedTunnel) -> DispatchedFuture[Answer]:
        """See `Resolver`."""
        gateway = self._gateway
        ref = None if gateway is None else gateway.refs.by_id.get(ON_DEMAND_ACTOR)
        if ref is not None and ref.is_alive():
            return ask_future(ref, asked)
        answer: DispatchedFuture[Any] = DispatchedFuture()
        text = "what opens tunnels on demand is being started again; try again"
        answer.set(Refused(Denial.UNAVAILABLE, text))
        return answer

    # -- life

    def close(self) -> None:
        """End the threads, when the gateway has ended. Safe to call twice."""
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


def _make_plan(limits: DemandLimits) -> DemandPlan:
    return DemandPlan(limits, time.monotonic(), lambda: uuid.uuid4().hex)
