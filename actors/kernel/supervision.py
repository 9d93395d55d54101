"""What keeps a set of children as it should be, as in Erlang/OTP.

Owns the order of starts and stops, restart strategies, restart intensity, backoff and quarantine.
Must not know commands, nor what children do. The length is that of one state machine, whose
transitions are clearer side by side.

Two things may be under way at a time. *Stopping in order*: the children in `_to_stop` are stopped
one after the other, the last first, independent ones together with their neighbours; then `_then`
is called. *A group restart*: children that a strategy restarts together; `_group` is started once
they are down and their delays are over. Ending the supervisor (`_finish`) replaces both.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pykka import ActorRef

from .actor import DispatchedActor
from .children import (
    AutoShutdown,
    Child,
    ChildSpec,
    ChildState,
    GroupRestart,
    Restart,
    RestartIntensity,
    Shutdown,
    Strategy,
    require,
    require_callable,
    require_spec,
)
from .log import get_logger
from .mailbox import DispatchedRef
from .supervisor_messages import ChildStartError, RestartIntensityExceeded
from .watch import KILLED, SHUTDOWN, ExitReason, Terminated

if TYPE_CHECKING:
    from .futures import Reply

logger = get_logger(__name__)


def _check_intensity(max_restarts: int, period_seconds: float) -> None:
    if max_restarts < 0 or not (math.isfinite(period_seconds) and period_seconds > 0):
        msg = (
            "a supervisor needs max_restarts >= 0 and period_seconds > 0, "
            f"not {max_restarts} and {period_seconds}"
        )
        raise ValueError(msg)


class _RestartDue(NamedTuple):
    child: Child


class _GroupDue(NamedTuple):
    pass


class _StopOverdue(NamedTuple):
    child: Child


class _StopNext(NamedTuple):
    pass


_shared_rng: Final = random.Random()  # noqa: S311 - spreads delays, keeps no secret


class Supervision(DispatchedActor):
    """The part of a supervisor that runs by itself; see `SupervisorActor`, which adds commands."""

    def __init__(
        self,
        children: Sequence[ChildSpec] = (),
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        max_restarts: int = 3,
        period_seconds: float = 5.0,
        auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random = _shared_rng,
    ) -> None:
        super().__init__()
        self._strategy = strategy
        self._max_restarts = max_restarts
        self._period_seconds = period_seconds
        self._auto_shutdown = auto_shutdown
        self._clock = clock
        self._rng = rng
        require(self, "_strategy", Strategy)
        require(self, "_max_restarts", int)
        require(self, "_period_seconds", int, float)
        require(self, "_auto_shutdown", AutoShutdown)
        require_callable(rng, "uniform")
        require_callable(self, "_clock")
        _check_intensity(max_restarts, period_seconds)
        self._intensity: RestartIntensity | None = None
        """Made when first needed: most supervisors never restart anything without a backoff."""
        self._children: dict[str, Child] = {}
        self._by_ref: dict[ActorRef[Any], Child] = {}
        self._to_stop: list[Child] = []
        self._asked = 0
        """From this index on the children in `_to_stop` are independent, and were asked to stop."""
        self._asking = False
        """Whether a `_StopNext` is in the mailbox."""
        self._then: Callable[[], None] | None = None
        self._group: GroupRestart | None = None
        self._finishing: ExitReason | None = None
        for spec in children:
            require_spec(spec)
            if spec.id in self._children:
                msg = f"two children have the id {spec.id!r}"
                raise ValueError(msg)
            self._add(spec)

    # Hooks for subclasses, called in the supervisor's turn. They must not raise: it would fail.

    def on_child_started(self, child_id: str, ref: ActorRef[Any]) -> None:
        """Take note that a child was started."""

    def on_child_ended(self, child_id: str, ref: ActorRef[Any], reason: ExitReason) -> None:
        """Take note that a child ended, by itself or because it was stopped."""

    def on_child_waiting(self, child_id: str, delay_seconds: float) -> None:
        """Take note that a child will be restarted after a delay."""

    def on_child_quarantined(self, child_id: str, reason: ExitReason) -> None:
        """Take note that a child failed too often in a row, or again in quarantine."""

    # Starting and ending.

    def on_start(self) -> None:
        """Start the children."""
        for child in list(self._children.values()):
            exception = self._start(child)
            if exception is None:
                continue
            if child.backoff is None:
                reason = self._note_failed_start(child, exception)
                self._finish(ExitReason.failed(ChildStartError(child.spec.id, reason)))
                return
            self._retry_alone(child, exception)

    def on_stop_requested(self) -> bool:
        """Stop the children first, in reverse order."""
        self._finish(SHUTDOWN)
        return False

    def _finish(self, reason: ExitReason) -> None:
        """Stop all children in reverse order, then end with `reason`. The first call counts."""
        if self._finishing is not None:
            return
        self._finishing = reason
        if reason.is_failure:
            logger.error("%s gives up: %s", type(self).__name__, reason)
        self._drop_group()
        children = list(self._children.values())
        for child in children:
            if child.ref is None:
                child.cancel_timer()
                child.state = ChildState.STOPPED
        self._stop_in_order(children, lambda: self.exit(reason))

    def _on_end(self, reason: ExitReason) -> None:
        super()._on_end(reason)
        for ref in reversed(list(self._by_ref)):
            if isinstance(ref, DispatchedRef):
                ref.kill()
            else:
                ref.stop(block=False)
        # A spec's `start` usually refers to the supervisor: drop both now, to leave no cycle.
        self._children.clear()
        self._by_ref.clear()
        self._to_stop.clear()
        self._then = None

    # Messages.

    def on_receive(self, message: Any) -> Any:
        """Handle the ends of children and timers."""
        match message:
            case Terminated(ref=ActorRef() as ref, reason=ExitReason() as reason):
                if ref in self._by_ref:
                    self._ended(ref, reason)
            case _RestartDue(child):
                child.timer = None
                self._start_again(child)
            case _GroupDue():
                self._start_group_if_due()
            case _StopOverdue(child):
                child.timer = None
                self._force(child)
            case _StopNext():
                self._asking = False
                self._advance()
            case _:
                return super().on_receive(message)
        return None

    def _handle_receive(self, message: Any) -> Any:
        """Answer what a proxy asks. A mistake in it is raised at its asker, and nowhere else."""
        try:
            return super()._handle_receive(message)
        except Exception as error:  # noqa: BLE001 - raised at the asker's
            reply = self.defer_reply()
            if reply.is_wanted:
                reply.fail(error)
            else:
                logger.warning("a call by a proxy failed: %s", type(error).__name__)
            return None

    # The set of children.

    def _add(self, spec: ChildSpec) -> Child:
        require_spec(spec)
        if spec.significant and self._auto_shutdown is AutoShutdown.NEVER:
            msg = f"child {spec.id!r} is significant, but auto_shutdown is NEVER"
            raise ValueError(msg)
        child = self._children[spec.id] = Child(spec)
        return child

    def _forget(self, child: Child) -> None:
        del self._children[child.spec.id]
        self._leave_group(child)

    # Starting.

    def _start(self, child: Child, *, is_restart: bool = False) -> BaseException | None:
        """Start a child; return the exception that it failed with, or None."""
        child.stop_requested = False
        child.up_since = None
        try:
            ref = self._start_watched(child.spec)
        except BaseException as exception:  # noqa: BLE001 - whatever it is, the child failed
            return exception
        self._by_ref[ref] = child
        child.ref = ref
        child.state = ChildState.RUNNING
        if not child.spec.reports_ready:
            child.up_since = self._clock()
        if is_restart:
            self._count_restart(child, ref)
        replies, child.start_replies = child.start_replies, ()
        for reply in replies:
            reply.set(ref)
        self.on_child_started(child.spec.id, ref)
        return None

    def _start_watched(self, spec: ChildSpec) -> ActorRef[Any]:
        ref = spec.start()
        try:
            self.watch(ref)
        except TypeError:
            ref.stop(block=False)
            raise
        return ref

    def _count_restart(self, child: Child, ref: ActorRef[Any]) -> None:
        child.restarts += 1
        restarts = self.dispatcher.stats.restarts
        name = ref.actor_class.__name__
        restarts[name] = restarts.get(name, 0) + 1

    def _start_again(self, child: Child) -> None:
        exception = self._start(child, is_restart=True)
        if exception is not None:
            self._retry_alone(child, exception)

    def _start_on_command(self, child: Child, reply: Reply, *, is_restart: bool = False) -> None:
        child.start_replies += (reply,)
        exception = self._start(child, is_restart=is_restart)
        if exception is None:
            return
        if child.backoff is not None:
            self._retry_alone(child, exception)
        else:
            child.state = ChildState.STOPPED
            self._note_failed_start(child, exception)

    def _retry_alone(self, child: Child, exception: BaseException) -> None:
        """Try again later to start a child whose siblings are not concerned."""
        delay_seconds = self._plan_restart(child, self._note_failed_start(child, exception))
        if delay_seconds is not None:
            child.timer = self.schedule(delay_seconds, _RestartDue(child))

    def _note_failed_start(self, child: Child, exception: BaseException) -> ExitReason:
        reason = child.last_reason = ExitReason.failed(exception)
        error = ChildStartError(child.spec.id, reason)
        logger.warning("%s: %s", type(self).__name__, error)
        replies, child.start_replies = child.start_replies, ()
        for reply in replies:
            if child.backoff is None:
                reply.fail(error)
            else:
                reply.set(None)
        return reason

    # Ends.

    def _ended(self, ref: ActorRef[Any], reason: ExitReason) -> None:
        child = self._by_ref.pop(ref)
        was_stopping = child.state is ChildState.STOPPING
        child.ref = None
        child.last_reason = reason
        child.cancel_timer()
        self.on_child_ended(child.spec.id, ref, reason)
        if was_stopping or self._is_to_stop(child):
            self._down(child)
            self._advance()
        elif self._is_restarted_after(child, reason):
            self._restart(child, reason)
        else:
            self._down(child)
            if child.spec.significant:
                self._check_auto_shutdown()

    def _is_to_stop(self, child: Child) -> bool:
        in_group = self._group is not None and child in self._group.members
        return self._finishing is not None or in_group

    @staticmethod
    def _is_restarted_after(child: Child, reason: ExitReason) -> bool:
        if child.spec.restart is Restart.TRANSIENT:
            return not reason.is_normal
        return child.spec.restart is Restart.PERMANENT

    def _down(self, child: Child) -> None:
        """Settle a child that is down and that does not ask for a restart of its own."""
        is_temporary = child.spec.restart is Restart.TEMPORARY
        group = self._group
        if (
            group is not None
            and child in group.members
            and not (is_temporary or child.stop_requested)
        ):
            child.state = ChildState.WAITING
        else:
            child.state = ChildState.STOPPED
            self._leave_group(child)
            self._answer_restarts(child)
            if is_temporary:
                self._forget(child)
        replies, child.stop_replies = child.stop_replies, ()
        for reply in replies:
            reply.set(None)

    @staticmethod
    def _answer_restarts(child: Child) -> None:
        replies, child.start_replies = child.start_replies, ()
        for reply in replies:
            reply.fail(ChildStartError(child.spec.id, SHUTDOWN))

    def _check_auto_shutdown(self) -> None:
        alive = any(
            child.spec.significant and child.state is not ChildState.STOPPED
            for child in self._children.values()
        )
        if self._auto_shutdown is AutoShutdown.ANY_SIGNIFICANT or not alive:
            self._finish(SHUTDOWN)

    # Restarting.

    def _restart(self, child: Child, reason: ExitReason) -> None:
        delay_seconds = self._plan_restart(child, reason)
        if delay_seconds is None:
            return
        if self._strategy is not Strategy.ONE_FOR_ONE:
            self._restart_group(child, delay_seconds)
        elif child.backoff is not None:
            child.timer = self.schedule(delay_seconds, _RestartDue(child))
        else:
            self._start_again(child)

    def _plan_restart(self, child: Child, reason: ExitReason) -> float | None:
        """Return the seconds before a child is restarted; None: the supervisor gives up."""
        if child.backoff is None:
            child.state = ChildState.WAITING
            limits = self._max_restarts, self._period_seconds
            if self._intensity is None:
                self._intensity = RestartIntensity(*limits)
            if self._intensity.allows(self._clock()):
                return 0.0
            error = RestartIntensityExceeded(child.spec.id, reason, *limits)
            self._finish(ExitReason.failed(error))
            return None
        up_seconds = 0.0 if child.up_since is None else self._clock() - child.up_since
        child.up_since = None
        child.backoff.record_failure(up_seconds)
        if child.is_quarantined:
            child.state = ChildState.QUARANTINED
            self.dispatcher.stats.quarantines += 1
            self.on_child_quarantined(child.spec.id, reason)
            return child.backoff.policy.max_seconds
        child.state = ChildState.WAITING
        delay_seconds = child.backoff.next_delay(self._rng)
        self.on_child_waiting(child.spec.id, delay_seconds)
        return delay_seconds

    def _restart_group(self, child: Child, delay_seconds: float, *, is_retry: bool = False) -> None:
        members = self._affected_by(child)
        former = self._group
        if former is not None:
            # One more end before the first was dealt with: all of them, after all delays.
            order = list(self._children.values())
            members = [c for c in order if c in members or c in former.members]
        group = self._group = GroupRestart(members)
        if former is not None:
            group.timers = former.timers
        if delay_seconds > 0 or is_retry:
            group.timers.append(self.schedule(delay_seconds, _GroupDue()))
        for sibling in members:
            if sibling.ref is None and sibling is not child:
                sibling.cancel_timer()
                if sibling.state is ChildState.STOPPED:
                    sibling.state = ChildState.WAITING
        self._stop_in_order(members, self._start_group_if_due)

    def _affected_by(self, child: Child) -> list[Child]:
        children = list(self._children.values())
        if self._strategy is Strategy.REST_FOR_ONE:
            return children[children.index(child) :]
        return children

    def _start_group_if_due(self) -> None:
        group = self._group
        if group is None or self._to_stop or not group.is_due:
            return
        self._group = None
        for child in group.members:
            exception = self._start(child, is_restart=True)
            if exception is not None:
                self._retry_group(child, exception, group)
                return

    def _retry_group(self, child: Child, exception: BaseException, group: GroupRestart) -> None:
        """Go on with a group of which one child could not be started."""
        delay_seconds = self._plan_restart(child, self._note_failed_start(child, exception))
        if delay_seconds is not None:
            self._group = GroupRestart([c for c in group.members if c.ref is None])
            self._restart_group(child, delay_seconds, is_retry=True)

    def _leave_group(self, child: Child) -> None:
        if self._group is not None:
            self._group.remove(child)
            if not self._group.members:
                self._drop_group()

    def _drop_group(self) -> None:
        if self._group is not None:
            self._group.make_due()
            self._group = None

    # Stopping.

    def _stop_in_order(self, children: list[Child], then: Callable[[], None]) -> None:
        """Stop children one after the other, the last of the list first; then call `then`."""
        self._to_stop = list(children)
        self._asked = len(children)
        self._then = then
        self._advance()

    def _advance(self) -> None:
        to_stop = self._to_stop
        while to_stop and to_stop[-1].ref is None:
            to_stop.pop()
        if to_stop:
            self._begin_stop(to_stop[-1])
            if not self._asking:
                self._ask_next()
            return
        then, self._then = self._then, None
        if then is not None:
            then()

    def _ask_next(self) -> None:
        """Let an independent child stop together with those behind it, if they all are.

        One a message: thousands at once would be a long turn, and the first of them would have to
        wait for the last.
        """
        last = self._asked = min(self._asked, len(self._to_stop))
        if last > 0 and self._to_stop[last - 1].spec.independent:
            self._asked = last - 1
            self._begin_stop(self._to_stop[last - 1])
            self._asking = True
            self.actor_ref.tell(_StopNext())

    def _begin_stop(self, child: Child) -> None:
        ref = child.ref
        if ref is None or child.state is ChildState.STOPPING:
            return
        child.state = ChildState.STOPPING
        shutdown = child.spec.shutdown
        if shutdown is Shutdown.BRUTAL_KILL:
            self._force(child)
            return
        ref.stop(block=False)
        if not isinstance(shutdown, Shutdown):
            child.timer = self.schedule(shutdown, _StopOverdue(child))

    def _force(self, child: Child) -> None:
        """End a child that has had its time to stop."""
        ref = child.ref
        if isinstance(ref, DispatchedRef):
            ref.kill()
        elif ref is not None:
            ref.stop(block=False)
            self.unwatch(ref)
            self.dispatcher.stats.abandoned_children += 1
            logger.warning(
                "%s: child %r, a thread, did not stop in its time and is left behind",
                type(self).__name__,
                child.spec.id,
            )
            # This is sent as a message, as the stop of the next child may have led here.
            self.actor_ref.tell(Terminated(ref, KILLED))
