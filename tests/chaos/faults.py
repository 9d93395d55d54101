"""Carries out the faults of a schedule in a fleet of one process, and counts those that happened.

A fault counts when it has reached somebody: a byte that was corrupted, a connection that was reset,
an actor that failed. One that found nothing to break does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.support.actors import crash
from tests.support.witness import actors
from tunnelfleet.actors.kernel import kill
from tunnelfleet.actors.kernel.cell import handle_otherwise, kind_of
from tunnelfleet.proto import ConfigError, Mode

from .proxy import Trigger
from .results import InjectedError
from .schedule import Fault, Kind, Place

if TYPE_CHECKING:
    from .fleet import Fleet
    from .proxy import Proxy
    from .tunnels import PlantedTunnel


class Faults:
    """The faults of one run.

    Args:
        fleet: what is broken.

    Attributes:
        survived: how often each kind has happened.
        crashed: how often each class of actors was made to fail, at which message.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._is_over = False
        self.survived: Counter[str] = Counter()
        self.crashed: Counter[tuple[str, str]] = Counter()

    async def commit(self, fault: Fault) -> None:
        """Do it; what lasts is undone after its time."""
        if fault.place in (Place.SERVICE, Place.RUNTIME):
            await self._shared(fault)
            return
        tunnel = self._fleet.tunnels[fault.tunnel]
        if fault.kind in _ON_PROXIES:
            for proxy in tunnel.proxies(fault.place):
                await _ON_PROXIES[fault.kind](self, proxy, fault)
        elif fault.kind in (Kind.CRASH, Kind.KILL):
            self._end_actor(fault, tunnel.end_name(fault.place))
        elif fault.kind is Kind.REOPEN:
            await tunnel.reopen(fault.place)
            self._count(fault)
        else:
            # A tunnel that another fault has closed for a moment, or a service that is down.
            with contextlib.suppress(ConfigError, KeyError):
                await self._at_service(fault, tunnel)

    def end(self) -> None:
        """Nothing that was planted goes off any more."""
        self._is_over = True

    def _count(self, fault: Fault) -> None:
        self.survived[fault.kind] += 1

    def _counter(self, fault: Fault) -> Callable[[], object]:
        return lambda: self._count(fault)

    # -- proxies

    async def _weather(self, proxy: Proxy, fault: Fault) -> None:
        weather = proxy.weather
        if fault.kind is Kind.LATENCY:
            weather.latency_seconds = fault.amount / 1_000
        elif fault.kind is Kind.JITTER:
            weather.jitter_seconds = fault.amount / 1_000
        else:
            weather.drip_bytes = fault.amount
        if proxy.links:
            self._count(fault)
        await asyncio.sleep(fault.for_ms / 1_000)
        proxy.weather = type(weather)()

    async def _trigger(self, proxy: Proxy, fault: Fault) -> None:
        proxy.arm(
            Trigger(fault.amount, fault.upwards, fault.kind is Kind.FLIP, self._counter(fault))
        )

    async def _reset(self, proxy: Proxy, fault: Fault) -> None:
        if proxy.reset():
            self._count(fault)

    async def _refuse(self, proxy: Proxy, fault: Fault) -> None:
        proxy.refuse_next(fault.amount, self._counter(fault))
        # Somebody has to connect.
        proxy.reset()

    async def _hole(self, proxy: Proxy, fault: Fault) -> None:
        if fault.kind is Kind.HOLE_STAYS:
            if proxy.bury():
                self._count(fault)
            return
        proxy.hold()
        if proxy.links:
            self._count(fault)
        await asyncio.sleep(fault.for_ms / 1_000)
        if fault.kind is Kind.HOLE_BREAKS:
            proxy.reset()
        proxy.thaw()

    # -- the service

    async def _shared(self, fault: Fault) -> None:
        if fault.kind is Kind.RESTART_SERVICE:
            await asyncio.to_thread(self._fleet.service.restart)
            self._count(fault)
        else:
            self._end_actor(fault, None)

    async def _at_service(self, fault: Fault, tunnel: PlantedTunnel) -> None:
        service, name = self._fleet.service, tunnel.name
        mode = Mode.SOURCE if fault.place is Place.SOURCE_LINK else Mode.DESTINATION
        seconds = fault.for_ms / 1_000
        begin: dict[Kind, Callable[[], Any]] = {
            Kind.DROP: lambda: service.drop(name, mode),
            Kind.SESSION_RESET: lambda: service.session_reset(name),
            Kind.STREAM_RESET: lambda: service.stream_reset(name),
            Kind.DELAY: lambda: service.delay(name, fault.amount / 1_000),
            Kind.THROTTLE: lambda: service.throttle(name, fault.amount),
            Kind.BAD_FRAME: lambda: service.corrupt_next(name, mode, fault.amount),
            Kind.STALL: lambda: service.stall(name, mode),
            Kind.REFUSE_503: lambda: self._refuse_503(name, mode, fault.amount),
            Kind.GARBAGE: lambda: self._answer_garbage(name, mode),
            Kind.ROTATE: lambda: tunnel.rotate(mode),
        }
        end: dict[Kind, Callable[[], Any]] = {
            Kind.DELAY: lambda: service.delay(name, 0),
            Kind.THROTTLE: lambda: service.throttle(name, None),
            Kind.STALL: lambda: service.resume_reading(name, mode),
            Kind.BAD_FRAME: lambda: service.corrupt_next(name, mode, 0),
        }
        begin[fault.kind]()
        self._count(fault)
        if fault.kind in end:
            await asyncio.sleep(seconds)
            end[fault.kind]()

    def _refuse_503(self, name: str, mode: Mode, count: int) -> None:
        self._fleet.service.refuse_next(name, 503, count=count)
        self._fleet.service.drop(name, mode)

    def _answer_garbage(self, name: str, mode: Mode) -> None:
        self._fleet.service.garbage_next()
        self._fleet.service.drop(name, mode)

    # -- actors

    def _end_actor(self, fault: Fault, label: str | None) -> None:
        found = actors(self._fleet.runtime, fault.actor, label)
        if not found:
            return
        # The same schedule breaks the same one, as far as there are the same.
        ref = random.Random(fault.at_ms).choice(found)
        if fault.kind is Kind.KILL:
            kill(ref)
            self._count(fault)
        elif fault.nth == 0:
            crash(ref)
            self._count(fault)
            self.crashed[fault.actor, "between two messages"] += 1
        else:
            self._plant(ref, fault)

    def _plant(self, ref: Any, fault: Fault) -> None:
        """Have an actor fail at its nth message from now on."""
        cell, left = ref.cell, fault.nth

        def place() -> None:
            actor = cell.actor
            if actor is None:
                return
            original = actor.on_receive

            def handle(message: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0 and not self._is_over:
                    self._count(fault)
                    self.crashed[fault.actor, kind_of(message)] += 1
                    raise InjectedError(kind_of(message))
                return original(message)

            actor.on_receive = handle
            # What its dispatcher would call past it.
            actor.DIRECT, actor.OTHERWISE = {}, handle_otherwise

        # The runtime may be on its way out.
        with contextlib.suppress(RuntimeError):
            cell.dispatcher.call_soon(place)


_ON_PROXIES: dict[Kind, Callable[[Faults, Proxy, Fault], Any]] = {
    Kind.LATENCY: Faults._weather,
    Kind.JITTER: Faults._weather,
    Kind.DRIP: Faults._weather,
    Kind.CUT: Faults._trigger,
    Kind.FLIP: Faults._trigger,
    Kind.RESET: Faults._reset,
    Kind.REFUSED: Faults._refuse,
    Kind.HOLE_THAWS: Faults._hole,
    Kind.HOLE_BREAKS: Faults._hole,
    Kind.HOLE_STAYS: Faults._hole,
}
