"""Errands: the calls of the management API that the plan wants, and what their answers mean.

It is a part of the actor, which passes the answers on. Owns the way from an answer to the plan, to
what is counted and to the log, and the search for tunnels whose opening was not answered. The
numbers are counted on the gateway's thread alone, and read on others.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.runtime.gateway.door.fleet_view import ON_DEMAND
from tunnelfleet.runtime.gateway.store import StoreError
from tunnelfleet.runtime.metrics.families import numbers

from .calls import OpenWork
from .cloud import CloudError, CloudTrouble
from .facts import CallClose, CallDescribe, CallOpen, CallSearch, DemandPhase, EndCause, FailKind
from .memory import KeptDemand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric

    from tunnelfleet.actors.kernel import DispatchedActor
    from tunnelfleet.runtime.gateway.config import OnDemandSettings

    from .calls import DemandCalls, OpenedDemand
    from .cloud import TunnelFound
    from .memory import DemandMemory

logger = logging.getLogger(__name__)

REFUSALS = ("failed_before", "max_open", "max_opens_per_hour", "elsewhere", "busy")
"""Why somebody who asks may be refused at once."""
OPERATIONS = ("OpenTunnel", "DescribeTunnel", "CloseTunnel", "ListTunnels")


class DemandCounters:
    """The numbers of one gateway.

    Attributes:
        opened: tunnels that OpenTunnel has opened.
        failed: openings that came to nothing, whatever the reason.
        closed: tunnels that CloseTunnel has closed, by `EndCause`.
        refused: questions that were refused at once, by one of `REFUSALS`.
        call_failures: calls that failed, by operation and `CloudTrouble`.
        waiting: tells how many clients wait.
        phases: tells how many tunnels there are, by `DemandPhase`.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.failed = 0
        self.closed = Counter(dict.fromkeys(EndCause, 0))
        self.refused = Counter(dict.fromkeys(REFUSALS, 0))
        self.call_failures = Counter(
            {(operation, trouble): 0 for operation in OPERATIONS for trouble in CloudTrouble}
        )
        self.waiting: Callable[[], int] = lambda: 0
        self.phases: Callable[[], Mapping[DemandPhase, int]] = dict

    def collect(self) -> Iterator[Metric]:
        """The families, for a collector of prometheus_client."""
        yield numbers("demand_opened", [((), self.opened)])
        yield numbers("demand_failed", [((), self.failed)])
        yield numbers(
            "demand_closed", [((cause.value,), count) for cause, count in self.closed.items()]
        )
        yield numbers("demand_refused", [((why,), count) for why, count in self.refused.items()])
        yield numbers(
            "demand_call_failures",
            [
                ((operation, trouble.value), count)
                for (operation, trouble), count in self.call_failures.items()
            ],
        )
        yield numbers("demand_waiting", [((), self.waiting())])
        phases = self.phases()
        yield numbers(
            "demand_tunnels", [((each.value,), phases.get(each, 0)) for each in DemandPhase]
        )


SEARCH_SECONDS = (1.0, 30.0, 120.0)
"""When a tunnel is looked for whose opening was not answered, one after the other."""
_KINDS = {
    CloudTrouble.THROTTLED: FailKind.THROTTLED,
    CloudTrouble.REFUSED: FailKind.REFUSED,
    CloudTrouble.NOT_FOUND: FailKind.REFUSED,
    CloudTrouble.UNKNOWN: FailKind.UNKNOWN,
}


class SearchAgain(NamedTuple):
    """Look for a tunnel that may be open."""

    request: str
    attempt: int


class OpenAnswered(NamedTuple):
    """OpenTunnel has answered, or the call has failed."""

    request: str
    kept: KeptDemand
    outcome: OpenedDemand | CloudError


class DescribeAnswered(NamedTuple):
    """DescribeTunnel has answered, or the call has failed."""

    request: str
    outcome: TunnelFound | CloudError


class CloseAnswered(NamedTuple):
    """CloseTunnel has answered, or the call has failed."""

    action: CallClose
    error: CloudError | None


class SearchAnswered(NamedTuple):
    """A search has ended: how many tunnels were found, or the call has failed."""

    search: SearchAgain
    outcome: int | CloudError


ANSWERS = (OpenAnswered, DescribeAnswered, CloseAnswered, SearchAgain, SearchAnswered)
"""What the actor passes on with `take`."""


class Errands:
    """The calls for one gateway's tunnels on demand.

    Args:
        actor: gets the answers as messages, and passes them on.
        memory: what is known.
        calls: do what waits.
        counters: the numbers.
        settings: as the files say now.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        actor: DispatchedActor,
        memory: DemandMemory,
        calls: DemandCalls,
        counters: DemandCounters,
        settings: Callable[[], OnDemandSettings | None],
        clock: Callable[[], float],
    ) -> None:
        self._actor = actor
        self._memory = memory
        self._plan = memory.plan
        self._calls = calls
        self._counters = counters
        self._settings = settings
        self._clock = clock

    def carry_out(self, action: CallOpen | CallDescribe | CallClose | CallSearch) -> None:
        """Do what the plan wants done."""
        match action:
            case CallOpen():
                self._open(action)
            case CallDescribe(request, tunnel_id):
                self._describe(request, tunnel_id)
            case CallClose():
                self._close(action)
            case CallSearch(request):
                self.search(request)

    def take(self, message: Any) -> None:
        """Take one of `ANSWERS`."""
        match message:
            case OpenAnswered():
                self._on_open_answered(message)
            case DescribeAnswered():
                self._on_describe_answered(message)
            case CloseAnswered():
                self._on_close_answered(message)
            case SearchAgain():
                self._on_search(message)
            case SearchAnswered():
                self._on_search_answered(message)

    # -- calls and their answers

    def _describe(self, request: str, tunnel_id: str) -> None:
        place = self._memory.kept[request].place
        self._actor.pipe_to_self(
            self._calls.describe(place, tunnel_id),
            lambda done: DescribeAnswered(request, outcome_of(done)),
        )

    def _open(self, action: CallOpen) -> None:
        request, thing, slot = action
        settings = self._settings()
        if settings is None:
            text = "the gateway opens no tunnels on demand any more"
            self._plan.open_failed(request, FailKind.REFUSED, text, self._clock())
            return
        tunnel = replace(settings.tunnel, name=slot, place=ON_DEMAND)
        kept = self._memory.kept[request] = KeptDemand(settings.place, thing)
        work = OpenWork(
            request=request,
            place=settings.place,
            thing=thing,
            services=settings.services,
            lifetime_minutes=settings.limits.lifetime_minutes,
            tags=settings.tags,
            tunnel=tunnel,
        )
        self._actor.pipe_to_self(
            self._calls.open(work), lambda done: OpenAnswered(request, kept, outcome_of(done))
        )

    def _on_open_answered(self, message: OpenAnswered) -> None:
        request, kept, outcome = message
        now = self._clock()
        if isinstance(outcome, CloudError):
            self._failed_call("OpenTunnel", outcome)
            self._plan.open_failed(request, _KINDS[outcome.trouble], outcome.text, now)
            if outcome.trouble is not CloudTrouble.UNKNOWN and self._plan.find(request) is None:
                self._memory.kept.pop(request, None)
        else:
            self._counters.opened += 1
            # Whatever has happened meanwhile: with this it can be closed.
            self._memory.kept[request] = kept
            kept.tunnel = outcome.tunnel
            fields = {"thing": kept.thing, "id": outcome.tunnel_id}
            text = "the tunnel to %s is open; its device is waited for"
            logger.info(text, kept.thing, extra={"event": "demand_opened", "fields": fields})
            self._plan.opened(request, outcome.tunnel_id, now)

    def _on_describe_answered(self, message: DescribeAnswered) -> None:
        request, outcome = message
        is_open, has_device = True, False
        if isinstance(outcome, CloudError):
            self._failed_call("DescribeTunnel", outcome)
        else:
            is_open, has_device = outcome
        now = self._clock()
        self._plan.described(request, has_device=has_device, is_open=is_open, now=now)

    def _close(self, action: CallClose) -> None:
        kept = self._memory.kept.get(action.request)
        if kept is None:
            self._plan.closed(action.request)
            return
        self._actor.pipe_to_self(
            self._calls.close(kept.place, action.request, action.tunnel_id),
            lambda done: CloseAnswered(action, outcome_of(done)),
        )

    def _on_close_answered(self, message: CloseAnswered) -> None:
        action, error = message
        if error is not None:
            self._failed_call("CloseTunnel", error)
            if not self._plan.close_failed(action.request, self._clock()):
                return
            self._calls.forget(action.request)
        self._counters.closed[action.cause] += 1
        kept = self._memory.kept.pop(action.request, None)
        self._plan.closed(action.request)
        thing = "" if kept is None else kept.thing
        fields = {"thing": thing, "id": action.tunnel_id, "cause": action.cause.value}
        extra = {"event": "demand_closed", "fields": fields}
        logger.info("the tunnel to %s is closed: %s", thing, action.cause.value, extra=extra)

    def _failed_call(self, operation: str, error: CloudError) -> None:
        self._counters.call_failures[operation, error.trouble] += 1
        logger.log(
            # Why there is no tunnel is told where it is told to those who wait.
            logging.DEBUG if operation == "OpenTunnel" else logging.WARNING,
            "%s",
            error.text,
            extra={"event": "demand_call_failed", "fields": {"operation": operation}},
        )

    # -- tunnels that may be open

    def search(self, request: str) -> None:
        """Begin to look for a tunnel whose opening was not answered."""
        self._actor.schedule(SEARCH_SECONDS[0], SearchAgain(request, 0))

    def _on_search(self, search: SearchAgain) -> None:
        kept = self._memory.kept.get(search.request)
        if kept is not None and self._plan.find(search.request) is None:
            self._actor.pipe_to_self(
                self._calls.search(kept.place, search.request, kept.thing),
                lambda done: SearchAnswered(search, outcome_of(done)),
            )

    def _on_search_answered(self, message: SearchAnswered) -> None:
        (request, attempt), outcome = message
        kept = self._memory.kept.get(request)
        if kept is None or self._plan.find(request) is not None:
            return
        if isinstance(outcome, CloudError):
            self._failed_call("ListTunnels", outcome)
        elif outcome:
            self._counters.opened += outcome
            text = "a tunnel to %s, whose opening was not answered, was found and is closed"
            logger.warning(text, kept.thing, extra={"event": "demand_abandoned"})
            del self._memory.kept[request]
            return
        if attempt + 1 < len(SEARCH_SECONDS):
            self._actor.schedule(SEARCH_SECONDS[attempt + 1], SearchAgain(request, attempt + 1))
            return
        del self._memory.kept[request]
        if not isinstance(outcome, CloudError):
            self._calls.forget(request)


def outcome_of(done: Any) -> Any:
    """What a call has given, or its `CloudError`."""
    try:
        return done.result()
    except CloudError as error:
        return error


class Recollection:
    """What the state answers about tunnels of earlier lives; an outage is logged once.

    Args:
        is_used: whether this gateway opens tunnels on demand. Where it does not, nobody misses
            what is not known, and an outage is no warning.
    """

    def __init__(self, is_used: Callable[[], bool]) -> None:
        self._is_used = is_used
        self._is_silent = False

    def of(self, done: Any) -> Any:
        """What the state has answered; None if it does not answer."""
        try:
            found = done.result()
        except StoreError as error:
            if not self._is_silent:
                level = logging.WARNING if self._is_used() else logging.DEBUG
                text = "tunnels on demand of an earlier life are not known until the state answers"
                logger.log(level, "%s: %s", text, error)
            self._is_silent = True
            return None
        self._is_silent = False
        return found
