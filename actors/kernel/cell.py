"""The cell of an actor: a mailbox whose mail is handled in turns, until its end.

Owns what a mailbox holds beside users' messages, in which order it is handled, what a failure leads
to, and what is taken down with an actor. A cell is worked on by its dispatcher, and calls it as a
`DispatcherLike`. Must not know supervisors.
"""

from __future__ import annotations

import traceback as tracebacks
import weakref
from _thread import get_ident
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pykka import Actor, ActorDeadError, ActorRef, ActorRegistry, Future
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr

from .compat import ActorStop, Envelope
from .few import Few, including, without
from .log import contained, get_logger
from .loop_io import Timer
from .mailbox import DispatchedRef, Mailbox, Reply, resolve, resolve_exception
from .watch import (
    KILLED,
    SHUTDOWN,
    Ended,
    ExitKind,
    ExitReason,
    Terminated,
    stop_watching,
    tell_terminated,
)

if TYPE_CHECKING:
    from .context import DispatcherLike
    from .loop_io import Registration


class Launch(NamedTuple):
    """Put a new actor, made on another thread, into the run queue."""


class Start(NamedTuple):
    """First item of every mailbox: run `on_start`."""


class Kill(NamedTuple):
    """End the actor now, without any hook."""


class Piped(NamedTuple):
    """A future that was given to `pipe_to_self` is resolved."""

    make_message: Callable[[Any], Any]
    future: Any
    discard: Callable[[Any], object] | None


LAUNCH: Final = Launch()
START: Final = Start()
KILL: Final = Kill()


def kind_of(item: Any) -> str:
    """Name the type of a message, or the method that a socket's readiness calls; no content."""
    if isinstance(item, Envelope | Timer):
        item = item.message
    name = getattr(item, "__name__", None)
    return name if isinstance(name, str) else type(item).__name__


# ruff: noqa: SLF001 - the table of item types names methods of this class


logger = get_logger(__name__)


class ActorCell(Mailbox):
    """One actor's mailbox, its turns and its end. It is also the actor's `actor_inbox`.

    Args:
        dispatcher: the one whose thread runs the actor.
    """

    __slots__ = (
        "_old_ref",
        "_ref",
        "actor",
        "actor_class",
        "asked",
        "exit_reason",
        "failed_ask",
        "label",
        "registered",
        "registrations",
        "replies",
        "stop_waiters",
        "stopping",
        "timers",
        "told",
        "watchers",
        "watching",
    )

    def __init__(self, dispatcher: DispatcherLike, actor: Actor) -> None:
        super().__init__(dispatcher, START)
        self.actor: Any = actor
        self.actor_class: type[Actor] = type(actor)
        self._ref: DispatchedRef[Any] | None = DispatchedRef(self, self.actor_class)
        self._old_ref: weakref.ref[DispatchedRef[Any]] | None = None
        self.label = dispatcher.label_here()
        """What the actor belongs to, for the log. At first this is the label of who starts it."""
        self.exit_reason: ExitReason | None = None
        """Set when the actor is to end as soon as the current handler returns."""
        self.told = False
        """Its watchers have been told. Whoever begins to watch now gets `NOPROC`."""
        self.stopping = False
        self.registered = False
        self.asked: Future[Any] | None = None
        self.failed_ask: Future[Any] | None = None
        self.stop_waiters: list[Future[Any]] | None = None
        self.replies: Few[Reply] = ()
        self.timers: Few[Timer] = ()
        self.registrations: Few[Registration] = ()
        self.watchers: Few[ActorRef[Any]] = ()
        self.watching: Few[ActorRef[Any]] = ()

    @property
    def ref(self) -> DispatchedRef[Any]:
        """The actor's ref: the same object for as long as anybody can tell."""
        ref = self._ref
        if ref is None and self._old_ref is not None:
            ref = self._old_ref()
        return ref or DispatchedRef(self, self.actor_class)

    def _let_go_of_ref(self) -> None:
        """Keep the ref only weakly, so that no cycle of references outlives the actor."""
        # The order matters: another thread must find it in one place or the other.
        self._old_ref = weakref.ref(self.ref)
        self._ref = None

    # Sending: any thread.

    def put(self, envelope: Envelope[Any], /) -> None:
        """Take an envelope, as pykka's inboxes do."""
        reply_to = envelope.reply_to
        if not self.send(envelope.message if reply_to is None else envelope):
            self.refuse(envelope)

    def get(self) -> Envelope[Any]:
        """Nobody may call this: only the dispatcher takes mail out."""
        msg = "the mail of a dispatched actor is taken by its dispatcher"
        raise NotImplementedError(msg)

    def empty(self) -> bool:
        """Whether no mail waits."""
        return not self.items

    def kill(self) -> None:
        """End the actor in its next turn, before any mail."""
        if get_ident() == self.dispatcher.thread_id:
            self._kill_next()
        else:
            self.dispatcher.post(self, KILL)

    def deliver(self, item: Any) -> None:
        """Take an item that another thread has posted; dispatcher's thread only."""
        if item is LAUNCH:
            self.dispatcher.launch(self)
        elif item is KILL:
            self._kill_next()
        elif not self.send(item):
            self.refuse(item)

    def _kill_next(self) -> None:
        if self.send(KILL):
            # It goes to the front, so that what is in the mailbox stays unhandled.
            self.items.rotate(1)

    def add_watcher(self, watcher: ActorRef[Any]) -> bool:
        """Tell `watcher` when the actor has ended; return False if it already has."""
        with self.dispatcher.lock:
            if self.told:
                return False
            self.watchers = including(self.watchers, watcher)
            return True

    def remove_watcher(self, watcher: ActorRef[Any]) -> None:
        """Undo `add_watcher`."""
        with self.dispatcher.lock:
            self.watchers = without(self.watchers, watcher)

    # Handling: the dispatcher's thread.

    def handle(self, item: Any) -> Any:
        """Handle one item that may be anything."""
        special = SPECIAL.get(type(item))
        return self.actor.on_receive(item) if special is None else special(self, item)

    def _handle_ask(self, envelope: Envelope[Any]) -> None:
        if type(envelope.message) is ActorStop:
            self._request_stop(envelope.reply_to)
            return
        self.asked = envelope.reply_to
        try:
            response = self.handle(envelope.message)
        except BaseException:
            self.failed_ask = envelope.reply_to
            raise
        asked, self.asked = self.asked, None
        if asked is not None:
            resolve(asked, response)

    def defer_reply(self) -> Reply:
        """Take over the answer to the ask that is being handled."""
        asked, self.asked = self.asked, None
        reply = Reply(self, asked)
        if asked is not None:
            self.replies = including(self.replies, reply)
        return reply

    def _handle_stop(self, _stop: ActorStop) -> None:
        self._request_stop(None)

    def _request_stop(self, waiter: Future[Any] | None) -> None:
        if waiter is not None:
            self.stop_waiters = [*(self.stop_waiters or ()), waiter]
        if self.stopping:
            return
        self.stopping = True
        if self.actor.on_stop_requested():
            self.exit(SHUTDOWN)

    def _handle_start(self, _start: Start) -> None:
        self.actor.on_start()

    def _handle_kill(self, _kill: Kill) -> None:
        self.exit_reason = KILLED

    def _handle_timer(self, timer: Timer) -> None:
        if timer.active:
            timer.expire()
            self.actor.on_receive(timer.message)

    def _handle_ended(self, notice: Ended) -> None:
        if self.forget_watched(notice.ref):
            self.actor.on_receive(Terminated(notice.ref, notice.reason))

    def forget_watched(self, ref: ActorRef[Any]) -> bool:
        """Take a ref out of `watching`; return whether it was in."""
        if ref not in self.watching:
            return False
        self.watching = without(self.watching, ref)
        return True

    def _handle_piped(self, piped: Piped) -> None:
        try:
            self.actor.on_receive(piped.make_message(piped.future))
        except BaseException:
            # Whatever was taken of it before is closed with the actor, and again does no harm.
            self.refuse(piped)
            raise

    def _handle_proxy(self, message: ProxyCall | ProxyGetAttr | ProxySetAttr) -> Any:
        return self.actor._handle_receive(message)

    # Ending: the dispatcher's thread.

    def exit(self, reason: ExitReason) -> None:
        """End when the current handler returns; the first reason given stands."""
        if self.exit_reason is None:
            self.exit_reason = reason
            logger.debug("%s ends itself: %s", type(self.actor).__name__, reason)

    def fail(self, exception: BaseException) -> None:
        """End because of an exception, which overrides a reason given before it."""
        self.exit_reason = ExitReason.failed(_without_caller(exception))
        self._report_failure(exception)

    def end(self) -> None:
        """End the actor with its `exit_reason`. Raises nothing, whatever the hooks do."""
        with self.dispatcher.lock:
            self.ended = True
        self._release()
        self._unregister()
        reason = self._run_hooks(self.exit_reason or KILLED)
        self._release()
        self._refuse_mail()
        self._answer_askers(reason)
        self.dispatcher.forget(self)
        self.actor = None
        self._tell_watchers(reason)

    def _unregister(self) -> None:
        if self.registered:
            # pykka logs it, and the host's handlers may raise.
            with contained():
                ActorRegistry.unregister(self.ref)

    def _release(self) -> None:
        for timer in list(self.timers):
            timer.cancel()
        for registration in list(self.registrations):
            registration.forget()
        watching, self.watching = self.watching, ()
        for ref in watching:
            stop_watching(ref, self.ref)

    def _run_hooks(self, reason: ExitReason) -> ExitReason:
        if reason.exception is not None:
            self._guard(lambda: self.actor.on_failure(*_exc_info(reason.exception)))
        elif reason.kind is not ExitKind.KILLED:
            exception = self._guard(lambda: self.actor.on_stop())  # noqa: PLW0108
            if exception is not None:
                reason = ExitReason.failed(exception)
        self._guard(lambda: self.actor._on_end(reason))
        return reason

    def _guard(self, hook: Callable[[], object]) -> BaseException | None:
        try:
            hook()
        except BaseException as exception:  # noqa: BLE001
            self._report_failure(_without_caller(exception))
            return exception
        return None

    def _report_failure(self, exception: BaseException) -> None:
        self.dispatcher.count_failure(type(self.actor).__name__)
        logger.error("Unhandled exception in %s:", self.ref, exc_info=exception)

    def _refuse_mail(self) -> None:
        while self.items:
            self.refuse(self.items.popleft())

    def refuse(self, item: Any) -> None:
        """Answer an item that nobody will handle: a dead letter."""
        kind = type(item)
        if kind is Envelope:
            self._refuse_ask(item)
        elif kind is Piped:
            if item.discard is not None:
                self._guard(lambda: item.discard(item.future))
        elif kind not in _NO_LETTERS:
            self.dispatcher.count_dead_letter(self.ref, item)

    def _refuse_ask(self, envelope: Envelope[Any]) -> None:
        reply_to = envelope.reply_to
        if reply_to is None:
            self.dispatcher.count_dead_letter(self.ref, envelope.message)
        elif type(envelope.message) is ActorStop:
            resolve(reply_to, True)
        else:
            error = ActorDeadError(f"{self.ref} stopped before handling the message")
            resolve_exception(reply_to, error)

    def _answer_askers(self, reason: ExitReason) -> None:
        failed_ask, self.failed_ask = self.failed_ask, None
        if failed_ask is not None and reason.exception is not None:
            resolve_exception(failed_ask, reason.exception, reason.exception.__traceback__)
        for reply in list(self.replies):
            reply.fail(ActorDeadError(f"{self.ref} stopped before it answered"))
        waiters, self.stop_waiters = self.stop_waiters, None
        for waiter in waiters or ():
            resolve(waiter, True)

    def abandon(self) -> None:
        """End an actor that was never launched: its constructor or its dispatcher refused."""
        self.ended = self.told = True
        self._unregister()
        self._refuse_mail()
        self.actor = None
        self._let_go_of_ref()

    def _tell_watchers(self, reason: ExitReason) -> None:
        _release_frames(reason.exception)
        with self.dispatcher.lock:
            self.told = True
            watchers, self.watchers = self.watchers, ()
            event = self.end_event
        if event is not None:
            event.set()
        for watcher in watchers:
            tell_terminated(watcher, self.ref, reason)
        self._let_go_of_ref()


def handle_otherwise(actor: Any, item: Any) -> None:
    """Handle what an actor has no method for in its table: what is not a message, above all."""
    # Not by `ActorCell.handle`: a call less for an actor that has no table.
    special = SPECIAL.get(type(item))
    if special is None:
        actor.on_receive(item)
    else:
        special(actor.actor_inbox, item)


def _exc_info(exception: BaseException | None) -> tuple[Any, Any, Any]:
    return type(exception), exception, exception.__traceback__ if exception else None


def _without_caller(exception: BaseException) -> BaseException:
    """Drop the kernel's own frame, which is running still, from a traceback just caught."""
    traceback = exception.__traceback__
    return exception.with_traceback(traceback.tb_next if traceback is not None else None)


def _release_frames(exception: BaseException | None) -> None:
    """Empty the frames of a traceback that outlives its actor, to free the actor's memory."""
    seen: set[int] = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        tracebacks.clear_frames(exception.__traceback__)
        exception = exception.__cause__ or exception.__context__


_NO_LETTERS: Final = frozenset({Launch, Start, Kill, Ended, Timer, ActorStop})

SPECIAL: Final[dict[type[Any], Callable[[ActorCell, Any], Any]]] = {
    Start: ActorCell._handle_start,
    Kill: ActorCell._handle_kill,
    Envelope: ActorCell._handle_ask,
    Timer: ActorCell._handle_timer,
    Ended: ActorCell._handle_ended,
    Piped: ActorCell._handle_piped,
    ProxyCall: ActorCell._handle_proxy,
    ProxyGetAttr: ActorCell._handle_proxy,
    ProxySetAttr: ActorCell._handle_proxy,
    ActorStop: ActorCell._handle_stop,
}
"""Item types that are not simply given to `on_receive`."""
