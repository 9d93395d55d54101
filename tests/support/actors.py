"""What the kernel's tests share: a log to wait on, and actors that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pykka

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.kernel import DispatchedActor, Dispatcher, TerminationReporter
from tunnelfleet.actors.kernel.cell import Piped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pykka import ActorRef


def loop_factories() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    """Return the makers of the event loops that are installed."""
    try:
        from tunnelfleet.actors.kernel.uv_loop import UvLoop
    except ImportError:
        return [asyncio.new_event_loop]
    return [asyncio.new_event_loop, UvLoop]


class Log:
    """A list that several threads write and a test waits on."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._changed = threading.Condition()

    def add(self, item: Any) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    @property
    def items(self) -> list[Any]:
        with self._changed:
            return list(self._items)

    def wait(self, count: int = 1) -> list[Any]:
        """Wait until it has `count` items; return all it has."""
        return self.wait_for(lambda items: len(items) >= count)

    def wait_for(self, condition: Callable[[list[Any]], bool]) -> list[Any]:
        with self._changed:
            held = self._changed.wait_for(lambda: condition(self._items), WAIT_SECONDS)
            assert held, f"never came: {self._items}"
            return list(self._items)


class _Obedient:
    """Calls what it is sent with itself; logs anything else."""

    log: Log

    def on_receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        self.log.add(message)
        return message


class Probe(_Obedient, DispatchedActor):
    """A dispatched actor that does as it is told, and logs its life if asked to."""

    def __init__(self, log: Log | None = None, *, name: str = "", hooks: bool = False) -> None:
        super().__init__()
        self.log = log or Log()
        self.name = name
        self.hooks = hooks

    def on_start(self) -> None:
        if self.hooks:
            self.log.add(("start", self.name))

    def on_stop(self) -> None:
        if self.hooks:
            self.log.add(("stop", self.name))

    def on_failure(self, exception_type: Any, exception: Any, traceback: Any) -> None:
        if self.hooks:
            self.log.add(("failure", self.name, exception_type))


class HostActor(_Obedient, pykka.ThreadingActor):
    """A host's own actor, without anything of ours."""

    def __init__(self, log: Log | None = None) -> None:
        super().__init__()
        self.log = log or Log()


class ReportingHostActor(TerminationReporter, HostActor):
    """A host's actor that reports its end."""


def fail(exception: BaseException) -> Callable[[Any], None]:
    """Return a message that makes an obedient actor raise."""

    def raise_it(_actor: Any) -> None:
        raise exception

    return raise_it


def crash(ref: Any) -> None:
    """Have any dispatched actor fail in its next turn, as by a bug of its own."""
    ref.cell.send(Piped(lambda _future: fail(RuntimeError("crash"))(None), None, None))


@contextlib.contextmanager
def hold(dispatcher: Dispatcher) -> Iterator[None]:
    """Keep a dispatcher in one turn for as long as the block lasts."""
    gate, entered = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        gate.wait(WAIT_SECONDS)

    dispatcher.call_soon(block)
    assert entered.wait(WAIT_SECONDS)
    try:
        yield
    finally:
        gate.set()


def watcher_of(ref: ActorRef[Any], dispatcher: Dispatcher) -> Log:
    """Start an actor that watches `ref`; return the log of what it is told."""
    log = Log()
    Probe.start(log, dispatcher=dispatcher).ask(lambda actor: actor.watch(ref))
    return log


def reasons(log: Log, count: int = 1) -> list[str]:
    """Wait for `count` messages `Terminated`; return their reasons as text."""
    return [str(message.reason) for message in log.wait(count)]


def settle(dispatcher: Dispatcher) -> None:
    """Return when every message that was sent so far, and what followed from it, is handled."""
    done = threading.Event()

    def look() -> None:
        if dispatcher.run_queue:
            dispatcher.loop.call_soon(look)
        else:
            done.set()

    dispatcher.call_soon(look)
    assert done.wait(WAIT_SECONDS), "the dispatcher never came to rest"
