"""What keeps a set of children as it should be, as in Erlang/OTP: facts in, actions out.

Owns the order of starts and stops, restart strategies, restart intensity, backoff and quarantine.
Pure: whoever holds it (see `supervisor`) tells it what has happened, each time with the time, and
carries out the actions that it returns, in order. It starts no actor, sets no timer and logs
nothing; refs and replies are handed through as they came.

    actions = supervision.begin(now)
    # StartNow(child, ...): start it, then
    actions += supervision.started(action, ref, now)      # or start_failed(action, error, now)

Two things may be under way at a time. *Stopping in order*: the children in `_to_stop` are stopped
one after the other, the last first, independent ones together with their neighbours; then `_after`
says what follows. *A group restart*: children that a strategy restarts together; `_group` is
started once they are down and their delays are over. Ending (`finish`) replaces both.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from pykka import ActorRef

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
    require_spec,
)
from .supervisor_messages import (
    AskToStop,
    CancelGroupTimers,
    CancelTimer,
    ChildBusyError,
    ChildExistsError,
    ChildStartError,
    ExitNow,
    Force,
    GroupAfter,
    NoteEnded,
    NoteFailedStart,
    NoteGivingUp,
    NoteQuarantined,
    NoteStarted,
    NoteWaiting,
    RestartAfter,
    RestartIntensityExceeded,
    Settle,
    StartKind,
    StartNow,
    StopOnTurn,
    SupervisorStoppingError,
    UnknownChildError,
)
from .watch import SHUTDOWN, ExitReason

if TYPE_CHECKING:
    from .mailbox import Reply
    from .supervisor_messages import Action


class _After(Enum):
    """What follows when the children that are stopped in order are down."""

    NOTHING = auto()
    GROUP = auto()
    EXIT = auto()


class Supervision:
    """The state of one supervisor's children.

    Each method that is told a fact returns the actions that follow.

    Args:
        specs: of the children, in the order of their start.
        strategy: who is restarted with whom.
        max_restarts: of children without a backoff, within `period_seconds`.
        period_seconds: see `max_restarts`.
        auto_shutdown: whether it ends with its significant children.
        rng: jitters the delays.

    Attributes:
        children: by id, in the order of their start.
        by_ref: those that are up.
        finishing: why it ends, once it does.

    Raises:
        TypeError: what should be a spec is none.
        ValueError: two children with one id, or a significant child that cannot matter.
    """

    __slots__ = (
        "_after",
        "_asked",
        "_asking",
        "_auto_shutdown",
        "_group",
        "_intensity",
        "_limits",
        "_out",
        "_restarting",
        "_rng",
        "_strategy",
        "_to_start",
        "_to_stop",
        "by_ref",
        "children",
        "finishing",
    )

    def __init__(
        self,
        specs: Iterable[ChildSpec],
        *,
        strategy: Strategy,
        max_restarts: int,
        period_seconds: float,
        auto_shutdown: AutoShutdown,
        rng: random.Random,
    ) -> None:
        self._strategy = strategy
        self._limits = max_restarts, period_seconds
        self._auto_shutdown = auto_shutdown
        self._rng = rng
        self._intensity: RestartIntensity | None = None
        """Made when first needed: most supervisors never restart anything without a backoff."""
        self.children: dict[str, Child] = {}
        self.by_ref: dict[ActorRef[Any], Child] = {}
        self.finishing: ExitReason | None = None
        self._out: list[Action] = []
        self._to_start: list[Child] = []
        """What is started one after the other, the next one last."""
        self._to_stop: list[Child] = []
        self._asked = 0
        """From this index on the children in `_to_stop` are independent, and were asked to stop."""
        self._asking = False
        """Whether a `StopOnTurn` is on its way."""
        self._after = _After.NOTHING
        self._group: GroupRestart | None = None
        self._restarting: GroupRestart | None = None
        """The group whose members are being started."""
        for spec in specs:
            require_spec(spec)
            if spec.id in self.children:
                msg = f"two children have the id {spec.id!r}"
                raise ValueError(msg)
            self._add(spec)

    def _take(self) -> list[Action]:
        actions, self._out = self._out, []
        return actions

    # -- facts: starts

    def begin(self) -> list[Action]:
        """The supervisor has started: start the children."""
        self._to_start = list(reversed(self.children.values()))
        self._start_next(StartKind.BEGIN)
        return self._take()

    def started(self, start: StartNow, ref: ActorRef[Any], now: float) -> list[Action]:
        """A child was started."""
        child, kind = start
        child.stop_requested = False
        child.up_since = None if child.spec.reports_ready else now
        self.by_ref[ref] = child
        child.ref = ref
        child.state = ChildState.RUNNING
        child.restarts += kind.is_restart
        replies, child.start_replies = child.start_replies, ()
        self._out += [Settle(reply, ref) for reply in replies]
        self._out.append(NoteStarted(child, ref, kind.is_restart))
        if kind in (StartKind.BEGIN, StartKind.GROUP):
            self._start_next(kind)
        return self._take()

    def start_failed(self, start: StartNow, error: BaseException, now: float) -> list[Action]:
        """A child could not be started."""
        child, kind = start
        child.stop_requested = False
        child.up_since = None
        reason = self._note_failed_start(child, error)
        if kind is StartKind.GROUP:
            self._retry_group(child, reason, now)
        elif child.backoff is not None or kind is StartKind.ALONE:
            self._retry_alone(child, reason, now)
            if kind is StartKind.BEGIN:
                self._start_next(kind)
        elif kind is StartKind.BEGIN:
            self._finish(ExitReason.failed(ChildStartError(child.spec.id, reason)))
        else:
            child.state = ChildState.STOPPED
            if kind is StartKind.ADDED:
                self._forget(child)
        return self._take()

    def ready(self, ref: ActorRef[Any], now: float) -> None:
        """A child that reports so works from now on."""
        child = self.by_ref.get(ref)
        if child is not None and child.spec.reports_ready and child.up_since is None:
            child.up_since = now

    def _start_next(self, kind: StartKind) -> None:
        if self._to_start:
            self._out.append(StartNow(self._to_start.pop(), kind))

    def _note_failed_start(self, child: Child, error: BaseException) -> ExitReason:
        reason = child.last_reason = ExitReason.failed(error)
        failed = ChildStartError(child.spec.id, reason)
        self._out.append(NoteFailedStart(failed))
        replies, child.start_replies = child.start_replies, ()
        # With a backoff it is kept, and tried again.
        told = failed if child.backoff is None else None
        self._out += [Settle(reply, error=told) for reply in replies]
        return reason

    def _retry_alone(self, child: Child, reason: ExitReason, now: float) -> None:
        """Try again later to start a child whose siblings are not concerned."""
        seconds = self._plan_restart(child, reason, now)
        if seconds is not None:
            self._out.append(RestartAfter(child, seconds))

    # -- facts: ends and timers

    def ended(self, ref: ActorRef[Any], reason: ExitReason, now: float) -> list[Action]:
        """A child has ended, by itself or because it was stopped."""
        child = self.by_ref.pop(ref, None)
        if child is None:
            return []
        was_stopping = child.state is ChildState.STOPPING
        child.ref = None
        child.last_reason = reason
        self._out += (CancelTimer(child), NoteEnded(child, ref, reason))
        if was_stopping or self._is_to_stop(child):
            self._down(child)
            self._advance()
        elif self._is_restarted_after(child, reason):
            self._restart(child, reason, now)
        else:
            self._down(child)
            if child.spec.significant:
                self._check_auto_shutdown()
        return self._take()

    def restart_due(self, child: Child) -> list[Action]:
        """The delay of a child that is restarted alone is over."""
        self._out.append(StartNow(child, StartKind.ALONE))
        return self._take()

    def group_due(self) -> list[Action]:
        """A delay of the group is over."""
        if self._group is not None:
            self._group.delays -= 1
            self._start_group_if_due()
        return self._take()

    def stop_overdue(self, child: Child) -> list[Action]:
        """A child has had its time to stop."""
        return [Force(child)]

    def stop_turn(self) -> list[Action]:
        """A turn has come for the next child to be asked to stop."""
        self._asking = False
        self._advance()
        return self._take()

    def finish(self, reason: ExitReason) -> list[Action]:
        """Stop all children in reverse order, then end with `reason`. The first call counts."""
        self._finish(reason)
        return self._take()

    def clear(self) -> list[ActorRef[Any]]:
        """The supervisor has ended: forget everything, and return who is still up, last first.

        A spec's `start` usually refers to the supervisor: this leaves no cycle.
        """
        refs = list(reversed(self.by_ref))
        self.children.clear()
        self.by_ref.clear()
        self._to_stop.clear()
        self._to_start.clear()
        self._group = self._restarting = None
        self._after = _After.NOTHING
        return refs

    # -- commands

    def find(self, child_id: object) -> Child:
        """The child of that id.

        Raises:
            UnknownChildError: there is none.
        """
        # A message that was made without its constructor may be anything, even unhashable.
        child = self.children.get(child_id) if isinstance(child_id, str) else None
        if child is None:
            raise UnknownChildError(child_id if isinstance(child_id, str) else "?")
        return child

    def start_child(self, spec: ChildSpec, reply: Reply) -> list[Action]:
        """Add a child and start it.

        Raises:
            SupervisorError: it is there already, or the supervisor ends.
            TypeError: it is no spec.
            ValueError: it is significant and cannot matter.
        """
        require_spec(spec)
        if self.finishing is not None:
            raise SupervisorStoppingError
        if spec.id in self.children:
            raise ChildExistsError(spec.id)
        child = self._add(spec)
        child.start_replies += (reply,)
        return [StartNow(child, StartKind.ADDED)]

    def restart_child(self, child_id: object, reply: Reply) -> list[Action]:
        """Start a child that is down, at once.

        Raises:
            SupervisorError: it is unknown or not down, or the supervisor ends.
        """
        child = self.find(child_id)
        if self.finishing is not None:
            raise SupervisorStoppingError
        if child.ref is not None:
            raise ChildBusyError(child.spec.id, child.state)
        if child.backoff is not None:
            child.backoff.reset()
        child.start_replies += (reply,)
        self._out.append(CancelTimer(child))
        if self._group is not None and child in self._group.members:
            self._make_group_due(self._group)
            self._start_group_if_due()
        else:
            self._out.append(StartNow(child, StartKind.COMMANDED))
        return self._take()

    def stop_child(self, child_id: object, reply: Reply) -> list[Action]:
        """Stop a child and keep it stopped.

        Raises:
            UnknownChildError: there is none of that id.
        """
        child = self.find(child_id)
        child.stop_requested = True
        child.stop_replies += (reply,)
        if child.ref is None:
            self._out.append(CancelTimer(child))
            self._down(child)
            self._start_group_if_due()
        elif child.state is not ChildState.STOPPING:
            self._begin_stop(child)
        return self._take()

    def delete_child(self, child_id: object, reply: Reply) -> list[Action]:
        """Forget a child that is stopped.

        Raises:
            SupervisorError: it is unknown, or not stopped.
        """
        child = self.find(child_id)
        if child.state is not ChildState.STOPPED:
            raise ChildBusyError(child.spec.id, child.state)
        self._forget(child)
        self._out.append(Settle(reply))
        return self._take()

    # -- the set of children

    def _add(self, spec: ChildSpec) -> Child:
        if spec.significant and self._auto_shutdown is AutoShutdown.NEVER:
            msg = f"child {spec.id!r} is significant, but auto_shutdown is NEVER"
            raise ValueError(msg)
        child = self.children[spec.id] = Child(spec)
        return child

    def _forget(self, child: Child) -> None:
        del self.children[child.spec.id]
        self._leave_group(child)

    # -- what an end leads to

    def _is_to_stop(self, child: Child) -> bool:
        in_group = self._group is not None and child in self._group.members
        return self.finishing is not None or in_group

    @staticmethod
    def _is_restarted_after(child: Child, reason: ExitReason) -> bool:
        if child.spec.restart is Restart.TRANSIENT:
            return not reason.is_normal
        return child.spec.restart is Restart.PERMANENT

    def _down(self, child: Child) -> None:
        """Settle a child that is down and that does not ask for a restart of its own."""
        is_temporary = child.spec.restart is Restart.TEMPORARY
        in_group = self._group is not None and child in self._group.members
        if in_group and not (is_temporary or child.stop_requested):
            child.state = ChildState.WAITING
        else:
            child.state = ChildState.STOPPED
            self._leave_group(child)
            replies, child.start_replies = child.start_replies, ()
            error = ChildStartError(child.spec.id, SHUTDOWN)
            self._out += [Settle(reply, error=error) for reply in replies]
            if is_temporary:
                self._forget(child)
        replies, child.stop_replies = child.stop_replies, ()
        self._out += [Settle(reply) for reply in replies]

    def _check_auto_shutdown(self) -> None:
        alive = any(
            child.spec.significant and child.state is not ChildState.STOPPED
            for child in self.children.values()
        )
        if self._auto_shutdown is AutoShutdown.ANY_SIGNIFICANT or not alive:
            self._finish(SHUTDOWN)

    # -- restarting

    def _restart(self, child: Child, reason: ExitReason, now: float) -> None:
        seconds = self._plan_restart(child, reason, now)
        if seconds is None:
            return
        if self._strategy is not Strategy.ONE_FOR_ONE:
            self._restart_group(child, seconds)
        elif child.backoff is not None:
            self._out.append(RestartAfter(child, seconds))
        else:
            self._out.append(StartNow(child, StartKind.ALONE))

    def _plan_restart(self, child: Child, reason: ExitReason, now: float) -> float | None:
        """Return the seconds before a child is restarted; None: the supervisor gives up."""
        if child.backoff is None:
            child.state = ChildState.WAITING
            if self._intensity is None:
                self._intensity = RestartIntensity(*self._limits)
            if self._intensity.allows(now):
                return 0.0
            error = RestartIntensityExceeded(child.spec.id, reason, *self._limits)
            self._finish(ExitReason.failed(error))
            return None
        up_seconds = 0.0 if child.up_since is None else now - child.up_since
        child.up_since = None
        child.backoff.record_failure(up_seconds)
        if child.is_quarantined:
            child.state = ChildState.QUARANTINED
            self._out.append(NoteQuarantined(child, reason))
            return child.backoff.policy.max_seconds
        child.state = ChildState.WAITING
        seconds = child.backoff.next_delay(self._rng)
        self._out.append(NoteWaiting(child, seconds))
        return seconds

    def _restart_group(self, child: Child, seconds: float, *, is_retry: bool = False) -> None:
        group = self._group = self._group_of(child)
        if seconds > 0 or is_retry:
            group.delays += 1
            self._out.append(GroupAfter(seconds))
        for sibling in group.members:
            if sibling.ref is None and sibling is not child:
                self._out.append(CancelTimer(sibling))
                if sibling.state is ChildState.STOPPED:
                    sibling.state = ChildState.WAITING
        self._stop_in_order(group.members, _After.GROUP)

    def _group_of(self, child: Child) -> GroupRestart:
        """Who is restarted with a child, and with those that are to be restarted already."""
        order = list(self.children.values())
        members = order
        if self._strategy is Strategy.REST_FOR_ONE:
            members = order[order.index(child) :]
        former = self._group
        if former is None:
            return GroupRestart(members)
        # One more end before the first was dealt with: all of them, after all delays.
        members = [each for each in order if each in members or each in former.members]
        return GroupRestart(members, former.delays)

    def _start_group_if_due(self) -> None:
        group = self._group
        if group is None or self._to_stop or group.delays:
            return
        self._group, self._restarting = None, group
        self._to_start = list(reversed(group.members))
        self._start_next(StartKind.GROUP)

    def _retry_group(self, child: Child, reason: ExitReason, now: float) -> None:
        """Go on with a group of which one child could not be started."""
        group, self._restarting = self._restarting, None
        self._to_start.clear()
        seconds = self._plan_restart(child, reason, now)
        if seconds is not None and group is not None:
            self._group = GroupRestart([each for each in group.members if each.ref is None])
            self._restart_group(child, seconds, is_retry=True)

    def _leave_group(self, child: Child) -> None:
        if self._group is not None:
            self._group.remove(child)
            if not self._group.members:
                self._drop_group()

    def _make_group_due(self, group: GroupRestart) -> None:
        group.delays = 0
        self._out.append(CancelGroupTimers())

    def _drop_group(self) -> None:
        if self._group is not None:
            self._make_group_due(self._group)
            self._group = None

    # -- stopping

    def _finish(self, reason: ExitReason) -> None:
        if self.finishing is not None:
            return
        self.finishing = reason
        if reason.is_failure:
            self._out.append(NoteGivingUp(reason))
        self._drop_group()
        self._to_start.clear()
        children = list(self.children.values())
        for child in children:
            if child.ref is None:
                self._out.append(CancelTimer(child))
                child.state = ChildState.STOPPED
        self._stop_in_order(children, _After.EXIT)

    def _stop_in_order(self, children: list[Child], after: _After) -> None:
        """Stop children one after the other, the last of the list first; then do what follows."""
        self._to_stop = list(children)
        self._asked = len(children)
        self._after = after
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
        after, self._after = self._after, _After.NOTHING
        if after is _After.GROUP:
            self._start_group_if_due()
        elif after is _After.EXIT and self.finishing is not None:
            self._out.append(ExitNow(self.finishing))

    def _ask_next(self) -> None:
        """Let an independent child stop together with those behind it, if they all are.

        One a turn: thousands at once would be a long turn, and the first of them would have to
        wait for the last.
        """
        last = self._asked = min(self._asked, len(self._to_stop))
        if last > 0 and self._to_stop[last - 1].spec.independent:
            self._asked = last - 1
            self._begin_stop(self._to_stop[last - 1])
            self._asking = True
            self._out.append(StopOnTurn())

    def _begin_stop(self, child: Child) -> None:
        if child.ref is None or child.state is ChildState.STOPPING:
            return
        child.state = ChildState.STOPPING
        shutdown = child.spec.shutdown
        if shutdown is Shutdown.BRUTAL_KILL:
            self._out.append(Force(child))
        else:
            deadline_seconds = None if isinstance(shutdown, Shutdown) else shutdown
            self._out.append(AskToStop(child, deadline_seconds))
