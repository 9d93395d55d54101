"""The end of an actor: every way, once, with its reason, and nobody left waiting."""

from __future__ import annotations

import gc
import socket
import threading
import weakref

import pykka
import pytest

from tests.support.actors import HostActor, Log, Probe, fail, reasons, settle, watcher_of
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import (
    KILLED,
    ChildSpec,
    DispatchedActor,
    ExitReason,
    SupervisorActor,
    Terminated,
    WhichChildren,
    kill,
)

EXCEPTIONS = [ValueError("v"), KeyboardInterrupt("k"), SystemExit(3), GeneratorExit("g")]


def ids(exception):
    return type(exception).__name__


@pytest.fixture(params=EXCEPTIONS, ids=ids)
def error(request):
    return type(request.param)(*request.param.args)


@pytest.fixture
def host():
    """A host's actor that must survive whatever happens to ours."""
    ref = HostActor.start()
    yield ref
    assert ref.ask(lambda _actor: "alive", timeout=WAIT_SECONDS) == "alive"
    ref.stop()


class BadStart(Probe):
    def __init__(self, log, error):
        super().__init__(log, hooks=True)
        self.error = error

    def on_start(self):
        raise self.error


class BadStop(Probe):
    def __init__(self, log, error):
        super().__init__(log, hooks=True)
        self.error = error

    def on_stop(self):
        raise self.error


class BadFailure(Probe):
    def on_failure(self, exception_type, exception, traceback):
        raise RuntimeError("in on_failure")


def assert_failed_once(dispatcher, told, log, error):
    name = type(error).__name__
    [message] = told.wait()
    assert message.reason == ExitReason.failed(error)
    settle(dispatcher)
    assert len(told.items) == 1
    assert log.items.count(("failure", "", type(error))) == 1, log.items
    assert name in str(message.reason)
    assert sum(dispatcher.stats.actor_failures.values()) == 1


def test_an_exception_in_on_start_ends_the_actor(dispatcher, host, error):
    log, told = Log(), Log()

    class Parent(Probe):
        def on_start(self):
            self.child = BadStart.start(log, error)
            self.watch(self.child)

    parent = Parent.start(told, dispatcher=dispatcher)
    assert_failed_once(dispatcher, told, log, error)
    assert parent.is_alive()


def test_mail_of_an_actor_that_fails_in_on_start_is_refused(dispatcher):
    gate = threading.Event()
    dispatcher.call_soon(gate.wait, WAIT_SECONDS)
    ref = BadStart.start(Log(), ValueError("v"), dispatcher=dispatcher)
    answer, stopped = ref.ask("question", block=False), ref.stop(block=False)
    gate.set()
    with pytest.raises(pykka.ActorDeadError):
        answer.get(timeout=WAIT_SECONDS)
    assert stopped.get(timeout=WAIT_SECONDS) is True


def test_an_exception_under_tell_ends_the_actor(dispatcher, host, error):
    log = Log()
    ref = Probe.start(log, hooks=True, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    ref.tell(fail(error))
    assert_failed_once(dispatcher, told, log, error)


def test_an_exception_under_ask_ends_the_actor_and_reaches_the_asker(dispatcher, host, error):
    log = Log()
    ref = Probe.start(log, hooks=True, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    with pytest.raises(type(error)) as caught:
        ref.ask(fail(error), timeout=WAIT_SECONDS)
    assert caught.value is error
    assert not ref.is_alive()
    assert_failed_once(dispatcher, told, log, error)


def test_an_exception_in_a_proxied_call_ends_the_actor(dispatcher, host, error):
    class Callee(Probe):
        def method(self):
            raise error

    log = Log()
    ref = Callee.start(log, hooks=True, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    with pytest.raises(type(error)):
        ref.proxy().method().get(timeout=WAIT_SECONDS)
    assert_failed_once(dispatcher, told, log, error)


def test_an_exception_in_a_socket_callback_ends_the_actor(dispatcher, host, error):
    log = Log()
    ref = Probe.start(log, hooks=True, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    left, right = socket.socketpair()
    with left, right:
        ref.ask(lambda actor: actor.add_reader(left, lambda: fail(error)(actor)))
        right.send(b"x")
        assert_failed_once(dispatcher, told, log, error)
        assert len(dispatcher.readiness) == 0


def test_an_exception_in_a_timers_message_ends_the_actor(dispatcher, host, error):
    log = Log()
    ref = Probe.start(log, hooks=True, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    ref.tell(lambda actor: actor.schedule(0.001, fail(error)) and None)
    assert_failed_once(dispatcher, told, log, error)


def test_an_exception_in_on_stop_turns_the_reason_into_a_failure(dispatcher, host, error):
    log = Log()
    ref = BadStop.start(log, error, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    assert ref.stop(timeout=WAIT_SECONDS) is True
    assert told.wait() == [Terminated(ref, ExitReason.failed(error))]
    settle(dispatcher)
    assert len(told.items) == 1
    assert ("failure", "", type(error)) not in log.items


def test_an_exception_in_on_stop_requested_ends_the_actor(dispatcher):
    class Refusing(Probe):
        def on_stop_requested(self):
            raise ValueError("no")

    ref = Refusing.start(dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    assert ref.stop(timeout=WAIT_SECONDS) is True
    assert reasons(told) == ["failed: ValueError: no"]


def test_an_exception_in_on_failure_keeps_the_first_reason(dispatcher, host):
    ref = BadFailure.start(dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    ref.tell(fail(ValueError("first")))
    assert reasons(told) == ["failed: ValueError: first"]
    settle(dispatcher)
    assert len(told.items) == 1
    assert dispatcher.stats.actor_failures == {"BadFailure": 2}


def test_an_exception_overrides_an_exit_before_it(dispatcher):
    def exit_and_fail(actor):
        actor.exit()
        raise ValueError("v")

    ref = Probe.start(dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    ref.tell(exit_and_fail)
    assert reasons(told) == ["failed: ValueError: v"]


def test_no_end_of_ours_stops_the_hosts_actors(dispatcher, host):
    root = Probe.start(dispatcher=dispatcher, register=True)
    told = watcher_of(root, dispatcher)
    root.tell(fail(KeyboardInterrupt()))
    told.wait()
    assert pykka.ActorRegistry.get_all() == [host]


def test_mail_left_behind_is_refused_and_counted(dispatcher):
    letters = []

    def last_handler(actor):
        actor.exit()
        for _ in range(3):
            actor.actor_ref.tell("too late")
        letters.append(actor.actor_ref.ask("question", block=False))
        letters.append(actor.actor_ref.stop(block=False))

    ref = Probe.start(dispatcher=dispatcher)
    ref.ask(last_handler)
    with pytest.raises(pykka.ActorDeadError):
        letters[0].get(timeout=WAIT_SECONDS)
    assert letters[1].get(timeout=WAIT_SECONDS) is True
    assert dispatcher.stats.dead_letters == 3


def test_a_kill_comes_before_all_mail_and_calls_no_hook(dispatcher):
    log = Log()
    ref = Probe.start(log, hooks=True, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)

    def fill_and_kill(actor):
        for number in range(1000):
            actor.actor_ref.tell(number)
        actor.schedule(0.0, "timer")
        actor.actor_ref.kill()

    ref.tell(fill_and_kill)
    assert told.wait() == [Terminated(ref, KILLED)]
    assert log.items == [("start", "")]
    assert dispatcher.stats.actor_failures == {}


def test_a_kill_from_another_thread_overtakes_a_storm(dispatcher):
    def storm(actor):
        actor.actor_ref.tell(storm)
        actor.actor_ref.tell(storm) if len(actor.actor_inbox.items) < 500 else None

    ref = Probe.start(dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    ref.tell(storm)
    kill(ref)
    kill(ref)
    assert told.wait() == [Terminated(ref, KILLED)]
    kill(ref)
    settle(dispatcher)
    assert len(told.items) == 1


def test_a_kill_before_the_first_turn_prevents_on_start(dispatcher):
    log, told = Log(), Log()

    def start_and_kill(actor):
        child = Probe.start(log, hooks=True)
        actor.watch(child)
        child.kill()

    Probe.start(told, dispatcher=dispatcher).tell(start_and_kill)
    assert reasons(told) == ["killed"]
    assert log.items == []


def test_an_ended_actor_is_freed_although_its_refs_and_reason_live(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    alive = weakref.ref(ref.ask(lambda actor: actor))
    gc.disable()
    try:
        ref.tell(fail(ValueError("keeps a traceback")))
        [message] = told.wait()
        eventually(lambda: alive() is None)
    finally:
        gc.enable()
    assert message.reason.exception.__traceback__ is not None


class Family(SupervisorActor):
    """A supervisor whose children's specs lead back to it, as they mostly do."""

    def __init__(self):
        super().__init__([ChildSpec("child", self.start_child)])

    def start_child(self):
        return Probe.start(log=Log(), name="child")

    def on_start(self):
        super().on_start()
        self.schedule(3600, "never")


def test_ended_actors_leave_no_cycles_to_the_collector(dispatcher):
    ref = Family.start(dispatcher=dispatcher)
    probe = ref.ask(WhichChildren())[0].ref
    traces = [weakref.ref(one) for one in (ref, ref.cell.actor, probe, probe.cell.actor)]
    settle(dispatcher)
    gc.disable()
    try:
        ref.stop(timeout=WAIT_SECONDS)
        del ref, probe
        eventually(lambda: not any(trace() for trace in traces))
    finally:
        gc.enable()


def test_a_ref_stays_the_same_while_anybody_has_it(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    cell = ref.cell
    assert cell.ref is ref
    ref.stop(timeout=WAIT_SECONDS)
    settle(dispatcher)
    assert cell.ref is ref
    urn = ref.actor_urn
    del ref
    eventually(lambda: cell._old_ref() is None)
    assert cell.ref.actor_urn == urn
    assert cell.ref.actor_class is Probe
    assert not cell.ref.is_alive()


def test_nothing_is_kept_of_a_watch_that_is_over(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    others = [Probe.start(dispatcher=dispatcher) for _ in range(2)]
    ref.ask(lambda actor: [actor.watch(other) for other in others] and None)
    ref.ask(lambda actor: actor.unwatch(others[0]))
    assert ref.cell.watching == (others[1],)
    others[1].stop(timeout=WAIT_SECONDS)
    eventually(lambda: ref.cell.watching == ())
    ref.ask(lambda actor: actor.unwatch(others[1]))


def test_the_inbox_speaks_pykkas_language(dispatcher):
    ref = Probe.start(log := Log(), dispatcher=dispatcher)
    eventually(ref.actor_inbox.empty)
    ref.actor_inbox.put(pykka._envelope.Envelope("plain"))
    assert log.wait() == ["plain"]
    with pytest.raises(NotImplementedError):
        ref.actor_inbox.get()
    ref.stop()
    ref.actor_inbox.put(pykka._envelope.Envelope("late"))
    assert dispatcher.stats.dead_letters == 1


def test_an_actor_whose_constructor_raises_is_never_started(dispatcher):
    seen = []

    class Broken(DispatchedActor):
        def __init__(self):
            seen.append(self.actor_ref)
            self.actor_ref.tell("lost")
            raise ValueError("v")

    with pytest.raises(ValueError, match="v"):
        Broken.start(dispatcher=dispatcher)
    settle(dispatcher)
    assert not seen[0].is_alive()
    assert dispatcher.stats.actors_alive == 0
