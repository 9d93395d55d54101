"""ConnectGovernor: who may connect when, in a runtime.

Owns the messages around the decisions of `permits`: it watches whoever asks and forgets whoever
ends, keeps the timer, and obeys the `ConnectGate`. docs/protocol.md section 6: AWS allows about ten
tunnel connects a second per account.
"""

from __future__ import annotations

import random
import time
from typing import Any, ClassVar, NamedTuple

from pykka import ActorRef

from tunnelfleet.actors.events import AttemptOutcome
from tunnelfleet.actors.kernel import DispatchedActor, Terminated, Timer
from tunnelfleet.actors.kernel.actor import Handlers
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.tunnel.messages import (
    GateChanged,
    PermitCalledBack,
    PermitGranted,
    ReleasePermit,
    RequestPermit,
    TryNow,
)

from .connect_gate import BreakerStatus, ConnectGate
from .permits import CallBack, Cause, Grant, Permits

logger = get_logger(__name__)


class _DecideAgain(NamedTuple):
    """Something is due."""


class ConnectGovernor(DispatchedActor):
    """Grants connect permits.

    Args:
        rate_per_second: never more permits in any second, as the other side sees it.
        concurrency: permits that may be out at once.
        per_endpoint: of these, how many may be out for one endpoint; None leaves a quarter, at
            least one, to other endpoints.
        gate: says whether anybody may connect, and keeps what must outlive this actor.
    """

    def __init__(
        self,
        *,
        rate_per_second: float,
        concurrency: int,
        per_endpoint: int | None = None,
        gate: ConnectGate | None = None,
    ) -> None:
        super().__init__()
        self._gate = gate or ConnectGate()
        # Jitter, no secret.
        rng = random.Random()  # noqa: S311
        self._permits: Permits[ActorRef[Any]] = Permits(
            rate_per_second, concurrency, per_endpoint, rng
        )
        self._rate_per_second = rate_per_second
        self._breaker_changes = -1
        self._openings = 0
        self._watched: set[ActorRef[Any]] = set()
        self._timer: Timer | None = None
        self._timer_at = 0.0

    def on_start(self) -> None:
        """Keep to the rate and to a suspension over the lives of this actor."""
        if self._gate.had_governor:
            self._permits.rest(time.monotonic())
        self._gate.had_governor = True
        self._decide()

    def on_receive(self, message: Any) -> Any:
        """Handle a fact, then decide."""
        handler = self.HANDLERS.get(type(message))
        if handler is None:
            return super().on_receive(message)
        handler(self, message)
        self._decide()
        return None

    # -- facts

    def _on_request(self, message: RequestPermit) -> None:
        if message.requester not in self._watched:
            self._watched.add(message.requester)
            self.watch(message.requester)
            self._permits.ask(message.requester, message.endpoint, message.tunnel)

    def _on_release(self, message: ReleasePermit) -> None:
        if self._forget(message.requester, message.outcome):
            self.unwatch(message.requester)

    def _on_terminated(self, message: Terminated) -> None:
        self._forget(message.ref, AttemptOutcome.CANCELLED)

    def _forget(self, requester: ActorRef[Any], outcome: AttemptOutcome) -> bool:
        if requester not in self._watched:
            return False
        self._watched.discard(requester)
        self._permits.end(requester, outcome, time.monotonic())
        return True

    def _on_try_now(self, message: TryNow) -> None:
        self._permits.try_now(message.endpoint, message.tunnel, time.monotonic())

    def _on_gate_changed(self, _message: GateChanged) -> None:
        """The gate is looked at before each decision."""

    def _on_decide_again(self, _message: _DecideAgain) -> None:
        self._timer = None

    # -- decisions

    def _decide(self) -> None:
        self._obey_gate()
        now = time.monotonic()
        actions, wait_seconds = self._permits.decide(now)
        for action in actions:
            if isinstance(action, Grant):
                self._gate.stats.granted += 1
                action.key.tell(PermitGranted())
            else:
                self._call_back(action)
        self._look_later(wait_seconds, now)
        self._publish()

    def _obey_gate(self) -> None:
        rate = self._gate.rate_per_second
        if rate is not None and rate != self._rate_per_second:
            self._rate_per_second = rate
            self._permits.change_rate(rate)
        reason = self._gate.closed_because
        if reason and not self._permits.is_suspended:
            logger.warning("no tunnel connects any more: %s", reason)
            for action in self._permits.suspend():
                self._call_back(action)
        elif self._permits.is_suspended and not reason:
            logger.warning("tunnels may connect again")
            self._permits.resume()

    def _call_back(self, action: CallBack[ActorRef[Any]]) -> None:
        if action.cause is Cause.SUSPENDED:
            reason = f"connects are suspended: {self._gate.closed_because}"
        else:
            reason = f"no answer from {action.endpoint} so far, and others wait for their turn"
        action.key.tell(PermitCalledBack(action.cause.value, reason))
        counts = self._gate.stats.called_back
        label = action.cause.name.lower()
        counts[label] = counts.get(label, 0) + 1

    def _look_later(self, wait_seconds: float | None, now: float) -> None:
        left_seconds = None if self._permits.is_suspended else self._gate.left_seconds
        if left_seconds is not None:
            wait_seconds = min(left_seconds, left_seconds if wait_seconds is None else wait_seconds)
        if wait_seconds is None:
            return
        if self._timer is not None:
            if self._timer_at <= now + wait_seconds:
                # It comes early enough; then one looks again.
                return
            self._timer.cancel()
        self._timer_at = now + wait_seconds
        self._timer = self.schedule(wait_seconds, _DecideAgain())

    def _publish(self) -> None:
        permits, stats = self._permits, self._gate.stats
        stats.waiting = permits.in_line
        stats.held_back = permits.held_back
        stats.under_way = permits.under_way
        breakers = permits.breakers
        if breakers.changes == self._breaker_changes:
            return
        self._breaker_changes = breakers.changes
        stats.breaker_openings += breakers.openings - self._openings
        self._openings = breakers.openings
        before = {each.endpoint for each in stats.breakers}
        stats.breakers = tuple(
            BreakerStatus(endpoint, each.state, each.openings, each.due_at)
            for endpoint, each in breakers.not_closed().items()
        )
        now = {each.endpoint for each in stats.breakers}
        for endpoint in now - before:
            logger.warning("%s is down: its tunnels wait, and one at a time tries it", endpoint)
        for endpoint in before - now:
            logger.warning("%s is up again, or nobody asks for it any more", endpoint)

    HANDLERS: ClassVar[Handlers] = {
        RequestPermit: _on_request,
        ReleasePermit: _on_release,
        Terminated: _on_terminated,
        TryNow: _on_try_now,
        GateChanged: _on_gate_changed,
        _DecideAgain: _on_decide_again,
    }
