"""A supervisor as in Erlang/OTP, on a dispatcher.

Owns the commands and questions that people, programs and other actors put to it, and carries out
what `supervision` decides: it starts, stops and watches actors, sets timers, answers and logs. Must
not know what children do.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from pykka import ActorRef

from .actor import DispatchedActor
from .children import (
    AutoShutdown,
    Child,
    ChildCounts,
    ChildInfo,
    ChildState,
    Strategy,
    require,
    require_callable,
)
from .log import get_logger
from .mailbox import DispatchedRef
from .supervision import Supervision
from .supervisor_messages import (
    AskToStop,
    CancelGroupTimers,
    CancelTimer,
    ChildReady,
    CountChildren,
    DeleteChild,
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
    RestartChild,
    Settle,
    StartChild,
    StartNow,
    StopChild,
    StopOnTurn,
    SupervisorError,
    WhichChildren,
)
from .watch import KILLED, SHUTDOWN, ExitReason, Terminated

if TYPE_CHECKING:
    from .children import ChildSpec
    from .loop_io import Timer
    from .mailbox import Reply
    from .supervisor_messages import Action

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


class SupervisorActor(DispatchedActor):
    """Starts children in order, restarts those that end, stops all in reverse order.

    Its commands and questions are the messages of `supervisor_messages`. Asked to stop, it stops
    its children, each in its shutdown time, and ends `SHUTDOWN`. If it fails or is killed itself,
    its children are killed: nobody would stop them.

    Args:
        children: started in this order. If one without a backoff cannot be started, the supervisor
            stops those before it and fails with `ChildStartError`.
        strategy: who is restarted with whom.
        max_restarts: of children without a backoff, within `period_seconds`; one more and the
            supervisor stops its children and fails with `RestartIntensityExceeded`.
        period_seconds: see `max_restarts`.
        auto_shutdown: whether it ends with its significant children.
        clock: seconds, monotonic.
        rng: jitters the delays.

    Raises:
        TypeError: an argument is of another type.
        ValueError: two children with one id, a significant child that cannot matter, a negative
            `max_restarts`, a `period_seconds` that is not more than 0.
    """

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
        require(self, "_strategy", Strategy)
        require(self, "_max_restarts", int)
        require(self, "_period_seconds", int, float)
        require(self, "_auto_shutdown", AutoShutdown)
        require_callable(rng, "uniform")
        require_callable(self, "_clock")
        _check_intensity(max_restarts, period_seconds)
        self._supervision = Supervision(
            children,
            strategy=strategy,
            max_restarts=max_restarts,
            period_seconds=period_seconds,
            auto_shutdown=auto_shutdown,
            rng=rng,
        )
        self._todo: deque[Action] | None = None
        """The actions of the present turn that are not carried out yet."""
        self._group_timers: tuple[Timer, ...] = ()

    # -- hooks for subclasses, called in the supervisor's turn: it fails if they raise

    def on_child_started(self, child_id: str, ref: ActorRef[Any]) -> None:
        """Take note that a child was started."""

    def on_child_ended(self, child_id: str, ref: ActorRef[Any], reason: ExitReason) -> None:
        """Take note that a child ended, by itself or because it was stopped."""

    def on_child_waiting(self, child_id: str, delay_seconds: float) -> None:
        """Take note that a child will be restarted after a delay."""

    def on_child_quarantined(self, child_id: str, reason: ExitReason) -> None:
        """Take note that a child failed too often in a row, or again in quarantine."""

    # -- its life

    @property
    def is_finishing(self) -> bool:
        """Whether it stops its children in order to end."""
        return self._supervision.finishing is not None

    def on_start(self) -> None:
        """Start the children."""
        self._act(self._supervision.begin())

    def on_stop_requested(self) -> bool:
        """Stop the children first, in reverse order."""
        self._act(self._supervision.finish(SHUTDOWN))
        return False

    def _on_end(self, reason: ExitReason) -> None:
        super()._on_end(reason)
        for ref in self._supervision.clear():
            if isinstance(ref, DispatchedRef):
                ref.kill()
            else:
                ref.stop(block=False)

    # -- messages

    def on_receive(self, message: Any) -> Any:
        """Handle the ends of children, timers, and commands; a subclass passes on the others."""
        handler = self.FACTS.get(type(message)) or self.COMMANDS.get(type(message))
        return super().on_receive(message) if handler is None else handler(self, message)

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

    # -- facts

    def _on_terminated(self, message: Terminated) -> None:
        ref: object = message.ref
        # What was made without its constructor may be anything.
        if isinstance(ref, ActorRef) and isinstance(message.reason, ExitReason):
            self._act(self._supervision.ended(ref, message.reason, self._clock()))

    def _on_restart_due(self, message: _RestartDue) -> None:
        message.child.timer = None
        self._act(self._supervision.restart_due(message.child))

    def _on_group_due(self, _message: _GroupDue) -> None:
        self._act(self._supervision.group_due())

    def _on_stop_overdue(self, message: _StopOverdue) -> None:
        message.child.timer = None
        self._act(self._supervision.stop_overdue(message.child))

    def _on_stop_next(self, _message: _StopNext) -> None:
        self._act(self._supervision.stop_turn())

    def _on_ready(self, message: ChildReady) -> None:
        ref: object = message.ref
        if isinstance(ref, ActorRef):
            self._supervision.ready(ref, self._clock())

    FACTS: ClassVar[dict[type[Any], Callable[[Any, Any], Any]]] = {
        Terminated: _on_terminated,
        _RestartDue: _on_restart_due,
        _GroupDue: _on_group_due,
        _StopOverdue: _on_stop_overdue,
        _StopNext: _on_stop_next,
        ChildReady: _on_ready,
    }

    # -- commands and questions

    def _decide(self, decide: Callable[[Reply], list[Action]]) -> None:
        """Carry out a command, or refuse it; log that if nobody waits for the answer."""
        reply = self.defer_reply()
        try:
            actions = decide(reply)
        except (SupervisorError, TypeError, ValueError) as error:
            if reply.is_wanted:
                reply.fail(error)
            else:
                logger.warning("a command was refused: %s", error)
            return
        self._act(actions)

    def _on_start_child(self, message: StartChild) -> None:
        self._decide(lambda reply: self._supervision.start_child(message.spec, reply))

    def _on_restart_child(self, message: RestartChild) -> None:
        self._decide(lambda reply: self._supervision.restart_child(message.id, reply))

    def _on_stop_child(self, message: StopChild) -> None:
        self._decide(lambda reply: self._supervision.stop_child(message.id, reply))

    def _on_delete_child(self, message: DeleteChild) -> None:
        self._decide(lambda reply: self._supervision.delete_child(message.id, reply))

    def _which(self, _message: WhichChildren) -> list[ChildInfo]:
        return [child.info() for child in self._supervision.children.values()]

    def _count(self, _message: CountChildren) -> ChildCounts:
        states = [child.state for child in self._supervision.children.values()]
        return ChildCounts(
            specs=len(states),
            running=states.count(ChildState.RUNNING),
            waiting=states.count(ChildState.WAITING),
            quarantined=states.count(ChildState.QUARANTINED),
            stopping=states.count(ChildState.STOPPING),
            stopped=states.count(ChildState.STOPPED),
        )

    COMMANDS: ClassVar[dict[type[Any], Callable[[Any, Any], Any]]] = {
        StartChild: _on_start_child,
        StopChild: _on_stop_child,
        RestartChild: _on_restart_child,
        DeleteChild: _on_delete_child,
        WhichChildren: _which,
        CountChildren: _count,
    }

    # -- actions

    def _act(self, actions: list[Action]) -> None:
        """Carry out actions, and those that follow from them, in order."""
        if self._todo is not None:
            self._todo += actions
            return
        todo = self._todo = deque(actions)
        try:
            while todo:
                action = todo.popleft()
                self.ACTIONS[type(action)](self, action)
        finally:
            self._todo = None

    def _start(self, action: StartNow) -> None:
        try:
            ref = self._start_watched(action.child.spec)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the child failed
            self._act(self._supervision.start_failed(action, error, self._clock()))
        else:
            self._act(self._supervision.started(action, ref, self._clock()))

    def _start_watched(self, spec: ChildSpec) -> ActorRef[Any]:
        ref = spec.start()
        try:
            self.watch(ref)
        except TypeError:
            ref.stop(block=False)
            raise
        return ref

    def _ask_to_stop(self, action: AskToStop) -> None:
        child, deadline_seconds = action
        if child.ref is None:
            return
        child.ref.stop(block=False)
        if deadline_seconds is not None:
            child.timer = self.schedule(deadline_seconds, _StopOverdue(child))

    def _force(self, action: Force) -> None:
        ref = action.child.ref
        if isinstance(ref, DispatchedRef):
            ref.kill()
        elif ref is not None:
            ref.stop(block=False)
            self.unwatch(ref)
            self.dispatcher.stats.abandoned_children += 1
            logger.warning(
                "%s: child %r, a thread, did not stop in its time and is left behind",
                type(self).__name__,
                action.child.spec.id,
            )
            # As a message: its end is a fact of a later turn, as that of any other child.
            self.actor_ref.tell(Terminated(ref, KILLED))

    def _restart_after(self, action: RestartAfter) -> None:
        action.child.timer = self.schedule(action.seconds, _RestartDue(action.child))

    def _cancel_timer(self, action: CancelTimer) -> None:
        action.child.cancel_timer()

    def _group_after(self, action: GroupAfter) -> None:
        running = [timer for timer in self._group_timers if timer.active]
        self._group_timers = (*running, self.schedule(action.seconds, _GroupDue()))

    def _cancel_group_timers(self, _action: CancelGroupTimers) -> None:
        for timer in self._group_timers:
            timer.cancel()
        self._group_timers = ()

    def _stop_on_turn(self, _action: StopOnTurn) -> None:
        self.actor_ref.tell(_StopNext())

    def _exit_now(self, action: ExitNow) -> None:
        self.exit(action.reason)

    def _settle(self, action: Settle) -> None:
        if action.error is None:
            action.reply.set(action.value)
        else:
            action.reply.fail(action.error)

    def _note_started(self, action: NoteStarted) -> None:
        if action.is_restart:
            restarts = self.dispatcher.stats.restarts
            name = action.ref.actor_class.__name__
            restarts[name] = restarts.get(name, 0) + 1
        self.on_child_started(action.child.spec.id, action.ref)

    def _note_failed_start(self, action: NoteFailedStart) -> None:
        logger.warning("%s: %s", type(self).__name__, action.error)

    def _note_ended(self, action: NoteEnded) -> None:
        self.on_child_ended(action.child.spec.id, action.ref, action.reason)

    def _note_waiting(self, action: NoteWaiting) -> None:
        self.on_child_waiting(action.child.spec.id, action.seconds)

    def _note_quarantined(self, action: NoteQuarantined) -> None:
        self.dispatcher.stats.quarantines += 1
        self.on_child_quarantined(action.child.spec.id, action.reason)

    def _note_giving_up(self, action: NoteGivingUp) -> None:
        logger.error("%s gives up: %s", type(self).__name__, action.reason)

    ACTIONS: ClassVar[dict[type[Any], Callable[[Any, Any], None]]] = {
        StartNow: _start,
        AskToStop: _ask_to_stop,
        Force: _force,
        RestartAfter: _restart_after,
        CancelTimer: _cancel_timer,
        GroupAfter: _group_after,
        CancelGroupTimers: _cancel_group_timers,
        StopOnTurn: _stop_on_turn,
        ExitNow: _exit_now,
        Settle: _settle,
        NoteStarted: _note_started,
        NoteFailedStart: _note_failed_start,
        NoteEnded: _note_ended,
        NoteWaiting: _note_waiting,
        NoteQuarantined: _note_quarantined,
        NoteGivingUp: _note_giving_up,
    }
