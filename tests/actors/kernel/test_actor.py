"""What an actor's author uses, and that it is pykka's actor."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import uuid

import pykka
import pytest

from tests.support.actors import HostActor, Log, Probe, fail, reasons, settle, watcher_of
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.kernel import (
    NORMAL,
    SHUTDOWN,
    BlockingCallError,
    DispatchedActor,
    DispatchedFuture,
    Dispatcher,
    ExitReason,
    Terminated,
    ask_future,
    label_here,
)


class Calculator(DispatchedActor):
    """As in pykka's documentation."""

    constant = 7

    def __init__(self, start=0):
        super().__init__()
        self.total = start
        self.thread = threading.current_thread()

    def on_start(self):
        self.turn_thread = threading.current_thread()

    def add(self, number):
        self.total += number
        return self.total


def test_start_proxy_ask_and_stop_work_as_in_pykka(dispatcher):
    ref = Calculator.start(5, dispatcher=dispatcher)
    proxy = ref.proxy()
    assert proxy.add(2).get(timeout=WAIT_SECONDS) == 7
    proxy.add.defer(3)
    assert proxy.total.get(timeout=WAIT_SECONDS) == 10
    proxy.total = 1
    assert proxy.total.get() == 1
    assert proxy.constant.get() == 7
    assert pykka.get_all([proxy.add(1), proxy.add(1)]) == [2, 3]
    assert ref.actor_class is Calculator
    assert ref.stop() is True
    assert ref.stop() is False
    with pytest.raises(pykka.ActorDeadError):
        ref.proxy()
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("anyone?")


def test_init_runs_where_start_is_called_and_the_rest_on_the_dispatcher(dispatcher):
    ref = Calculator.start(dispatcher=dispatcher)
    assert ref.proxy().thread.get() is threading.current_thread()
    assert ref.proxy().turn_thread.get().name == dispatcher.name


def test_the_urn_is_one_and_unique(dispatcher):
    first, second = (Calculator.start(dispatcher=dispatcher) for _ in range(2))
    assert first.actor_urn.startswith("urn:uuid:")
    assert first.actor_urn == first.actor_urn == first.proxy().actor_urn.get()
    assert first.actor_urn != second.actor_urn
    assert first.actor_urn in str(first)


def test_an_actor_starts_others_where_it_runs(dispatcher):
    class Parent(Probe):
        def on_start(self):
            self.child = Probe.start()

    parent = Parent.start(dispatcher=dispatcher)
    assert parent.ask(lambda actor: actor.child.dispatcher) is dispatcher
    assert parent.ask(lambda actor: actor.dispatcher) is dispatcher


def test_start_without_a_dispatcher_says_what_to_do():
    with pytest.raises(RuntimeError, match="pass dispatcher="):
        Probe.start()


def test_start_on_a_dispatcher_that_does_not_run_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"call start\(\) first"):
        Probe.start(dispatcher=Dispatcher("unstarted"))
    with Dispatcher("stopped") as stopped:
        pass
    with pytest.raises(RuntimeError, match="does not run"):
        Probe.start(dispatcher=stopped, register=True)
    assert pykka.ActorRegistry.get_all() == []


def test_the_class_cannot_be_called_directly():
    with pytest.raises(RuntimeError, match=r"use Probe\.start"):
        Probe()


def test_messages_sent_from_the_constructor_come_after_on_start(dispatcher):
    class Eager(Probe):
        def __init__(self, log):
            super().__init__(log, hooks=True)
            self.actor_ref.tell("first")

    log = Log()
    Eager.start(log, dispatcher=dispatcher)
    Probe.start(dispatcher=dispatcher).tell(lambda _actor: Eager.start(log))
    assert log.wait(4) == [("start", ""), "first"] * 2


def test_only_registered_actors_are_in_the_registry(dispatcher):
    Probe.start(dispatcher=dispatcher)
    root = Probe.start(dispatcher=dispatcher, register=True)
    assert pykka.ActorRegistry.get_all() == [root]
    assert pykka.ActorRegistry.stop_all(timeout=WAIT_SECONDS) == [True]
    assert pykka.ActorRegistry.get_all() == []


def test_an_unexpected_message_is_logged_without_its_content(dispatcher, caplog):
    class Deaf(DispatchedActor):
        pass

    with caplog.at_level(logging.DEBUG):
        ref = Deaf.start(dispatcher=dispatcher)
        assert ref.ask({"token": "secret-1"}) is None
        ref.stop()
    assert "Deaf got an unexpected message: a dict" in caplog.text
    assert "secret-1" not in caplog.text


def test_exit_ends_after_the_handler_and_the_first_reason_stands(dispatcher):
    def leave(actor):
        actor.exit()
        actor.exit(ExitReason.failed(ValueError("second")))
        return "answered"

    ref = Probe.start(dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    assert ref.ask(leave) == "answered"
    assert told.wait() == [Terminated(ref, NORMAL)]


def test_exit_with_a_failure_calls_on_failure(dispatcher):
    log = Log()
    ref = Probe.start(log, hooks=True, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    ref.tell(lambda actor: actor.exit(ExitReason.failed(OSError("gone"))))
    assert reasons(told) == ["failed: OSError: gone"]
    assert log.items == [("start", ""), ("failure", "", OSError)]


def test_an_expected_failure_is_not_logged_as_an_unhandled_exception(dispatcher, caplog):
    ref = Probe.start(dispatcher=dispatcher)
    with caplog.at_level(logging.DEBUG):
        ref.ask(lambda actor: actor.exit(ExitReason.failed(OSError("gone"))))
        ref.actor_stopped.wait(WAIT_SECONDS)
    assert "ends itself: failed: OSError: gone" in caplog.text
    assert "Unhandled" not in caplog.text
    assert dispatcher.stats.actor_failures == {}


def test_exit_in_on_start_ends_before_any_mail(dispatcher):
    class Brief(Probe):
        def on_start(self):
            super().on_start()
            self.exit()

    log = Log()
    ref = Brief.start(log, hooks=True, dispatcher=dispatcher)
    assert ref.actor_stopped.wait(WAIT_SECONDS)
    settle(dispatcher)
    assert log.items == [("start", ""), ("stop", "")]


def test_a_stop_waits_its_turn_in_the_mailbox(dispatcher):
    log = Log()
    ref = Probe.start(log, hooks=True, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    for number in range(100):
        ref.tell(number)
    assert ref.stop(timeout=WAIT_SECONDS) is True
    assert log.items == [("start", ""), *range(100), ("stop", "")]
    assert told.wait() == [Terminated(ref, SHUTDOWN)]


def test_an_actor_can_stop_itself_as_in_pykka(dispatcher):
    ref = Probe.start(log := Log(), hooks=True, dispatcher=dispatcher)
    ref.tell(lambda actor: actor.stop())
    assert ref.actor_stopped.wait(WAIT_SECONDS)
    assert log.wait(2) == [("start", ""), ("stop", "")]


class Graceful(Probe):
    """Finishes what it has to do before it stops."""

    requests = 0

    def on_stop_requested(self):
        self.requests += 1
        self.log.add(("asked to stop", self.requests))
        return False


def test_a_deferred_stop_ends_when_the_actor_exits(dispatcher):
    log = Log()
    ref = Graceful.start(log, hooks=True, dispatcher=dispatcher)
    first, second = ref.stop(block=False), ref.stop(block=False)
    assert ref.ask("still here") == "still here"
    assert not first.is_resolved
    with pytest.raises(pykka.Timeout):
        first.get(timeout=0.01)
    ref.tell(lambda actor: actor.exit(SHUTDOWN))
    assert first.get(timeout=WAIT_SECONDS) is True
    assert second.get(timeout=WAIT_SECONDS) is True
    assert log.items == [("start", ""), ("asked to stop", 1), "still here", ("stop", "")]


def test_a_failure_during_a_deferred_stop_resolves_it(dispatcher):
    ref = Graceful.start(dispatcher=dispatcher)
    stopped = ref.stop(block=False)
    ref.tell(fail(ValueError("v")))
    assert stopped.get(timeout=WAIT_SECONDS) is True


@pytest.mark.parametrize(
    "call",
    [
        lambda actor: actor.exit(),
        lambda actor: actor.watch(actor.actor_ref),
        lambda actor: actor.unwatch(actor.actor_ref),
        lambda actor: actor.schedule(0, "x"),
        lambda actor: actor.add_reader(None, print),
        lambda actor: actor.remove_writer(None),
        lambda actor: actor.defer_reply(),
    ],
)
def test_what_belongs_into_a_turn_is_refused_outside(dispatcher, call):
    ref = Probe.start(dispatcher=dispatcher)
    actor = ref.ask(lambda actor: actor)
    with pytest.raises(RuntimeError, match="on its thread"):
        call(actor)


# Talking with a host's ThreadingActors.


def test_ours_and_a_hosts_actor_talk_both_ways(dispatcher):
    log = Log()
    host = HostActor.start()
    ours = Probe.start(log, dispatcher=dispatcher)
    try:
        assert (
            host.ask(lambda _actor: ours.ask("from a thread"), timeout=WAIT_SECONDS)
            == "from a thread"
        )
        ours.ask(lambda _actor: host.tell(lambda _host: ours.tell("back")))
        assert log.wait(2) == ["from a thread", "back"]
    finally:
        host.stop()


def test_ours_asks_a_hosts_actor_without_blocking(dispatcher):
    log = Log()
    host = HostActor.start()

    def ask(actor):
        future = ask_future(host, lambda _host: 42)
        actor.pipe_to_self(future, lambda done: ("answer", done.get()))

    Probe.start(log, dispatcher=dispatcher).tell(ask)
    assert log.wait() == [("answer", 42)]
    host.stop()


def test_a_thread_may_block_on_ours_but_ours_may_not_block(dispatcher, other):
    neighbour = Probe.start(dispatcher=other)
    ref = Probe.start(dispatcher=dispatcher)
    tried = []

    def try_all(actor):
        pending = neighbour.ask(lambda _n: None, block=False)
        del pending
        for call in (
            lambda: neighbour.ask("x"),
            lambda: neighbour.ask("x", timeout=0.1),
            lambda: actor.actor_ref.ask("x"),
            lambda: neighbour.stop(),
            lambda: actor.actor_ref.ask("x", block=False).get(),
            lambda: actor.actor_ref.proxy().name.get(),
            lambda: setattr(actor.actor_ref.proxy(), "name", "n"),
        ):
            try:
                call()
            except BlockingCallError as error:
                tried.append(str(error))

    ref.ask(try_all, timeout=WAIT_SECONDS)
    assert len(tried) == 7
    assert all("pipe_to_self" in text for text in tried)
    assert neighbour.is_alive()


# Futures and replies.


def test_pipe_to_self_takes_futures_of_ours_and_of_a_pool(dispatcher):
    log = Log()
    neighbour = Probe.start(dispatcher=dispatcher)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        def pipe(actor):
            actor.pipe_to_self(neighbour.ask("a", block=False), lambda done: done.get())
            actor.pipe_to_self(pool.submit(lambda: "b"), lambda done: done.result())

        Probe.start(log, dispatcher=dispatcher).tell(pipe)
        assert sorted(log.wait(2)) == ["a", "b"]


def test_an_exception_of_a_piped_future_is_the_actors_to_handle(dispatcher):
    log = Log()
    broken = concurrent.futures.Future()
    ref = Probe.start(log, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    ref.ask(lambda actor: actor.pipe_to_self(broken, lambda done: repr(done.exception())))
    ref.ask(lambda actor: actor.pipe_to_self(broken, lambda done: done.result()))
    broken.set_exception(OSError("refused"))
    assert log.wait() == ["OSError('refused')"]
    assert reasons(told) == ["failed: OSError: refused"]


def test_a_result_nobody_takes_any_more_is_discarded(dispatcher):
    discarded = Log()
    late = concurrent.futures.Future()
    ref = Probe.start(dispatcher=dispatcher)
    ref.ask(
        lambda actor: actor.pipe_to_self(late, str, discard=lambda f: discarded.add(f.result()))
    )

    def pipe_and_exit(actor):
        done = concurrent.futures.Future()
        done.set_result("in the mailbox")
        actor.pipe_to_self(done, str, discard=lambda f: discarded.add(f.result()))
        actor.exit()

    ref.ask(pipe_and_exit)
    late.set_result("after the end")
    assert sorted(discarded.wait(2)) == ["after the end", "in the mailbox"]


def test_a_result_whose_handler_fails_is_discarded(dispatcher):
    discarded = Log()
    done = concurrent.futures.Future()
    done.set_result("connection")
    ref = Probe.start(dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    ref.ask(
        lambda actor: actor.pipe_to_self(
            done,
            lambda _future: fail(RuntimeError("broken")),
            discard=lambda f: discarded.add(f.result()),
        )
    )
    assert discarded.wait() == ["connection"]
    assert reasons(told) == ["failed: RuntimeError: broken"]


def test_pipe_to_self_refuses_what_it_cannot_wait_for(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    with pytest.raises(TypeError, match="ask_future"):
        ref.ask(lambda actor: actor.pipe_to_self(pykka.ThreadingFuture(), str))


def test_pykkas_hooks_are_filled_in_as_far_as_they_have_a_meaning():
    assert isinstance(DispatchedActor._create_future(), DispatchedFuture)
    with pytest.raises(NotImplementedError, match=r"made by start\(\)"):
        DispatchedActor._create_actor_inbox()


def test_an_actor_can_tell_whether_it_has_stopped(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    stopped = ref.ask(lambda actor: actor.actor_stopped)
    assert not stopped.is_set()
    ref.stop()
    assert stopped.is_set()


def test_a_class_with_an_on_receive_of_its_own_passes_on_what_its_table_handles(dispatcher):
    class Counting(DispatchedActor):
        seen = 0

        def _double(self, number):
            return 2 * number

        HANDLERS = {int: _double}

        def on_receive(self, message):
            self.seen += 1
            return super().on_receive(message), self.seen

    ref = Counting.start(dispatcher=dispatcher)
    assert [ref.ask(each, timeout=WAIT_SECONDS) for each in (3, 4)] == [(6, 1), (8, 2)]


def test_a_label_is_that_of_the_actor_whose_turn_it_is_and_of_those_it_starts(dispatcher):
    def begin(actor):
        actor.set_label("press-4")
        return label_here(), Probe.start()

    ref = Probe.start(dispatcher=dispatcher)
    assert ref.ask(lambda _actor: label_here()) == ""
    label, child = ref.ask(begin)
    assert label == "press-4"
    assert child.ask(lambda _actor: label_here()) == "press-4"
    # Neither a function that is called there nor another thread is an actor.
    log = Log()
    dispatcher.call_soon(lambda: log.add(label_here()))
    assert log.wait() == [""]
    assert label_here() == ""


def test_two_threads_that_ask_for_a_urn_first_get_the_same(dispatcher, monkeypatch):
    cell = Probe.start(dispatcher=dispatcher).cell
    others = []
    make = uuid.uuid4

    def slow():
        # Another thread asks for it, and has it, before this one has made its own.
        monkeypatch.setattr(uuid, "uuid4", make)
        thread = threading.Thread(target=lambda: others.append(cell.urn))
        thread.start()
        thread.join()
        return make()

    monkeypatch.setattr(uuid, "uuid4", slow)
    assert [cell.urn] == others
