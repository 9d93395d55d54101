"""The commands and questions put to a supervisor."""

from __future__ import annotations

import pykka
import pytest

from tests.support.actors import Log, Probe, settle
from tests.support.supervisors import (
    LONG,
    Dice,
    child,
    children,
    wait_state,
    worker,
)
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import (
    Backoff,
    ChildBusyError,
    ChildCounts,
    ChildExistsError,
    ChildSpec,
    ChildStartError,
    ChildState,
    CountChildren,
    DeleteChild,
    Restart,
    RestartChild,
    Shutdown,
    StartChild,
    StopChild,
    SupervisorActor,
    SupervisorStoppingError,
    UnknownChildError,
)
from tunnelfleet.actors.kernel.supervisor_messages import AskToStop, Force


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def ref(dispatcher, log):
    return SupervisorActor.start([worker("a", log)], rng=Dice(1.0), dispatcher=dispatcher)


def ask(ref, message):
    return ref.ask(message, timeout=WAIT_SECONDS)


def broken():
    raise OSError("no")


def test_a_child_is_started_after_the_others_and_stopped_before_them(ref, log):
    started = ask(ref, StartChild(worker("b", log)))
    assert children(ref)["b"].ref is started
    assert list(children(ref)) == ["a", "b"]
    ref.stop(timeout=WAIT_SECONDS)
    assert log.items == [("start", "a"), ("start", "b"), ("stop", "b"), ("stop", "a")]


def test_an_id_is_given_once(ref):
    with pytest.raises(ChildExistsError, match="already is a child 'a'"):
        ask(ref, StartChild(worker("a")))
    assert child(ref, "a").is_alive()


def test_a_child_that_cannot_be_started_is_not_kept(ref):
    with pytest.raises(
        ChildStartError, match="child 'b' could not be started: failed: OSError: no"
    ):
        ask(ref, StartChild(ChildSpec("b", broken)))
    assert list(children(ref)) == ["a"]
    with pytest.raises(ValueError, match="NEVER"):
        ask(ref, StartChild(worker("b", significant=True, restart=Restart.TRANSIENT)))
    assert list(children(ref)) == ["a"]


def test_a_child_with_backoff_that_cannot_be_started_is_kept_and_retried(ref):
    assert ask(ref, StartChild(ChildSpec("b", broken, backoff=LONG))) is None
    assert children(ref)["b"].state is ChildState.WAITING
    assert ask(ref, RestartChild("b")) is None
    assert children(ref)["b"].state is ChildState.WAITING
    assert child(ref, "a").is_alive()


def test_stop_child_answers_when_it_has_ended_and_keeps_it_stopped(ref, log, dispatcher):
    first = child(ref, "a")
    assert ask(ref, StopChild("a")) is None
    assert not first.is_alive()
    assert log.items == [("start", "a"), ("stop", "a")]
    info = children(ref)["a"]
    assert (info.ref, info.state, str(info.last_reason)) == (None, ChildState.STOPPED, "shutdown")
    assert ask(ref, StopChild("a")) is None
    settle(dispatcher)
    assert children(ref)["a"].state is ChildState.STOPPED


def test_a_stopped_child_can_be_restarted_or_deleted(ref, log):
    ask(ref, StopChild("a"))
    restarted = ask(ref, RestartChild("a"))
    assert children(ref)["a"].ref is restarted
    assert children(ref)["a"].restarts == 1
    with pytest.raises(ChildBusyError, match="child 'a' is running: stop it first"):
        ask(ref, DeleteChild("a"))
    with pytest.raises(ChildBusyError):
        ask(ref, RestartChild("a"))
    ask(ref, StopChild("a"))
    assert ask(ref, DeleteChild("a")) is None
    assert children(ref) == {}
    ask(ref, StartChild(worker("a", log)))


def test_a_restart_on_command_that_fails_leaves_the_child_stopped(ref):
    starts = [lambda: Probe.start(), broken]
    ask(ref, StartChild(ChildSpec("b", lambda: starts.pop(0)())))
    ask(ref, StopChild("b"))
    with pytest.raises(ChildStartError):
        ask(ref, RestartChild("b"))
    assert children(ref)["b"].state is ChildState.STOPPED


def test_a_temporary_child_is_forgotten_when_it_is_stopped(ref):
    ask(ref, StartChild(worker("t", restart=Restart.TEMPORARY)))
    ask(ref, StopChild("t"))
    assert list(children(ref)) == ["a"]


def test_several_may_wait_for_one_stop(ref, dispatcher):
    class Stubborn(Probe):
        def on_stop_requested(self):
            return False

    stubborn = ask(ref, StartChild(ChildSpec("s", Stubborn.start, shutdown=Shutdown.INFINITY)))
    stops = [ref.ask(StopChild("s"), block=False) for _ in range(2)]
    wait_state(ref, "s", ChildState.STOPPING)
    with pytest.raises(ChildBusyError, match="stopping"):
        ask(ref, RestartChild("s"))
    assert not any(stop.is_resolved for stop in stops)
    stubborn.kill()
    assert [stop.get(timeout=WAIT_SECONDS) for stop in stops] == [None, None]
    assert children(ref)["s"].state is ChildState.STOPPED


def test_a_waiting_child_can_be_stopped(ref, dispatcher):
    backoff = Backoff(min_seconds=0.05, max_seconds=0.05)
    ask(ref, StartChild(worker("w", backoff=backoff)))
    child(ref, "w").kill()
    wait_state(ref, "w", ChildState.WAITING)
    ask(ref, StopChild("w"))
    later = Log()
    Probe.start(later, dispatcher=dispatcher).tell(lambda p: p.schedule(0.1, "later") and None)
    later.wait()
    assert children(ref)["w"].state is ChildState.STOPPED


def test_unknown_children_are_named(ref):
    for command in (StopChild("x"), RestartChild("x"), DeleteChild("x")):
        with pytest.raises(UnknownChildError, match="no child 'x'"):
            ask(ref, command)


def test_count_children_counts_by_state(ref):
    ask(ref, StartChild(worker("b")))
    ask(ref, StartChild(ChildSpec("w", broken, backoff=LONG)))
    ask(ref, StartChild(ChildSpec("q", broken, backoff=LONG, quarantine_after=1)))
    ask(ref, StopChild("b"))
    assert ask(ref, CountChildren()) == ChildCounts(
        specs=4, running=1, waiting=1, quarantined=1, stopping=0, stopped=1
    )


def test_a_stopping_supervisor_starts_nothing(ref):
    class Stubborn(Probe):
        def on_stop_requested(self):
            return False

    stubborn = ask(ref, StartChild(ChildSpec("s", Stubborn.start, shutdown=Shutdown.INFINITY)))
    ask(ref, StopChild("a"))
    stopping = ref.stop(block=False)
    for command in (StartChild(worker("b")), RestartChild("a")):
        with pytest.raises(SupervisorStoppingError):
            ask(ref, command)
    one_more = ref.ask(StopChild("s"), block=False)
    stubborn.kill()
    assert stopping.get(timeout=WAIT_SECONDS) is True
    assert one_more.get(timeout=WAIT_SECONDS) is None
    with pytest.raises(pykka.ActorDeadError):
        ask(ref, CountChildren())


def test_commands_may_be_told_and_refusals_are_logged(ref, caplog):
    ref.tell(StartChild(worker("b")))
    ref.tell(StartChild(worker("b")))
    ref.tell(StopChild("x"))
    ref.tell(StartChild(ChildSpec("c", broken)))
    ref.tell(StopChild("b"))
    eventually(lambda: children(ref)["b"].state is ChildState.STOPPED)
    assert "a command was refused: there already is a child 'b'" in caplog.text
    assert "a command was refused: there is no child 'x'" in caplog.text
    assert "child 'c' could not be started" in caplog.text
    assert list(children(ref)) == ["a", "b"]


def test_a_subclass_adds_messages_and_passes_on_the_rest(dispatcher):
    class Own(SupervisorActor):
        def on_receive(self, message):
            return "mine" if message == "own" else super().on_receive(message)

    ref = Own.start([worker("a")], dispatcher=dispatcher)
    assert ask(ref, "own") == "mine"
    assert child(ref, "a").is_alive()


def test_a_subclass_may_watch_others(dispatcher, ref):
    stranger = Probe.start(dispatcher=dispatcher)
    dispatcher.call_soon(lambda: ref.cell.actor.watch(stranger))
    settle(dispatcher)
    stranger.kill()
    settle(dispatcher)
    assert list(children(ref)) == ["a"]


def test_an_unexpected_message_harms_nobody(ref, caplog):
    assert ask(ref, {"token": "secret-1"}) is None
    assert "SupervisorActor got an unexpected message: a dict" in caplog.text
    assert "secret-1" not in caplog.text


def test_orders_about_a_child_that_has_ended_meanwhile_do_nothing(ref, dispatcher):
    ask(ref, StopChild("a"))
    seen = Log()

    def order():
        supervisor = ref.cell.actor
        child = supervisor._supervision.children["a"]
        supervisor._ask_to_stop(AskToStop(child, 0.0))
        supervisor._force(Force(child))
        seen.add((child.ref, child.timer))

    dispatcher.call_soon(order)
    assert seen.wait() == [(None, None)]
    assert children(ref)["a"].state is ChildState.STOPPED


def test_a_supervisor_says_whether_it_finishes(dispatcher):
    class Telling(SupervisorActor):
        def on_child_ended(self, child_id, ref, reason):
            seen.add((child_id, self.is_finishing))

    seen = Log()
    ref = Telling.start([worker("a"), worker("b")], dispatcher=dispatcher)
    ask(ref, StopChild("a"))
    ref.stop()
    assert seen.wait(2) == [("a", False), ("b", True)]
