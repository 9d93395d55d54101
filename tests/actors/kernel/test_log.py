"""The host's log handlers may raise what they like: actors and their threads live on."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from pykka import ActorRegistry

from tests.support.actors import Probe, fail, loop_factories, reasons, watcher_of
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.callbacks import RelayThreads
from tunnelfleet.actors.kernel import ChildSpec, Dispatcher, SupervisorActor
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.kernel.mailbox import DispatchedFuture

if TYPE_CHECKING:
    from collections.abc import Iterator


class NoException(BaseException):
    """What no `except Exception` catches."""


class RaisingHandler(logging.Handler):
    """Counts, and raises."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        raise self.error("from the host's handler")


@pytest.fixture(
    params=[RuntimeError, SystemExit, KeyboardInterrupt, NoException], ids=lambda e: e.__name__
)
def handler(request: pytest.FixtureRequest) -> Iterator[RaisingHandler]:
    """A handler that raises on every record of ours, of pykka's and of asyncio's."""
    made = RaisingHandler(request.param)
    loggers = [logging.getLogger(name) for name in ("tunnelfleet", "pykka", "asyncio")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.addHandler(made)
        # Of asyncio from INFO on: a loop that cannot log its beginning is never made.
        each.setLevel(logging.INFO if each.name == "asyncio" else logging.DEBUG)
    yield made
    for each, level in zip(loggers, levels, strict=True):
        each.removeHandler(made)
        each.setLevel(level)


@pytest.fixture(params=loop_factories(), ids=lambda factory: factory.__module__)
def dispatcher(handler: RaisingHandler, request: pytest.FixtureRequest) -> Iterator[Dispatcher]:
    with Dispatcher("test", slow_turn_seconds=0.0, loop_factory=request.param) as made:
        yield made
        # Whatever happened, its thread runs actors.
        alive = Probe.start(dispatcher=made)
        assert alive.ask("alive", timeout=WAIT_SECONDS) == "alive"
        assert handler.records


def test_an_actor_that_fails_ends_and_its_asker_is_told(dispatcher: Dispatcher) -> None:
    ref = Probe.start(dispatcher=dispatcher)
    watcher = watcher_of(ref, dispatcher)
    with pytest.raises(ValueError, match="asked"):
        ref.ask(fail(ValueError("asked")), timeout=WAIT_SECONDS)
    assert reasons(watcher) == ["failed: ValueError: asked"]
    assert not ref.is_alive()


def test_an_actor_whose_hooks_fail_as_well_ends(dispatcher: Dispatcher) -> None:
    class BadHooks(Probe):
        def on_failure(self, *_exc_info: Any) -> None:
            raise NoException

        def _on_end(self, reason: Any) -> None:
            raise NoException

    starter = Probe.start(dispatcher=dispatcher)
    ref = starter.ask(lambda _actor: BadHooks.start(register=True), timeout=WAIT_SECONDS)
    watcher = watcher_of(ref, dispatcher)
    ref.tell(fail(ValueError("told")))
    assert reasons(watcher) == ["failed: ValueError: told"]
    assert ActorRegistry.get_by_urn(ref.actor_urn) is None


def test_a_message_that_nobody_expected_and_a_dead_letter_are_harmless(
    dispatcher: Dispatcher,
) -> None:
    ref = SupervisorActor.start(dispatcher=dispatcher)
    ref.tell("what is this?")
    ref.stop(timeout=WAIT_SECONDS)
    Probe.start(dispatcher=dispatcher).ask(lambda _actor: ref.tell("too late"))
    assert dispatcher.stats.dead_letters == 1


def test_what_is_called_on_the_dispatcher_may_fail(dispatcher: Dispatcher) -> None:
    for function in (lambda: fail(ValueError("called"))(None), lambda: fail(NoException())(None)):
        dispatcher.call_soon(function)


def test_a_callback_of_the_loop_may_fail(dispatcher: Dispatcher) -> None:
    """Nothing of ours does, but hosts can reach the loop."""
    for error in (ValueError("called"), NoException(), SystemExit("called"), KeyboardInterrupt()):
        dispatcher.loop.call_soon_threadsafe(fail(error), None)


def test_whoever_waits_for_a_reply_does_not_end_who_gives_it(dispatcher: Dispatcher) -> None:
    future: DispatchedFuture[Any] = DispatchedFuture()
    future.add_done_callback(fail(NoException()))
    done = threading.Event()
    future.add_done_callback(lambda _future: done.set())
    Probe.start(dispatcher=dispatcher).tell(lambda _actor: future.set(1))
    assert done.wait(WAIT_SECONDS), "the second callback was forgotten"


def test_a_supervisor_that_gives_up_ends(dispatcher: Dispatcher) -> None:
    class UnreadableError(Exception):
        def __str__(self) -> str:
            raise NotImplementedError

    spec = ChildSpec("child", lambda: fail(UnreadableError())(None))  # type: ignore[arg-type,return-value]
    ref = SupervisorActor.start([spec], dispatcher=dispatcher)
    (reason,) = reasons(watcher_of(ref, dispatcher))
    assert reason.startswith("failed: ") or reason == "noproc"
    assert not ref.is_alive()


def test_callback_threads_live_on(handler: RaisingHandler) -> None:
    threads, called = RelayThreads(), threading.Event()
    callback_queue = threads.queue("press-4", lambda item: item(), 1_000)
    for item in (fail(ValueError("callback")), fail(NoException())):
        callback_queue.call(item, None)
    callback_queue.call(lambda _item: called.set(), None)
    assert called.wait(WAIT_SECONDS)
    assert threads.close(WAIT_SECONDS) == 0
    assert callback_queue.stats.errors == 2
    assert len(handler.records) == 2


def test_on_the_main_thread_who_wants_the_program_to_end_is_heard(
    handler: RaisingHandler,
) -> None:
    logger = get_logger("tunnelfleet.test")
    if handler.error is RuntimeError:
        logger.warning("hello")
    else:
        with pytest.raises(handler.error):
            logger.warning("hello")
    assert logger.failures == 1
    assert handler.records[0].filename == "test_log.py"
