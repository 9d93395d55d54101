"""Which tunnels on demand there should be: opened, shared, followed by another one, closed. Pure.

Owns the rules, as a table of phases. Facts come in as calls (somebody asks, OpenTunnel has
answered, a device was looked for), the time as their last argument; `step` says what is to be done
now, and is called often. It knows no actor, no socket and nothing of AWS but how often it may be
asked. A tunnel on demand goes this way:

    QUEUED    OpenTunnel is to be called, at the rate that is allowed
    OPENING   it was called
    AWAITED   the tunnel is open; both of its ends have to be there yet
    READY     whoever asks gets it
    RETIRING  the next one has taken its place; it ends with its last connection
    ENDING    it takes no new connections; then CloseTunnel is called until that has worked

A name has at most one tunnel that is on its way (QUEUED to AWAITED) and one that serves (READY).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tunnelfleet.actors.token_bucket import TokenBucket
from tunnelfleet.proto import counted
from tunnelfleet.runtime.gateway.placement import SERIAL_MARK

from .budget import OpenBudget
from .facts import (
    AskOutcome,
    AskVerdict,
    CallClose,
    CallDescribe,
    CallOpen,
    CallSearch,
    Demanded,
    DemandPhase,
    EndCause,
    FailKind,
    LetGo,
    Tell,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tunnelfleet.runtime.gateway.config import DemandLimits

    from .facts import Action, SlotLook


CALL_SECONDS = 30.0
"""OpenTunnel has failed that has not answered by then, whatever the thread does that waits."""
CALLS_AT_ONCE = 4
"""OpenTunnel calls that are under way."""
DRAIN_MARGIN_SECONDS = 5.0
"""For the end of a tunnel here, beside the time that its connections have; then it is closed."""
HAND_OVER_SECONDS = 2.0
"""What a connection may need to be seen that was let in when the next tunnel came."""
LAST_LOOK_SECONDS = 5.0
"""Between two looks for a device: the delay doubles up to this."""
LOOKS_PER_SECOND = 5.0
"""DescribeTunnel over all tunnels; AWS allows about 10 a second."""
LAST_PAUSE_SECONDS = 30.0
"""Between two calls of CloseTunnel: the delay doubles up to this."""


class DemandPlan:
    """The tunnels on demand of one gateway.

    Args:
        limits: how long they live and how many there may be; may be replaced at any time.
        now: the time.
        new_request: makes a name for each opening that nothing else has.
    """

    def __init__(self, limits: DemandLimits, now: float, new_request: Callable[[], str]) -> None:
        self._limits = limits
        self._new_request = new_request
        self._budget = OpenBudget(limits, now)
        self._looks = TokenBucket(LOOKS_PER_SECOND, LOOKS_PER_SECOND, now)
        self._tunnels: dict[str, Demanded] = {}
        self._coming: dict[str, Demanded] = {}
        self._serving: dict[str, Demanded] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._told: list[Action] = []
        self._is_closing = False

    @property
    def limits(self) -> DemandLimits:
        """What holds now."""
        return self._limits

    def replace_limits(self, limits: DemandLimits, now: float) -> None:
        """Go by other limits from now on."""
        self._budget.replace_limits(limits, now)
        self._limits = limits

    def __iter__(self) -> Iterator[Demanded]:
        return iter(list(self._tunnels.values()))

    def __len__(self) -> int:
        return len(self._tunnels)

    def find(self, request: str) -> Demanded | None:
        """The tunnel of a request."""
        return self._tunnels.get(request)

    def serving(self, name: str) -> str | None:
        """The tunnel that serves a name."""
        found = self._serving.get(name)
        return None if found is None else found.slot

    def current(self, name: str, now: float) -> str | None:
        """The tunnel that serves a name, which counts as a use of it."""
        found = self._serving.get(name)
        if found is None:
            return None
        found.used_at = now
        return found.slot

    # -- who asks

    def ask(self, name: str, now: float) -> AskVerdict:
        """Somebody wants a thing's tunnel, and may have it."""
        slot = self.current(name, now)
        if slot is not None:
            return AskVerdict(AskOutcome.READY, slot)
        if name in self._coming:
            return AskVerdict(AskOutcome.JOINED)
        self._forget_old(now)
        failed = self._failed.get(name)
        if failed is not None:
            until, text = failed
            text = f"{text} (it is tried again in {max(1, round(until - now))} s)"
            return AskVerdict(AskOutcome.FAILED_BEFORE, text=text)
        refused = self._refused(now)
        if refused is not None:
            return refused
        self._queue(name, now)
        return AskVerdict(AskOutcome.BEGUN)

    def _refused(self, now: float) -> AskVerdict | None:
        limits = self._limits
        if len(self._tunnels) >= limits.max_open:
            text = counted(limits.max_open, "tunnel", "is open", "are open")
            text += " on demand, which is the limit (max_open)"
            return AskVerdict(AskOutcome.FULL, text=text)
        queued = sum(each.phase is DemandPhase.QUEUED for each in self._coming.values())
        if not self._budget.has_left(queued, now):
            text = counted(limits.max_opens_per_hour, "tunnel", "was opened", "were opened")
            text += " within an hour, which is the limit (max_opens_per_hour)"
            return AskVerdict(AskOutcome.TOO_OFTEN, text=text)
        return None

    def _queue(self, name: str, now: float) -> None:
        made = Demanded(self._new_request(), name, self._slot(name), DemandPhase.QUEUED, now, now)
        self._tunnels[made.request] = self._coming[name] = made

    def _slot(self, name: str) -> str:
        """What the next tunnel of a thing is called in the fleet: another name than those it has.

        The first is called as the thing is, the next one `NAME~2`.
        """
        taken = {each.slot for each in self._tunnels.values() if each.name == name}
        others = (f"{name}{SERIAL_MARK}{number}" for number in itertools.count(2))
        return next(slot for slot in itertools.chain([name], others) if slot not in taken)

    def withdraw(self, name: str) -> None:
        """Nobody waits for a name any more: what was not opened yet need not be."""
        found = self._coming.get(name)
        if found is not None and found.phase is DemandPhase.QUEUED and name not in self._serving:
            self._drop(found)

    # -- what OpenTunnel has answered

    def opened(self, request: str, tunnel_id: str, now: float) -> bool:
        """It has opened a tunnel; returns whether somebody waits for it.

        If not, the tunnel is closed: the answer came too late.
        """
        found = self._tunnels.get(request)
        if found is None or found.phase is not DemandPhase.OPENING:
            late = Demanded(request, "", "", DemandPhase.ENDING, now, tunnel_id=tunnel_id)
            late.cause = EndCause.ABANDONED
            late.ends_at = now + self._limits.lifetime_seconds
            self._tunnels[request] = late
            return False
        self._budget.worked()
        found.tunnel_id = tunnel_id
        found.opened_at, found.ends_at = now, now + self._limits.lifetime_seconds
        found.enter(DemandPhase.AWAITED, now)
        if self._is_closing:
            self._end(found, EndCause.STOP, now)
        return not self._is_closing

    def open_failed(self, request: str, kind: FailKind, text: str, now: float) -> None:
        """It has failed."""
        found = self._tunnels.get(request)
        if found is None or found.phase is not DemandPhase.OPENING:
            if kind is FailKind.UNKNOWN:
                self._told.append(CallSearch(request))
            return
        if kind is FailKind.UNKNOWN:
            self._told.append(CallSearch(request))
        else:
            self._budget.give_back(found.since)
        if kind is FailKind.THROTTLED and not self._is_closing:
            self._budget.throttled(now)
            found.enter(DemandPhase.QUEUED, now)
        else:
            self._fail(found, text, now)

    # -- what is known of open tunnels

    def described(self, request: str, *, has_device: bool, is_open: bool, now: float) -> None:
        """DescribeTunnel has answered."""
        found = self._tunnels.get(request)
        if found is None or found.phase is not DemandPhase.AWAITED:
            return
        found.is_calling = False
        found.next_call_at = now + found.delay_seconds
        found.delay_seconds = min(2 * found.delay_seconds, LAST_LOOK_SECONDS)
        if not is_open:
            found.cause = EndCause.LOST
            self._fail(found, f"the tunnel to {found.name} was closed by somebody else", now)
        elif has_device:
            self._serve(found, now)

    def _serve(self, found: Demanded, now: float) -> None:
        before = self._serving.get(found.name)
        if before is not None:
            before.enter(DemandPhase.RETIRING, now)
        del self._coming[found.name]
        found.enter(DemandPhase.READY, now)
        found.used_at = now
        self._serving[found.name] = found
        self._told.append(Tell(found.name, found.slot))

    def closed(self, request: str) -> None:
        """CloseTunnel has worked, or there was nothing to close."""
        found = self._tunnels.get(request)
        if found is not None and found.phase is DemandPhase.ENDING:
            del self._tunnels[request]

    def close_failed(self, request: str, now: float) -> bool:
        """CloseTunnel has failed: it is called again, as long as there is anything to close.

        Returns:
            Whether it is not, for the service has ended the tunnel itself by now.
        """
        found = self._tunnels.get(request)
        if found is None or found.phase is not DemandPhase.ENDING:
            return False
        found.is_calling = False
        found.delay_seconds = min(2 * found.delay_seconds, LAST_PAUSE_SECONDS)
        found.next_call_at = now + found.delay_seconds
        return now >= found.ends_at

    # -- the beginning and the end

    def adopt(self, found: Demanded, now: float) -> bool:
        """Take up a tunnel of an earlier life; the newest of a name first.

        Returns:
            Whether it may serve; else it is closed.
        """
        if found.request in self._tunnels:
            return True
        self._tunnels[found.request] = found
        found.is_adopted = True
        found.enter(DemandPhase.AWAITED, now)
        if now < found.ends_at and not {found.name} & {*self._coming, *self._serving}:
            self._coming[found.name] = found
            return True
        self._end(found, EndCause.LIFETIME if now >= found.ends_at else EndCause.ABANDONED, now)
        return False

    def remember_opens(self, times: Iterable[float]) -> None:
        """Tunnels that an earlier life has opened count for the limit of an hour, too."""
        self._budget.remember(times)

    def restarted(self, now: float) -> None:
        """Whoever carries the actions out has failed, and does not know what it had begun."""
        for each in self:
            each.is_calling = False
            if each.phase is DemandPhase.OPENING:
                self.open_failed(each.request, FailKind.UNKNOWN, "the gateway had to restart", now)

    def close_all(self, now: float) -> None:
        """Close what is open, and open nothing more."""
        self._is_closing = True
        for each in self:
            if each.phase is DemandPhase.QUEUED:
                self._drop(each)
            elif each.phase is not DemandPhase.OPENING:
                self._end(each, EndCause.STOP, now)

    # -- what is to be done now

    def step(
        self,
        now: float,
        look: Callable[[str], SlotLook],
        is_allowed: Callable[[str], bool],
        drain_seconds: float,
    ) -> list[Action]:
        """What is to be done.

        Args:
            now: the time.
            look: tells of a tunnel of the fleet what it is at.
            is_allowed: whether a thing may have a tunnel of this gateway now.
            drain_seconds: what open connections have when their tunnel ends.
        """
        self._forget_old(now)
        actions: list[Action] = []
        for each in self:
            match each.phase:
                case DemandPhase.QUEUED:
                    self._step_queued(each, now)
                case DemandPhase.OPENING:
                    self._step_opening(each, now)
                case DemandPhase.AWAITED:
                    actions += self._step_awaited(each, now, look(each.slot))
                case DemandPhase.READY:
                    self._step_ready(each, now, look(each.slot), is_allowed)
                case DemandPhase.RETIRING:
                    self._step_retiring(each, now, look(each.slot))
                case DemandPhase.ENDING:
                    pass
        actions += self._step_ending(now, look, drain_seconds)
        actions += self._open_next(now)
        told, self._told = self._told, []
        return [*told, *actions]

    def _step_queued(self, each: Demanded, now: float) -> None:
        if now >= each.asked_at + self._limits.wait_seconds:
            text = f"no tunnel to {each.name} was opened within {self._limits.wait_seconds:g} s:"
            self._fail(each, f"{text} OpenTunnel may not be called more often", now)

    def _step_opening(self, each: Demanded, now: float) -> None:
        if now >= each.since + CALL_SECONDS:
            text = f"OpenTunnel for {each.name} has not answered within {CALL_SECONDS:g} s"
            self.open_failed(each.request, FailKind.UNKNOWN, text, now)

    def _step_awaited(self, each: Demanded, now: float, at: SlotLook) -> list[Action]:
        if at.is_down:
            each.cause = EndCause.LOST
            self._fail(each, f"the tunnel to {each.name} does not connect: {at.reason}", now)
        elif now >= each.since + self._limits.wait_seconds:
            each.cause = EndCause.NO_DEVICE
            self._fail(each, self._no_device(each, at), now)
        elif at.is_connected and self._may_look(each, now):
            self._looks.take(1, now)
            each.is_calling = True
            return [CallDescribe(each.request, each.tunnel_id)]
        return []

    def _may_look(self, each: Demanded, now: float) -> bool:
        is_time = not each.is_calling and now >= each.next_call_at
        return is_time and self._looks.wait_seconds(now) <= 0

    def _no_device(self, each: Demanded, at: SlotLook) -> str:
        within = f"within {self._limits.wait_seconds:g} s"
        if not at.is_connected:
            reason = at.reason or "its link does not come up"
            return f"the tunnel to {each.name} has not connected {within}: {reason}"
        return (
            f"{each.name} has not come to its tunnel {within}: is it switched on, and does it "
            "follow its notifications?"
        )

    def _step_ready(
        self, each: Demanded, now: float, at: SlotLook, is_allowed: Callable[[str], bool]
    ) -> None:
        limits = self._limits
        is_near_its_end = now >= each.ends_at - each.lead_seconds
        if at.connections:
            each.used_at = now
        if at.is_down:
            self._end(each, EndCause.LOST, now)
        elif now >= each.ends_at:
            self._end(each, EndCause.LIFETIME, now)
        elif at.connections:
            if is_near_its_end and is_allowed(each.name):
                self._roll_over(each, now)
        elif not is_allowed(each.name):
            self._end(each, EndCause.NOT_ALLOWED, now)
        elif now >= each.used_at + limits.idle_seconds:
            self._end(each, EndCause.IDLE, now)
        elif is_near_its_end and now >= each.used_at + DRAIN_MARGIN_SECONDS:
            # Whoever comes now gets one that lives longer.
            self._end(each, EndCause.LIFETIME, now)

    def _roll_over(self, each: Demanded, now: float) -> None:
        has_failed = each.name in self._failed
        if each.name not in self._coming and not has_failed and self._refused(now) is None:
            self._queue(each.name, now)

    def _step_retiring(self, each: Demanded, now: float, at: SlotLook) -> None:
        is_unused = not at.connections and now >= each.since + HAND_OVER_SECONDS
        if is_unused or now >= each.ends_at:
            self._end(each, EndCause.LIFETIME, now)

    def _step_ending(
        self, now: float, look: Callable[[str], SlotLook], drain_seconds: float
    ) -> Iterator[Action]:
        for each in self:
            if each.phase is not DemandPhase.ENDING or each.is_calling or now < each.next_call_at:
                continue
            is_late = now >= each.since + drain_seconds + DRAIN_MARGIN_SECONDS
            # A gateway that stops has let its connections end already.
            is_late |= each.cause is EndCause.STOP
            if is_late or not each.slot or not look(each.slot).runs:
                each.is_calling = True
                yield CallClose(each.request, each.tunnel_id, each.cause)

    def _open_next(self, now: float) -> Iterator[Action]:
        under_way = sum(each.phase is DemandPhase.OPENING for each in self._tunnels.values())
        queued = [each for each in self._tunnels.values() if each.phase is DemandPhase.QUEUED]
        for each in itertools.islice(queued, max(0, CALLS_AT_ONCE - under_way)):
            if not self._budget.is_open(now):
                return
            self._budget.spend(now)
            each.enter(DemandPhase.OPENING, now)
            yield CallOpen(each.request, each.name, each.slot)

    # -- ends

    def _fail(self, found: Demanded, text: str, now: float) -> None:
        """The tunnel that is on its way to a name will not come."""
        negative_seconds = self._limits.negative_seconds
        if negative_seconds and not found.is_adopted:
            self._failed[found.name] = (now + negative_seconds, text)
        self._told.append(Tell(found.name, "", text))
        if found.tunnel_id:
            self._end(found, found.cause, now)
        else:
            self._drop(found)

    def _drop(self, found: Demanded) -> None:
        """Forget what was not opened."""
        del self._tunnels[found.request]
        del self._coming[found.name]

    def _end(self, found: Demanded, cause: EndCause, now: float) -> None:
        if found.phase is DemandPhase.ENDING:
            return
        if self._coming.get(found.name) is found:
            del self._coming[found.name]
        if self._serving.get(found.name) is found:
            del self._serving[found.name]
        found.enter(DemandPhase.ENDING, now)
        found.cause = cause
        self._told.append(LetGo(found.request, found.slot))

    def _forget_old(self, now: float) -> None:
        for name in [name for name, (until, _text) in self._failed.items() if until <= now]:
            del self._failed[name]
