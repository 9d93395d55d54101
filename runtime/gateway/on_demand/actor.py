"""DemandActor: opens tunnels for those who ask, and closes them, as the plan says.

Owns those who wait, and the way from the plan's actions to calls and wishes. What it knows is in
`DemandMemory`, which outlives it. It waits for nothing: calls have threads, and their answers come
as messages. Several times a second it compares: the tunnels that the plan has are what FleetActor
is told to want, so that a message that was lost is told again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tunnelfleet.actors.kernel import DispatchedActor, Terminated
from tunnelfleet.proto import counted, printable
from tunnelfleet.runtime import TunnelState
from tunnelfleet.runtime.gateway.config.fleet import POSTGRES
from tunnelfleet.runtime.gateway.door.fleet_view import ON_DEMAND
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.door.resolver import AskedTunnel, Elsewhere, Local, Refused
from tunnelfleet.runtime.gateway.messages import PutWanted, RemoveWanted
from tunnelfleet.runtime.gateway.supervisor import FLEET

from .errands import ANSWERS, Errands, Recollection
from .facts import (
    AskOutcome,
    DemandPhase,
    LetGo,
    SlotLook,
    Tell,
)
from .memory import MAX_WAITING, WaitingClient, WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.actors.kernel.actor import Handlers
    from tunnelfleet.runtime import TunnelRuntime
    from tunnelfleet.runtime.gateway.config import OnDemandSettings
    from tunnelfleet.runtime.gateway.fleet_state import FleetState
    from tunnelfleet.runtime.gateway.store import LeftDemand, StoredDemand
    from tunnelfleet.runtime.gateway.supervisor import GatewayRefs
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

    from .calls import DemandCalls
    from .errands import DemandCounters
    from .facts import Action
    from .memory import DemandMemory


TICK_SECONDS = 0.2
"""How often is looked what there is to do."""
INHERIT_SECONDS = 5.0
"""How often the state is asked what gateways have left that are gone."""
LOAD_AGAIN_SECONDS = 5.0
"""Until the state is asked again what an earlier life has left."""
STOP_SECONDS = 10.0
"""What closing all tunnels may take when the gateway stops."""
_WANTED = frozenset({DemandPhase.AWAITED, DemandPhase.READY, DemandPhase.RETIRING})
_DOWN = frozenset({TunnelState.REFUSED, TunnelState.QUARANTINED})
_DENIALS = {
    AskOutcome.FAILED_BEFORE: Denial.UNAVAILABLE,
    AskOutcome.FULL: Denial.BUSY,
    AskOutcome.TOO_OFTEN: Denial.BUSY,
}

logger = logging.getLogger(__name__)


class _Tick(NamedTuple):
    """Look what there is to do."""


class _LoadAgain(NamedTuple):
    """Ask the state again."""


class _DemandsLoaded(NamedTuple):
    demands: list[StoredDemand] | None


class _LookForLeft(NamedTuple):
    """Ask what other gateways have left."""


class _LeftFound(NamedTuple):
    left: list[LeftDemand] | None


class _LeftTaken(NamedTuple):
    demands: list[StoredDemand] | None


class _StopTimedOut(NamedTuple):
    """The time for closing all is over."""


class DemandParts(NamedTuple):
    """What the actor works with.

    Attributes:
        memory: outlives it.
        calls: do what waits.
        counters: the numbers.
        state: what FleetActor knows.
        runtime: returns the runtime that has the tunnels now.
        refs: where FleetActor is.
        note: takes down who asked, and what came of it; must not block.
        clock: seconds, monotonic.
    """

    memory: DemandMemory
    calls: DemandCalls
    counters: DemandCounters
    state: FleetState
    runtime: Callable[[], TunnelRuntime]
    refs: GatewayRefs
    note: Callable[[AskedTunnel, str], object]
    clock: Callable[[], float] = time.monotonic


class DemandActor(DispatchedActor):
    """Opens and closes tunnels on demand. Asked with `AskedTunnel`, it answers an `Answer`.

    Args:
        parts: what it works with.
    """

    def __init__(self, parts: DemandParts) -> None:
        super().__init__()
        self._parts = parts
        self._memory = parts.memory
        self._plan = parts.memory.plan
        self._calls = parts.calls
        self._counters = parts.counters
        self._state = parts.state
        self._room = WaitingRoom()
        self._errands = Errands(
            self,
            parts.memory,
            parts.calls,
            parts.counters,
            settings=lambda: self._settings,
            clock=parts.clock,
        )
        self._recall = Recollection(lambda: self._settings is not None).of
        self._is_stopping = False
        parts.counters.waiting = lambda: len(self._room)
        parts.counters.phases = self._phases

    def _phases(self) -> Counter[DemandPhase]:
        return Counter(each.phase for each in self._plan)

    @property
    def _settings(self) -> OnDemandSettings | None:
        """As the files say now."""
        return self._state.config.on_demand

    def on_start(self) -> None:
        """Take up what an earlier life, or an earlier process, has left."""
        if self._memory.has_begun:
            self._plan.restarted(self._parts.clock())
            for request in self._memory.kept:
                self._errands.search(request)
        self._memory.has_begun = True
        # Once more after a crash: what was just taken from another gateway may not be known here.
        self._load()
        self.schedule(TICK_SECONDS, _Tick())
        if self._state.config.gateway.placement == POSTGRES:
            self.schedule(INHERIT_SECONDS, _LookForLeft())

    def _load(self) -> None:
        self.pipe_to_self(self._calls.load(), lambda done: _DemandsLoaded(self._recall(done)))

    def _on_loaded(self, message: _DemandsLoaded) -> None:
        if message.demands is None:
            self.schedule(LOAD_AGAIN_SECONDS, _LoadAgain())
        else:
            found = self._memory.take_up(message.demands, self._parts.clock(), time.time())
            for request in found:
                self._errands.search(request)
            self._close_if_stopping()
        if not self._memory.has_asked:
            self._memory.has_asked = True
            self._admit_all()
        self._step()

    def _on_load_again(self, _message: _LoadAgain) -> None:
        self._load()

    # -- what gateways have left that are gone

    def _on_look_for_left(self, _message: _LookForLeft) -> None:
        self.schedule(INHERIT_SECONDS, _LookForLeft())
        if not self._is_stopping and not self._state.is_leaving:
            self.pipe_to_self(self._calls.left(), lambda done: _LeftFound(self._recall(done)))

    def _on_left_found(self, message: _LeftFound) -> None:
        """Take what is this gateway's now; its other shards have other gateways, which do so."""
        is_ours = self._state.is_ours
        requests = [each.request for each in message.left or () if is_ours(each.thing)]
        if requests and not self._is_stopping:
            taken = self._calls.take_over(requests)
            self.pipe_to_self(taken, lambda done: _LeftTaken(self._recall(done)))

    def _on_left_taken(self, message: _LeftTaken) -> None:
        demands = message.demands or []
        for request in self._memory.inherit(demands, self._parts.clock(), time.time()):
            self._errands.search(request)
        self._close_if_stopping()
        self._step()

    def _close_if_stopping(self) -> None:
        """What was taken up while the gateway stops is closed with the others."""
        if self._is_stopping:
            self._plan.close_all(self._parts.clock())

    # -- those who ask

    def _on_asked(self, asked: AskedTunnel) -> None:
        reply = self.defer_reply()
        refused = self._refuse_at_once(asked)
        if refused is not None:
            reply.set(refused)
            return
        client = WaitingClient(asked, reply)
        if self._memory.has_asked:
            self._admit(client)
            self._step()
        else:
            # There may be a tunnel of an earlier life: it is admitted when that is known.
            self._room.enter(client)
            self.watch(asked.client)

    def _admit(self, client: WaitingClient) -> None:
        """Give it its tunnel, or let it wait for it, or refuse it."""
        self._take_over()
        verdict = self._plan.ask(client.asked.name, self._parts.clock())
        match verdict.outcome:
            case AskOutcome.READY:
                client.reply.set(Local(verdict.slot))
            case AskOutcome.BEGUN | AskOutcome.JOINED:
                self._wait(client, is_first=verdict.outcome is AskOutcome.BEGUN)
            case outcome:
                self._counters.refused[outcome.value] += 1
                client.reply.set(Refused(_DENIALS[outcome], verdict.text))

    def _admit_all(self) -> None:
        for client in [each for name in self._room.names() for each in self._room.take(name)]:
            self.unwatch(client.asked.client)
            self._admit(client)

    def _refuse_at_once(self, asked: AskedTunnel) -> Refused | Elsewhere | None:
        name, settings = asked.name, self._settings
        if self._state.is_leaving or self._is_stopping:
            return Refused(Denial.UNAVAILABLE, "the gateway is stopping")
        if settings is None or settings.thing_of(name) is None:
            return Refused(Denial.NAME, f"there is no tunnel {printable(name)!r} in this fleet")
        if any(name in section.things for section in self._state.config.notify):
            # The tunnel's other end would come here as well, and has the name.
            text = f"{name} is a device of this gateway, by [[notify]]: ask another gateway for it"
            return Refused(Denial.NAME, text)
        if not self._state.is_ours(name):
            if self._state.config.gateway.placement == POSTGRES:
                return Elsewhere()
            self._counters.refused["elsewhere"] += 1
            text = f"{name} is with another gateway of this fleet: ask there"
            return Refused(Denial.UNAVAILABLE, text)
        if self._room.is_full:
            self._counters.refused["busy"] += 1
            text = f"{MAX_WAITING} clients wait for tunnels on demand, which is the limit"
            return Refused(Denial.BUSY, text)
        return None

    def _wait(self, client: WaitingClient, *, is_first: bool) -> None:
        asked = client.asked
        self._room.enter(client)
        self.watch(asked.client)
        text = "a tunnel is opened for it" if is_first else "it waits for the tunnel with others"
        self._parts.note(asked, text)
        if is_first:
            who = f"{asked.user} at {asked.peer}" if asked.user else asked.peer
            fields = {"thing": asked.name, "user": asked.user, "peer": asked.peer}
            extra = {"event": "demand_asked", "fields": fields}
            logger.info(
                "%s asked for %s, to which a tunnel is opened", who, asked.name, extra=extra
            )

    def _on_terminated(self, message: Terminated) -> None:
        """A client has left."""
        for name in self._room.leave(message.ref):
            self._plan.withdraw(name)

    def _tell(self, action: Tell) -> None:
        if action.text:
            self._counters.failed += 1
            extra = {"event": "demand_failed", "fields": {"thing": action.name}}
            logger.warning("no tunnel on demand: %s", action.text, extra=extra)
        for asked, reply in self._room.take(action.name):
            self.unwatch(asked.client)
            if action.text:
                self._parts.note(asked, action.text)
                reply.set(Refused(Denial.UNAVAILABLE, action.text))
            else:
                reply.set(Local(action.slot))

    # -- what there is to do

    def _on_tick(self, _message: _Tick) -> None:
        self._step()
        self.schedule(TICK_SECONDS, _Tick())

    def _step(self) -> None:
        now = self._parts.clock()
        self._take_over()
        if self._memory.has_asked:
            drain_seconds = self._state.config.gateway.drain_seconds
            for action in self._plan.step(now, self._look, self._is_allowed, drain_seconds):
                self._carry_out(action)
        self._compare_wishes()
        if self._is_stopping and not len(self._plan):
            self.exit()

    def _take_over(self) -> None:
        """Go by what the files say now."""
        settings = self._settings
        if settings is not None and settings.limits != self._plan.limits:
            self._plan.replace_limits(settings.limits, self._parts.clock())

    def _is_allowed(self, name: str) -> bool:
        settings = self._settings
        is_listed = settings is not None and settings.thing_of(name) is not None
        return is_listed and self._state.is_ours(name)

    def _look(self, slot: str) -> SlotLook:
        state = self._state
        failure = state.failures.get(slot)
        if failure is not None:
            return SlotLook(runs=False, is_down=True, reason=failure[0])
        if slot not in state.running or state.source_of(slot) not in ("", ON_DEMAND):
            return SlotLook(runs=False)
        try:
            tunnel = self._parts.runtime().tunnel(slot)
        except KeyError:
            return SlotLook(runs=True)
        stats = tunnel.stats
        return SlotLook(
            runs=True,
            is_connected=stats.state is TunnelState.CONNECTED,
            is_down=stats.state in _DOWN,
            reason=tunnel.reason,
            connections=stats.sum("connections_active"),
        )

    def _carry_out(self, action: Action) -> None:
        match action:
            case Tell():
                self._tell(action)
            case LetGo():
                # The comparison of wishes sees to it.
                pass
            case _:
                self._errands.carry_out(action)

    def _on_answered(self, message: Any) -> None:
        self._errands.take(message)
        self._step()

    # -- the fleet

    def _compare_wishes(self) -> None:
        """Tell FleetActor the difference between what it should want and what it does."""
        wanted = self._wanted()
        present = self._state.sources.get(ON_DEMAND, {})
        for slot, tunnel in wanted.items():
            if present.get(slot) is not tunnel:
                self._parts.refs.tell(FLEET, PutWanted(ON_DEMAND, tunnel))
        for slot in list(present):
            if slot not in wanted:
                self._parts.refs.tell(FLEET, RemoveWanted(ON_DEMAND, slot))

    def _wanted(self) -> dict[str, WantedTunnel]:
        kept = self._memory.kept
        found = {
            each.slot: kept[each.request].tunnel
            for each in self._plan
            if each.phase in _WANTED and each.request in kept
        }
        return {slot: tunnel for slot, tunnel in found.items() if tunnel is not None}

    # -- the end

    def on_stop_requested(self) -> bool:
        """Close all tunnels, unless they are to be kept for the next start."""
        self._is_stopping = True
        self._answer_all("the gateway is stopping")
        settings = self._settings
        if settings is not None and settings.keep_on_stop:
            return True
        self._plan.close_all(self._parts.clock())
        if not len(self._plan):
            return True
        self.schedule(STOP_SECONDS, _StopTimedOut())
        self._step()
        return False

    def _answer_all(self, text: str) -> None:
        for name in self._room.names():
            for _asked, reply in self._room.take(name):
                reply.set(Refused(Denial.UNAVAILABLE, text))

    def _on_stop_timed_out(self, _message: _StopTimedOut) -> None:
        left = len(self._plan)
        logger.warning(
            "%s on demand could not be closed in time; the next start does it",
            counted(left, "tunnel"),
        )
        self.exit()

    def on_receive(self, message: Any) -> Any:
        """Dispatch by the message's type."""
        handler = self.HANDLERS.get(type(message))
        if handler is None:
            return super().on_receive(message)
        return handler(self, message)

    HANDLERS: ClassVar[Handlers] = {
        AskedTunnel: _on_asked,
        Terminated: _on_terminated,
        _Tick: _on_tick,
        _LoadAgain: _on_load_again,
        _DemandsLoaded: _on_loaded,
        _LookForLeft: _on_look_for_left,
        _LeftFound: _on_left_found,
        _LeftTaken: _on_left_taken,
        **dict.fromkeys(ANSWERS, _on_answered),
        _StopTimedOut: _on_stop_timed_out,
    }
