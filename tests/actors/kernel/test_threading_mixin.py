"""A host's ThreadingActors as parents and as children of ours."""

from __future__ import annotations

import threading

import pykka
import pytest

from tests.support.actors import (
    HostActor,
    Log,
    Probe,
    ReportingHostActor,
    fail,
    reasons,
    settle,
    watcher_of,
)
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import (
    NOPROC,
    ChildSpec,
    ChildState,
    Shutdown,
    SupervisorActor,
    Terminated,
    TerminationReporter,
    WhichChildren,
)


class BadStart(ReportingHostActor):
    def on_start(self):
        raise ValueError("in on_start")


class BadStop(ReportingHostActor):
    def on_stop(self):
        raise ValueError("in on_stop")


def test_a_stop_is_told_as_shutdown(dispatcher):
    host = ReportingHostActor.start()
    told = watcher_of(host, dispatcher)
    host.stop()
    assert reasons(told) == ["shutdown"]
    host = ReportingHostActor.start()
    told = watcher_of(host, dispatcher)
    host.tell(lambda actor: actor.stop())
    assert reasons(told) == ["shutdown"]


def test_failures_are_told_as_failures(dispatcher):
    host = ReportingHostActor.start()
    told = watcher_of(host, dispatcher)
    host.tell(fail(OSError("under tell")))
    assert reasons(told) == ["failed: OSError: under tell"]

    other = BadStop.start()
    told = watcher_of(other, dispatcher)
    other.stop()
    assert reasons(told) == ["failed: ValueError: in on_stop"]
    settle(dispatcher)
    assert len(told.items) == 1


def test_a_failure_in_on_start_is_told_to_whoever_is_in_time(dispatcher):
    host = BadStart.start()
    [reason] = reasons(watcher_of(host, dispatcher))
    assert reason in {"failed: ValueError: in on_start", "noproc"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fatal_exception_in_on_start_is_told(dispatcher):
    gate = threading.Event()

    class Fatal(ReportingHostActor):
        def on_start(self):
            gate.wait(WAIT_SECONDS)
            raise SystemExit(1)

    host = Fatal.start()
    told = watcher_of(host, dispatcher)
    gate.set()
    assert reasons(told) == ["failed: SystemExit: 1"]
    pykka.ActorRegistry.unregister(host)


def test_an_exception_under_ask_ends_nothing_as_in_pykka(dispatcher):
    host = ReportingHostActor.start()
    told = watcher_of(host, dispatcher)
    with pytest.raises(ValueError, match="v"):
        host.ask(fail(ValueError("v")))
    assert host.ask("still here") == "still here"
    assert told.items == []
    host.stop()
    told.wait()


def test_a_watcher_that_unwatches_is_not_told(dispatcher):
    log = Log()
    host = ReportingHostActor.start()
    watcher = Probe.start(log, dispatcher=dispatcher)
    watcher.ask(lambda actor: (actor.watch(host), actor.unwatch(host)))
    host.stop()
    settle(dispatcher)
    assert [item for item in log.items if isinstance(item, Terminated)] == []


def test_a_constructor_that_skips_ours_works_all_the_same(dispatcher):
    class Careless(TerminationReporter, pykka.ThreadingActor):
        def __init__(self):
            pykka.Actor.__init__(self)

    host = Careless.start()
    told = watcher_of(host, dispatcher)
    host.stop()
    assert reasons(told) == ["shutdown"]


def test_hosts_actors_watch_each_other():
    log = Log()
    parent, child = ReportingHostActor.start(log), ReportingHostActor.start()
    parent.ask(lambda actor: actor.watch(child))
    child.tell(fail(ValueError("v")))
    assert reasons(log) == ["failed: ValueError: v"]
    parent.ask(lambda actor: actor.watch(child))
    assert log.wait(2)[1] == Terminated(child, NOPROC)
    other = ReportingHostActor.start()
    parent.ask(lambda actor: (actor.watch(other), actor.unwatch(other)))
    other.stop()
    parent.stop()
    assert [item for item in log.items if getattr(item, "ref", None) is other] == []


# Ours under a host's actor.


class HostParent(TerminationReporter, pykka.ThreadingActor):
    """A host's actor that starts, watches, asks and stops a supervisor of ours."""

    def __init__(self, dispatcher, log):
        super().__init__()
        self.dispatcher = dispatcher
        self.log = log

    def on_start(self):
        spec = ChildSpec("worker", lambda: Probe.start(self.log, name="worker", hooks=True))
        self.child = SupervisorActor.start([spec], max_restarts=1, dispatcher=self.dispatcher)
        self.watch(self.child)

    def on_receive(self, message):
        if isinstance(message, Terminated):
            self.log.add(str(message.reason))
        elif message == "ask":
            return self.child.ask(WhichChildren(), timeout=WAIT_SECONDS)
        elif message == "stop":
            return self.child.stop(timeout=WAIT_SECONDS)
        return None


def test_a_hosts_actor_runs_a_supervisor_of_ours(dispatcher):
    log = Log()
    parent = HostParent.start(dispatcher, log)
    [worker] = parent.ask("ask")
    assert worker.state is ChildState.RUNNING
    assert parent.ask("stop") is True
    assert log.wait(3) == [("start", "worker"), ("stop", "worker"), "shutdown"]
    parent.stop()


def test_a_hosts_actor_is_told_why_a_supervisor_of_ours_gave_up(dispatcher):
    log = Log()
    parent = HostParent.start(dispatcher, log)
    for restarts in range(2):
        [worker] = parent.ask("ask")
        assert worker.restarts == restarts
        worker.ref.tell(fail(KeyboardInterrupt()))
        log.wait_for(lambda items, n=restarts: items.count(("start", "worker")) > n)
        worker.ref.actor_stopped.wait(WAIT_SECONDS)
        settle(dispatcher)
    items = log.wait_for(lambda items: isinstance(items[-1], str))
    assert "RestartIntensityExceeded: more than 1 restarts in 5 s" in items[-1]
    assert parent.ask("stop") is False
    parent.stop()


# A host's actor under ours.


def test_a_hosts_actor_is_supervised_like_ours(dispatcher):
    log = Log()
    spec = ChildSpec("camera", lambda: ReportingHostActor.start(log))
    root = SupervisorActor.start([spec], dispatcher=dispatcher)
    told = watcher_of(root, dispatcher)
    [first] = root.ask(WhichChildren())
    first.ref.tell(fail(ValueError("v")))
    eventually(lambda: root.ask(WhichChildren())[0].restarts == 1)
    [second] = root.ask(WhichChildren())
    assert (second.state, second.restarts) == (ChildState.RUNNING, 1)
    assert second.ref is not first.ref
    assert root.stop(timeout=WAIT_SECONDS) is True
    assert not second.ref.is_alive()
    assert reasons(told) == ["shutdown"]


def test_a_hosts_actor_without_the_mixin_is_refused_and_not_left_running(dispatcher):
    started = []

    def start():
        started.append(HostActor.start())
        return started[-1]

    root = SupervisorActor.start([ChildSpec("plain", start)], dispatcher=dispatcher)
    assert root.actor_stopped.wait(WAIT_SECONDS)
    assert started[0].actor_stopped.wait(WAIT_SECONDS)
    assert len(started) == 1


@pytest.mark.parametrize("shutdown", [0.02, Shutdown.BRUTAL_KILL])
def test_a_hosts_actor_that_does_not_stop_is_left_behind_and_counted(dispatcher, shutdown):
    gate = threading.Event()
    spec = ChildSpec("stuck", ReportingHostActor.start, shutdown=shutdown)
    root = SupervisorActor.start([spec], dispatcher=dispatcher)
    [stuck] = root.ask(WhichChildren())
    stuck.ref.tell(lambda _actor: gate.wait(WAIT_SECONDS) and None)
    assert root.stop(timeout=WAIT_SECONDS) is True
    assert dispatcher.stats.abandoned_children == 1
    assert stuck.ref.is_alive()
    gate.set()
    assert stuck.ref.actor_stopped.wait(WAIT_SECONDS)


def test_a_fatal_exception_in_a_hosts_child_does_not_deadlock_with_its_root(dispatcher):
    """pykka then stops all registered actors: our root is one, and the child is the root's own."""
    spec = ChildSpec("camera", ReportingHostActor.start, shutdown=Shutdown.INFINITY)
    root = SupervisorActor.start([spec], dispatcher=dispatcher, register=True)
    told = watcher_of(root, dispatcher)
    [camera] = root.ask(WhichChildren())
    camera.ref.tell(fail(KeyboardInterrupt()))
    assert reasons(told) == ["shutdown"]
    assert root.actor_stopped.wait(WAIT_SECONDS)
    for ref in pykka.ActorRegistry.get_all():
        ref.stop(timeout=WAIT_SECONDS)


def test_a_hosts_child_is_asked_to_stop_when_its_supervisor_is_killed(dispatcher):
    spec = ChildSpec("camera", ReportingHostActor.start)
    root = SupervisorActor.start([spec], dispatcher=dispatcher)
    [camera] = root.ask(WhichChildren())
    root.kill()
    assert camera.ref.actor_stopped.wait(WAIT_SECONDS)
