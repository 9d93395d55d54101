"""A supervisor as in Erlang/OTP, on a dispatcher.

Owns the commands and questions that people, programs and other actors put to it. What it does of
itself is in `supervision`. Must not know what children do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pykka import ActorRef

from .children import ChildCounts, ChildInfo, ChildState, require_spec
from .log import get_logger
from .supervision import Supervision
from .supervisor_messages import (
    ChildBusyError,
    ChildExistsError,
    ChildReady,
    CountChildren,
    DeleteChild,
    RestartChild,
    StartChild,
    StopChild,
    SupervisorError,
    SupervisorStoppingError,
    UnknownChildError,
    WhichChildren,
)

if TYPE_CHECKING:
    from .children import Child
    from .futures import Reply

logger = get_logger(__name__)


class SupervisorActor(Supervision):
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

    def on_receive(self, message: Any) -> Any:
        """Handle a command; a subclass passes on what it does not handle itself."""
        handler = self._commands.get(type(message))
        return super().on_receive(message) if handler is None else handler(self, message)

    def _find(self, child_id: object) -> Child:
        # A message that was made without its constructor may be anything, even unhashable.
        child = self._children.get(child_id) if isinstance(child_id, str) else None
        if child is None:
            raise UnknownChildError(child_id if isinstance(child_id, str) else "?")
        return child

    def _handle_ready(self, message: ChildReady) -> None:
        ref: object = message.ref
        child = self._by_ref.get(ref) if isinstance(ref, ActorRef) else None
        if child is not None and child.spec.reports_ready and child.up_since is None:
            child.up_since = self._clock()

    def _handle_which(self, _message: WhichChildren) -> list[ChildInfo]:
        return [child.info() for child in self._children.values()]

    def _handle_count(self, _message: CountChildren) -> ChildCounts:
        states = [child.state for child in self._children.values()]
        return ChildCounts(
            specs=len(states),
            running=states.count(ChildState.RUNNING),
            waiting=states.count(ChildState.WAITING),
            quarantined=states.count(ChildState.QUARANTINED),
            stopping=states.count(ChildState.STOPPING),
            stopped=states.count(ChildState.STOPPED),
        )

    def _handle_start_child(self, message: StartChild) -> None:
        reply = self.defer_reply()
        spec = message.spec
        try:
            require_spec(spec)
            if self._finishing is not None:
                raise SupervisorStoppingError
            if spec.id in self._children:
                raise ChildExistsError(spec.id)
            child = self._add(spec)
        except (SupervisorError, TypeError, ValueError) as error:
            _refuse(reply, error)
            return
        self._start_on_command(child, reply)
        if child.state is ChildState.STOPPED:
            self._forget(child)

    def _handle_restart_child(self, message: RestartChild) -> None:
        reply = self.defer_reply()
        try:
            child = self._find(message.id)
            if self._finishing is not None:
                raise SupervisorStoppingError
            if child.ref is not None:
                raise ChildBusyError(child.spec.id, child.state)
        except SupervisorError as error:
            _refuse(reply, error)
            return
        child.cancel_timer()
        if child.backoff is not None:
            child.backoff.reset()
        if self._group is not None and child in self._group.members:
            child.start_replies += (reply,)
            self._group.make_due()
            self._start_group_if_due()
        else:
            self._start_on_command(child, reply, is_restart=True)

    def _handle_stop_child(self, message: StopChild) -> None:
        reply = self.defer_reply()
        try:
            child = self._find(message.id)
        except SupervisorError as error:
            _refuse(reply, error)
            return
        child.stop_requested = True
        child.stop_replies += (reply,)
        if child.ref is None:
            child.cancel_timer()
            self._down(child)
            self._start_group_if_due()
        elif child.state is not ChildState.STOPPING:
            self._begin_stop(child)

    def _handle_delete_child(self, message: DeleteChild) -> None:
        reply = self.defer_reply()
        try:
            child = self._find(message.id)
            if child.state is not ChildState.STOPPED:
                raise ChildBusyError(child.spec.id, child.state)
        except SupervisorError as error:
            _refuse(reply, error)
            return
        self._forget(child)
        reply.set(None)

    _commands: ClassVar[dict[type[Any], Callable[[Any, Any], Any]]] = {
        StartChild: _handle_start_child,
        StopChild: _handle_stop_child,
        RestartChild: _handle_restart_child,
        DeleteChild: _handle_delete_child,
        WhichChildren: _handle_which,
        CountChildren: _handle_count,
        ChildReady: _handle_ready,
    }


def _refuse(reply: Reply, error: Exception) -> None:
    """Answer a command that cannot be carried out; log it if nobody waits for the answer."""
    if reply.is_wanted:
        reply.fail(error)
    else:
        logger.warning("a command was refused: %s", error)
