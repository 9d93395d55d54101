"""One thread for many actors: order, fairness, the way in from other threads, start and stop."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pykka
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.actors import (
    Log,
    Probe,
    fail,
    hold,
    loop_factories,
    reasons,
    settle,
    watcher_of,
)
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import DispatchedActor, Dispatcher, kill
from tunnelfleet.actors.kernel import dispatcher as dispatcher_module


class Collector(DispatchedActor):
    """Collects (sender, number) and answers with all of them."""

    def __init__(self):
        super().__init__()
        self.got = []

    def on_receive(self, message):
        if message == "all":
            return self.got
        self.got.append(message)
        return None


def in_order(got, bursts):
    for sender, count in enumerate(bursts):
        mine = [number for who, number in got if who == sender]
        assert mine == list(range(count)), f"sender {sender}"
    assert len(got) == sum(bursts)


@pytest.mark.parametrize("factory", loop_factories(), ids=lambda factory: factory.__module__)
@settings(max_examples=15, deadline=None)
@given(bursts=st.lists(st.integers(0, 400), min_size=1, max_size=4), batch=st.integers(1, 70))
def test_no_message_from_another_thread_is_lost_or_overtaken(factory, bursts, batch):
    with Dispatcher(batch_messages=batch, loop_factory=factory) as dispatcher:
        ref = Collector.start(dispatcher=dispatcher)

        def send(sender, count):
            for number in range(count):
                ref.tell((sender, number))

        threads = [threading.Thread(target=send, args=pair) for pair in enumerate(bursts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        in_order(ref.ask("all", timeout=WAIT_SECONDS), bursts)


@settings(max_examples=25, deadline=None)
@given(bursts=st.lists(st.integers(0, 200), min_size=1, max_size=4), batch=st.integers(1, 70))
def test_no_message_on_the_same_dispatcher_is_lost_or_overtaken(bursts, batch):
    with Dispatcher(batch_messages=batch) as dispatcher:
        ref = Collector.start(dispatcher=dispatcher)
        for sender, count in enumerate(bursts):
            Probe.start(dispatcher=dispatcher).tell(
                lambda _a, sender=sender, count=count: [ref.tell((sender, n)) for n in range(count)]
            )
        settle(dispatcher)
        in_order(ref.ask("all", timeout=WAIT_SECONDS), bursts)


class Storm(DispatchedActor):
    """Never runs out of mail, as long as it lives."""

    def on_start(self):
        for _ in range(200):
            self.actor_ref.tell("storm")

    def on_receive(self, message):
        self.actor_ref.tell(message)


@pytest.fixture
def quick_threads():
    """Threads hand the interpreter over quickly: the dispatcher is tested here, not the lock."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_threads")
def test_a_storm_starves_neither_actors_nor_sockets_nor_timers_nor_threads(dispatcher):
    log = Log()
    left, right = socket.socketpair()
    storms = [Storm.start(dispatcher=dispatcher) for _ in range(3)]
    neighbour = Probe.start(log, dispatcher=dispatcher)
    with left, right:
        try:
            assert neighbour.ask("a thread", timeout=WAIT_SECONDS) == "a thread"
            neighbour.ask(lambda actor: actor.add_reader(left, lambda: log.add(left.recv(10))))
            neighbour.ask(lambda actor: actor.schedule(0.001, "a timer") and None)
            for number in range(20):
                right.send(bytes([number]))
                log.wait_for(lambda items, number=number: bytes([number]) in items)
            log.wait_for(lambda items: "a timer" in items)
            assert dispatcher.stats.messages_handled > 1000
        finally:
            for storm in storms:
                kill(storm)
            kill(neighbour)
            settle(dispatcher)


def test_a_turn_handles_a_batch_then_the_next_actor_has_its_turn():
    order = []

    class Worker(DispatchedActor):
        def on_receive(self, message):
            order.append(message[0])

    with Dispatcher(batch_messages=10) as dispatcher:

        def fill(_actor):
            workers = [(name, Worker.start()) for name in "ab"]
            for name, worker in workers:
                for number in range(29):
                    worker.tell((name, number))

        Probe.start(dispatcher=dispatcher).ask(fill)
        settle(dispatcher)
    assert "".join(order) == "a" * 9 + "b" * 9 + ("a" * 10 + "b" * 10) * 2


def test_what_a_socket_callback_sends_is_handled_before_the_next_poll(dispatcher):
    """Five actors deep, while both sockets stay readable: the loop would call the second first."""
    log = Log()
    left, right = socket.socketpair()

    class Relay(DispatchedActor):
        def __init__(self, onward):
            super().__init__()
            self.onward = onward

        def on_receive(self, message):
            self.onward(message)

    class Reader(Probe):
        def on_start(self):
            step: Any = self.log.add
            for _ in range(5):
                step = Relay.start(step).tell
            self.chain = step
            self.reads = 0
            self.add_reader(left, self.read)

        def read(self):
            self.reads += 1
            left.recv(1)
            self.chain(("handled", self.reads))
            self.log.add(("read", self.reads))

    with left, right:
        gate = threading.Event()
        Reader.start(log, dispatcher=dispatcher).ask("ready")
        dispatcher.call_soon(gate.wait, WAIT_SECONDS)
        right.send(b"xyz")
        gate.set()
        expected: list[object] = ["ready"]
        for number in (1, 2, 3):
            expected += [("read", number), ("handled", number)]
        assert log.wait(7) == expected


def test_a_ready_socket_of_an_ended_actor_is_not_called(dispatcher, monkeypatch):
    """Both sockets are in one poll's result; the first one's callback ends the second's owner."""
    # However long this process stands still in between: the second one has its turn, and its end.
    monkeypatch.setattr(dispatcher_module, "SECONDS_BETWEEN_POLLS", WAIT_SECONDS)
    log = Log()
    pairs = [socket.socketpair() for _ in range(2)]
    refs = []

    class Killer(Probe):
        def __init__(self, sock):
            super().__init__(log)
            self.sock = sock

        def on_start(self):
            self.add_reader(self.sock, self.read)

        def read(self):
            log.add("read")
            for ref in refs:
                ref.kill()

    for left, _right in pairs:
        refs.append(Killer.start(left, dispatcher=dispatcher))
    settle(dispatcher)
    gate = threading.Event()
    dispatcher.call_soon(gate.wait, WAIT_SECONDS)
    for _left, right in pairs:
        right.send(b"x")
    gate.set()
    for ref in refs:
        assert ref.actor_stopped.wait(WAIT_SECONDS)
    settle(dispatcher)
    assert log.items == ["read"]
    for sock in [sock for pair in pairs for sock in pair]:
        sock.close()


def test_foreign_callbacks_on_the_loop_may_send(dispatcher):
    log = Log()
    ref = Probe.start(log, dispatcher=dispatcher)
    settle(dispatcher)
    dispatcher.loop.call_soon_threadsafe(ref.tell, "from the loop")
    assert log.wait() == ["from the loop"]


def test_call_soon_runs_on_the_dispatcher_and_survives_exceptions(dispatcher, caplog):
    log = Log()

    def note():
        log.add((Dispatcher.current(), threading.current_thread().name))
        dispatcher.call_soon(log.add, "from inside")

    for error in (ValueError("v"), SystemExit(1), KeyboardInterrupt()):
        dispatcher.call_soon(fail(error), None)
    dispatcher.call_soon(note)
    assert log.wait(2) == [(dispatcher, "test"), "from inside"]
    assert Dispatcher.current() is None
    assert caplog.text.count("a function called on <Dispatcher 'test'> failed") == 3


@pytest.mark.usefixtures("slow_turns")
def test_a_slow_turn_is_counted_and_logged_without_content(caplog):
    class Sleeper(Probe):
        def on_receive(self, message):
            threading.Event().wait(0.35)

    def sleepy_reader():
        threading.Event().wait(0.35)
        left.recv(1)

    left, right = socket.socketpair()
    with left, right, Dispatcher(slow_turn_seconds=0.3) as dispatcher:
        ref = Sleeper.start(dispatcher=dispatcher)
        ref.ask({"token": "secret-1"})
        settle(dispatcher)
        assert dispatcher.stats.slow_turns == 1
        Probe.start(dispatcher=dispatcher).ask(lambda a: a.add_reader(left, sleepy_reader))
        right.send(b"x")
        deadline = time.monotonic() + WAIT_SECONDS
        while dispatcher.stats.slow_turns < 2 and time.monotonic() < deadline:
            settle(dispatcher)
        assert dispatcher.stats.slow_turns == 2
        assert dispatcher.stats.longest_turn_seconds > 0.3
    assert "slow turn: Sleeper took" in caplog.text
    assert "the last a dict" in caplog.text
    assert "sleepy_reader" in caplog.text
    assert "secret-1" not in caplog.text


def test_the_counters_count(dispatcher):
    refs = [Probe.start(dispatcher=dispatcher) for _ in range(5)]
    for ref in refs:
        ref.ask("x")
    assert dispatcher.stats.actors_alive == 5
    for ref in refs:
        ref.stop()
    snapshot = dispatcher.stats.snapshot()
    assert (snapshot.actors_started, snapshot.actors_alive) == (5, 0)
    assert snapshot.messages_handled >= 15
    assert snapshot.turns >= 5
    refs[0].cell.dispatcher.count_failure("Probe")
    assert snapshot.actor_failures == {}


# Start and stop.


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("factory", loop_factories(), ids=lambda factory: factory.__module__)
def test_a_stopped_dispatcher_leaves_no_thread_loop_or_descriptor(factory):
    def run():
        with Dispatcher(loop_factory=factory) as dispatcher:
            left, right = socket.socketpair()
            with left, right:
                ref = Probe.start(dispatcher=dispatcher)
                ref.ask(lambda actor: actor.add_reader(left, lambda: None))
                ref.ask(lambda actor: actor.schedule(3600, "never") and None)
                dispatcher.stop()
        assert dispatcher.loop.is_closed()

    run()
    gc.collect()
    threads, descriptors = threading.active_count(), open_descriptors()
    for _ in range(5):
        run()
    gc.collect()
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors


def test_stop_kills_who_is_left_and_tells_watchers_elsewhere(dispatcher, other):
    log = Log()
    refs = [Probe.start(log, hooks=True, dispatcher=other) for _ in range(3)]
    logs = [watcher_of(ref, dispatcher) for ref in refs]
    log.wait(3)
    other.stop()
    assert [reasons(told) for told in logs] == [["killed"]] * 3
    assert log.items == [("start", "")] * 3
    assert not any(ref.is_alive() for ref in refs)
    assert other.stats.actors_alive == 0


def outcome(future):
    """Return what a future holds: its value, or the type of its exception."""
    try:
        return future.get(timeout=WAIT_SECONDS)
    except Exception as error:
        return type(error)


def test_stop_answers_who_still_waits(other):
    gate = threading.Event()
    ref = Probe.start(dispatcher=other)
    other.call_soon(gate.wait, WAIT_SECONDS)
    answer, stopped = ref.ask("x", block=False), ref.stop(block=False)
    late = Probe.start(dispatcher=other)
    stopper = threading.Thread(target=other.stop)
    stopper.start()
    gate.set()
    stopper.join()
    assert outcome(answer) in {"x", pykka.ActorDeadError}
    assert stopped.get(timeout=WAIT_SECONDS) is True
    assert late.actor_stopped.wait(WAIT_SECONDS)
    assert ref.stop() is False


def test_what_comes_in_while_it_stops_is_refused(other):
    ref = Probe.start(dispatcher=other)
    settle(other)
    answers, late, log = [], [], Log()

    def send():
        answers.append(ref.ask("x", block=False))
        late.append(Probe.start(dispatcher=other))
        answers.append(late[0].ask("x", block=False))
        late[0].kill()
        other.call_soon(log.add, "never")

    def stop():
        thread = threading.Thread(target=send)
        thread.start()
        thread.join()
        other._shut_down()

    other.call_soon(stop)
    assert ref.actor_stopped.wait(WAIT_SECONDS)
    other.stop()
    assert [outcome(answer) for answer in answers] == [pykka.ActorDeadError] * 2
    assert not late[0].is_alive()
    assert log.items == []
    assert other.stats.actors_alive == 0


def test_a_message_that_meets_a_closed_loop_is_no_error(other):
    other.stop()
    other._closed, other._woken = False, False
    assert other.post(None, (print, ())) is True
    other._closed = True


def test_senders_racing_with_stop_never_hang():
    for _ in range(10):
        dispatcher = Dispatcher().start()
        ref = Probe.start(dispatcher=dispatcher)
        futures = []

        def ask(ref=ref, futures=futures):
            for _ in range(200):
                futures.append(ref.ask("x", block=False))

        thread = threading.Thread(target=ask)
        thread.start()
        dispatcher.stop()
        thread.join()
        assert {outcome(future) for future in futures} <= {"x", pykka.ActorDeadError}


def test_stop_is_harmless_when_repeated_or_early():
    dispatcher = Dispatcher()
    dispatcher.stop()
    assert not dispatcher.is_running
    dispatcher.start()
    assert dispatcher.is_running
    dispatcher.stop()
    dispatcher.stop()
    assert not dispatcher.is_running
    with pytest.raises(RuntimeError, match="does not run"):
        dispatcher.call_soon(print)


def test_a_dispatcher_runs_once(dispatcher):
    with pytest.raises(RuntimeError, match="make a new one"):
        dispatcher.start()
    assert dispatcher.__enter__() is dispatcher


def test_it_cannot_stop_itself(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    with pytest.raises(RuntimeError, match="own thread"):
        ref.ask(lambda actor: actor.dispatcher.stop())


def test_stop_says_which_actor_does_not_let_go():
    gate = threading.Event()
    dispatcher = Dispatcher(slow_turn_seconds=60).start()
    ref = Probe.start(dispatcher=dispatcher)
    entered = threading.Event()
    ref.tell(lambda _actor: (entered.set(), gate.wait(WAIT_SECONDS)))
    assert entered.wait(WAIT_SECONDS)
    with pytest.raises(TimeoutError, match="a turn of Probe"):
        dispatcher.stop(timeout_seconds=0.02)
    gate.set()
    dispatcher.stop()


def test_a_loop_that_cannot_be_made_is_start_s_error():
    def broken():
        raise OSError("too many open files")

    with pytest.raises(OSError, match="too many"):
        Dispatcher(loop_factory=broken).start()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Dispatcher(batch_messages=0)


def test_debug_logs_of_dead_letters_name_types_only(dispatcher, caplog):
    ref = Probe.start(dispatcher=dispatcher)
    ref.stop()
    with caplog.at_level(logging.DEBUG):
        Probe.start(dispatcher=dispatcher).ask(lambda _a: ref.tell({"token": "secret-1"}))
    assert "dead letter: dict to Probe" in caplog.text
    assert "secret-1" not in caplog.text


def test_a_turn_of_heavy_messages_is_over_before_its_batch(dispatcher):
    """One message may be the work of a thousand others."""
    log = Log()

    def heavy(_actor):
        until = time.monotonic() + dispatcher_module.TURN_SECONDS
        while time.monotonic() <= until:
            pass
        log.add("heavy")

    busy, other = Probe.start(dispatcher=dispatcher), Probe.start(dispatcher=dispatcher)

    def fill(_actor):
        for _ in range(20):
            busy.tell(heavy)
        other.tell(lambda _actor: log.add("other"))

    other.ask(fill, timeout=WAIT_SECONDS)
    assert log.wait(21).index("other") <= dispatcher_module.CHECK_TIME_MASK


class Burden:
    """A message that a test can look for."""


def test_a_failure_keeps_no_message_of_the_burst_it_came_in(dispatcher):
    """Its traceback leads to the frames that were running then, for as long as it is kept."""
    ref, other = Probe.start(dispatcher=dispatcher), Probe.start(dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    burden = Burden()
    left = weakref.ref(burden)
    with hold(dispatcher):
        other.tell(lambda _actor, _burden=burden: None)
        ref.tell(fail(RuntimeError("broken")))
        del burden
    (message,) = told.wait()
    settle(dispatcher)
    assert message.reason.exception is not None
    eventually(lambda: left() is None, "the message of another actor")


def test_a_failure_keeps_nothing_of_a_function_that_was_called_before_it(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    burden = Burden()
    left = weakref.ref(burden)

    def call(_burden):
        ref.tell(fail(RuntimeError("broken")))

    ref.ask(lambda _actor, burden=burden: dispatcher.call_soon(call, burden))
    del burden
    (message,) = told.wait()
    assert message.reason.exception is not None
    eventually(lambda: left() is None, "the argument of the function")


def test_it_counts_the_messages_that_wait(dispatcher):
    refs = [Probe.start(dispatcher=dispatcher) for _ in range(2)]
    settle(dispatcher)
    assert dispatcher.mailbox_messages() == 0
    waiting = []

    def tell():
        for ref in refs:
            for _ in range(3):
                ref.tell(lambda _actor: waiting.append(dispatcher.mailbox_messages()))

    with hold(dispatcher):
        tell()
        assert dispatcher.mailbox_messages() == 6
    dispatcher.call_soon(tell)
    settle(dispatcher)
    # Each handler saw what waited then: of actors whose turn it is, what is left counts no more.
    assert len(waiting) == 12
    assert all(0 <= each <= 6 for each in waiting)


def test_a_foreign_callback_on_the_loop_may_start_an_actor(dispatcher):
    log = Log()
    settle(dispatcher)
    dispatcher.loop.call_soon_threadsafe(lambda: Probe.start(log, hooks=True))
    assert log.wait() == [("start", "")]


def test_a_socket_of_an_ended_actor_that_the_loop_calls_all_the_same_does_nothing(dispatcher):
    log = Log()
    left, right = socket.socketpair()
    with left, right:
        ref = Probe.start(dispatcher=dispatcher)
        ref.ask(lambda actor: actor.add_reader(left, lambda: log.add("read")))
        (registration,) = ref.cell.registrations
        ref.stop()
        dispatcher.call_soon(dispatcher._socket_ready, registration)
        settle(dispatcher)
    assert log.items == []
    assert dispatcher.stats.actor_failures == {}


def test_what_a_socket_callback_sent_to_itself_before_it_failed_is_a_dead_letter(dispatcher):
    left, right = socket.socketpair()
    with left, right:
        ref = Probe.start(dispatcher=dispatcher)

        def read(actor):
            actor.actor_ref.tell("never")
            raise OSError("broken")

        ref.ask(lambda actor: actor.add_reader(left, lambda: read(actor)))
        log = watcher_of(ref, dispatcher)
        right.send(b"x")
        assert reasons(log) == ["failed: OSError: broken"]
    settle(dispatcher)
    assert dispatcher.stats.dead_letters == 1


def test_a_socket_closed_while_turns_wait_for_the_poll_is_forgotten_before_it(dispatcher):
    """A run is scheduled already when a function adds a socket, closes it, and returns."""
    log = Log()
    ref = Probe.start(log, dispatcher=dispatcher)
    actor = ref.ask(lambda actor: actor)
    settle(dispatcher)

    def add_and_close():
        left, right = socket.socketpair()
        actor.add_reader(left, lambda: log.add("read"))
        left.close()
        right.close()

    def saturate():
        dispatcher.call_soon(add_and_close)
        ref.tell("handled")

    dispatcher.loop.call_soon_threadsafe(saturate)
    assert log.wait() == ["handled"]
    settle(dispatcher)
    assert len(dispatcher.readiness) == 0
    assert log.items == ["handled"]


def test_the_thread_of_a_forked_child_leaves_its_loop_as_it_is():
    dispatcher = Dispatcher().start()
    guard = dispatcher._fork_guard
    guard._generation -= 1
    dispatcher._closed = True
    dispatcher.loop.call_soon_threadsafe(dispatcher.loop.stop)
    dispatcher._thread.join(WAIT_SECONDS)
    # In a child the loop's descriptors are the parent's.
    assert not dispatcher.loop.is_closed()
    dispatcher.loop.close()
