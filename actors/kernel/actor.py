"""The base class of actors that run on a dispatcher.

Owns what an actor's author uses: starting, the table of handlers, hooks, watches, timers, sockets,
replies and exit. Must not know how turns are scheduled or how an actor is taken down (see
`dispatcher` and `mailbox`).
"""

from __future__ import annotations

import concurrent.futures
from _thread import get_ident
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, cast

from pykka import Actor, ActorRef, ActorRegistry, Future

from .cell import SPECIAL, ActorCell, Piped, handle_otherwise
from .dispatcher import Dispatcher
from .few import including
from .log import contained, get_logger
from .loop_io import Direction, Timer
from .mailbox import DispatchedFuture, StopFlag
from .watch import NORMAL, ExitReason, start_watching, stop_watching

if TYPE_CHECKING:
    from .compat import ActorInbox
    from .context import HasFileno
    from .mailbox import DispatchedRef, Reply


logger = get_logger(__name__)


def _register(ref: ActorRef[Any]) -> None:
    # pykka logs it when it is done, and the host's handlers may raise.
    with contained():
        ActorRegistry.register(ref)


Handler: TypeAlias = Callable[[Any, Any], Any]
"""A function of an actor and a message."""
Handlers: TypeAlias = dict[type[Any], Handler]
"""Keyed by the exact type of a message."""


_OF_KERNEL: Handlers = dict.fromkeys(SPECIAL, handle_otherwise)


class DispatchedActor(Actor):
    """An actor without a thread of its own: it takes turns on a dispatcher's.

    It is a pykka actor: `start`, refs, proxies, futures, `on_start`, `on_receive`, `on_stop` and
    `on_failure` are as pykka documents them, and it talks with ThreadingActors both ways.
    What differs:

    - It must not block: not on a socket, a lock, a sleep, nor on a future (`BlockingCallError`).
    - Any exception in it ends it: in `on_start`, in a handler (told or asked; the asker gets the
      exception too), in a socket's or timer's callback, in `on_stop`; a BaseException likewise,
      which stops nothing else. `on_failure` is called for all but one from `on_stop`. Watchers
      are told once.
    - It is not in pykka's `ActorRegistry` unless started with `register=True`: roots only.

    `__init__` runs in the thread that calls `start`, everything else in the dispatcher's; so
    timers, sockets and watches are set up from `on_start` on.
    """

    HANDLERS: ClassVar[Handlers] = {}
    """What handles a message of a type; see `on_receive`."""

    HANDLING: ClassVar[tuple[Callable[[type[Any], Handler], Handler], Handler]] = (
        HANDLERS.get,
        handle_otherwise,
    )
    """A lookup of the handler by the type of an item, and what handles an item that it does not
    find. The lookup is in `HANDLERS` if the class leaves `on_receive` as it is, and else in what
    the kernel handles itself; then the other is the class's `on_receive`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Know whether messages have to pass through an `on_receive` of the class."""
        super().__init_subclass__(**kwargs)
        if cls.on_receive is DispatchedActor.on_receive:
            cls.HANDLING = (cls.HANDLERS.get, handle_otherwise)
        else:
            cls.HANDLING = (_OF_KERNEL.get, cls.on_receive)

    _cell: ActorCell

    @classmethod
    def start(
        cls,
        *args: Any,
        dispatcher: Dispatcher | None = None,
        register: bool = False,
        **kwargs: Any,
    ) -> DispatchedRef[Self]:
        """Start an actor and return its ref.

        Args:
            *args: for the constructor, as are further keyword arguments.
            dispatcher: where it runs; by default where the caller runs.
            register: put it into pykka's `ActorRegistry`, so that `ActorRegistry.stop_all()` stops
                it. For roots only, which stop what they started.
            **kwargs: for the constructor.

        Raises:
            RuntimeError: no dispatcher is given on a thread that has none, or it does not run.
        """
        cell = ActorCell(cls._dispatcher_for(dispatcher), cls.__new__(cls))
        actor: Self = cell.actor
        actor._cell = cell
        actor._actor_ref = cell.ref
        try:
            actor.__init__(*args, **kwargs)  # type: ignore[misc]
            cell.registered = register
            if register:
                _register(cell.ref)
            actor._start_actor_loop()
        except BaseException:
            cell.abandon()
            raise
        return cast("DispatchedRef[Self]", cell.ref)

    @classmethod
    def _dispatcher_for(cls, dispatcher: Dispatcher | None) -> Dispatcher:
        chosen = dispatcher or Dispatcher.current()
        if chosen is None:
            msg = (
                f"{cls.__name__}.start() was called on a thread without a dispatcher: "
                "pass dispatcher=, or start it from an actor that runs on one"
            )
            raise RuntimeError(msg)
        return chosen

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Create the actor; use `start()`, which calls this.

        Raises:
            RuntimeError: the class was called directly.
        """
        if not hasattr(self, "_cell"):
            name = type(self).__name__
            msg = f"use {name}.start(...) instead of {name}(...)"
            raise RuntimeError(msg)

    @staticmethod
    def _create_actor_inbox() -> ActorInbox:
        msg = "the inbox of a dispatched actor is made by start()"
        raise NotImplementedError(msg)

    @staticmethod
    def _create_future() -> Future[Any]:
        return DispatchedFuture()

    def _start_actor_loop(self) -> None:
        self._cell.dispatcher.launch(self._cell)

    def set_label(self, label: str) -> None:
        """Say what it and the actors that it starts belong to, for the log's lines."""
        self._cell.label = label

    @property
    def actor_ref(self) -> DispatchedRef[Self]:
        """The actor's ref, the same object from its start to its end."""
        return cast("DispatchedRef[Self]", self._actor_ref)

    @property
    def actor_urn(self) -> str:  # type: ignore[override]
        """See `pykka.Actor.actor_urn`."""
        return self._cell.urn

    @property
    def actor_inbox(self) -> ActorCell:  # type: ignore[override]
        """See `pykka.Actor.actor_inbox`."""
        return self._cell

    @property
    def actor_stopped(self) -> StopFlag:  # type: ignore[override]
        """See `pykka.Actor.actor_stopped`; has `is_set`, `set` and `wait`."""
        return StopFlag(self._cell)

    @property
    def dispatcher(self) -> Dispatcher:
        """The dispatcher whose thread runs this actor."""
        return self._cell.dispatcher  # type: ignore[return-value]

    def on_receive(self, message: Any) -> Any:
        """Handle a message; what is returned answers an ask.

        The default looks the message's type up in `HANDLERS`. A message that is not in it is
        logged by its type, never by its content.
        """
        handler = self.HANDLERS.get(type(message))
        if handler is not None:
            return handler(self, message)
        name = type(self).__name__
        logger.warning("%s got an unexpected message: a %s", name, type(message).__name__)
        return None

    # Ending.

    def on_stop_requested(self) -> bool:
        """Decide what a stop request does; called in its turn, once, however often it is asked.

        Returns:
            True to end now, with reason `SHUTDOWN`. False to go on until the actor calls `exit()`;
            whoever waits for the stop goes on waiting until then.
        """
        return True

    def exit(self, reason: ExitReason = NORMAL) -> None:
        """End once the current handler has returned; mail that is left becomes dead letters.

        `on_stop` is called, or `on_failure` if the reason is a failure. The first call counts.
        A failure given here is a decision: it is not logged or counted as an unhandled exception.
        """
        self._require_own_thread("exit")
        self._cell.exit(reason)

    def _on_end(self, reason: ExitReason) -> None:
        """Release what must not outlive the actor, however it ended; for the kernel's own."""

    # Watching.

    def watch(self, ref: ActorRef[Any]) -> None:
        """Have `Terminated(ref, reason)` sent to this actor once, when the other actor has ended.

        If it already has, the message comes at once with reason `NOPROC`.

        Args:
            ref: a dispatched actor, on any dispatcher, or a ThreadingActor that has the
                `TerminationReporter` mix-in.

        Raises:
            TypeError: a ThreadingActor without the mix-in.
        """
        self._require_own_thread("watch")
        cell = self._cell
        if ref not in cell.watching:
            start_watching(ref, cell.ref)
            cell.watching = including(cell.watching, ref)

    def unwatch(self, ref: ActorRef[Any]) -> None:
        """Undo `watch`: no `Terminated` of this ref is handled from now on."""
        self._require_own_thread("unwatch")
        if self._cell.forget_watched(ref):
            stop_watching(ref, self._cell.ref)

    # Timers and sockets.

    def schedule(self, delay_seconds: float, message: Any) -> Timer:
        """Have `on_receive(message)` called after a delay; the timer dies with the actor."""
        self._require_own_thread("schedule")
        cell = self._cell
        timer = Timer(cell, delay_seconds, message)
        cell.timers = including(cell.timers, timer)
        return timer

    def add_reader(self, sock: HasFileno, method: Callable[[], object]) -> None:
        """Call `method()` in a turn of this actor whenever the socket can be read.

        It is called again and again until the socket has been read or removed; a second call
        replaces the method. Remove the socket before closing it. The end of the actor removes it,
        before `on_stop` or `on_failure`, but does not close it.

        Raises:
            ValueError: the socket is closed, or another actor watches it.
        """
        self._require_own_thread("add_reader")
        self.dispatcher.readiness.add(Direction.READ, self._cell, sock, method)

    def remove_reader(self, sock: HasFileno) -> bool:
        """Undo `add_reader`; return whether there was anything to undo."""
        self._require_own_thread("remove_reader")
        return self.dispatcher.readiness.remove(Direction.READ, self._cell, sock)

    def add_writer(self, sock: HasFileno, method: Callable[[], object]) -> None:
        """Call `method()` in a turn of this actor whenever the socket can be written.

        As `add_reader`. A socket can nearly always be written: remove it when nothing waits.
        """
        self._require_own_thread("add_writer")
        self.dispatcher.readiness.add(Direction.WRITE, self._cell, sock, method)

    def remove_writer(self, sock: HasFileno) -> bool:
        """Undo `add_writer`; return whether there was anything to undo."""
        self._require_own_thread("remove_writer")
        return self.dispatcher.readiness.remove(Direction.WRITE, self._cell, sock)

    # Replies and futures.

    def defer_reply(self) -> Reply:
        """Take over the answer to the message that is being handled; the return value is ignored.

        Use it to answer later, or to answer with an exception and live on.
        """
        self._require_own_thread("defer_reply")
        return self._cell.defer_reply()

    def pipe_to_self(
        self,
        future: Future[Any] | concurrent.futures.Future[Any],
        make_message: Callable[[Any], Any],
        *,
        discard: Callable[[Any], object] | None = None,
    ) -> None:
        """Handle `make_message(future)` as a message once the future is resolved.

        Args:
            future: a `DispatchedFuture`, as `ask(..., block=False)` on a dispatched actor and
                `ask_future` return, or a `concurrent.futures.Future`.
            make_message: called with the resolved future in this actor's turn; what it returns goes
                to `on_receive`. If it raises (as `future.get()` may), the actor fails.
            discard: called with the resolved future instead, if this actor has ended by then, and
                if the handler fails: to close what nobody took. It may run on any thread.

        Raises:
            TypeError: another kind of future, a ThreadingFuture for one: use `ask_future`.
        """
        if not isinstance(future, DispatchedFuture | concurrent.futures.Future):
            msg = (
                f"pipe_to_self() cannot wait for a {type(future).__name__}: "
                "ask a ThreadingActor with ask_future(ref, message)"
            )
            raise TypeError(msg)
        cell = self._cell

        def deliver(resolved: Any) -> None:
            piped = Piped(make_message, resolved, discard)
            if not cell.send(piped):
                cell.refuse(piped)

        future.add_done_callback(deliver)

    def _require_own_thread(self, call: str) -> None:
        if get_ident() != self._cell.dispatcher.thread_id:
            msg = f"{call} is for the actor's own turns: call it from on_start() on, on its thread"
            raise RuntimeError(msg)
