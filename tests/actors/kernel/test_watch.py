"""Death watch between any two actors: told once, whatever the timing."""

from __future__ import annotations

import gc

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
from tunnelfleet.actors.kernel import NOPROC, SHUTDOWN, DispatchedActor, Terminated
from tunnelfleet.actors.kernel.watch import stop_watching


def test_each_watcher_is_told_once(dispatcher, other):
    ref = Probe.start(dispatcher=dispatcher)
    logs = [watcher_of(ref, dispatcher), watcher_of(ref, dispatcher), watcher_of(ref, other)]
    ref.stop()
    for log in logs:
        assert log.wait() == [Terminated(ref, SHUTDOWN)]
    settle(dispatcher)
    settle(other)
    assert [len(log.items) for log in logs] == [1, 1, 1]


def test_watching_twice_tells_once(dispatcher):
    log = Log()
    ref = Probe.start(dispatcher=dispatcher)
    watcher = Probe.start(log, dispatcher=dispatcher)
    watcher.ask(lambda actor: (actor.watch(ref), actor.watch(ref)))
    ref.stop()
    log.wait()
    settle(dispatcher)
    assert len(log.items) == 1


def test_watching_the_dead_tells_at_once(dispatcher, other):
    dead = Probe.start(dispatcher=dispatcher)
    dead.stop()
    assert watcher_of(dead, dispatcher).wait() == [Terminated(dead, NOPROC)]
    assert watcher_of(dead, other).wait() == [Terminated(dead, NOPROC)]


def test_unwatching_prevents_even_a_message_that_waits(dispatcher):
    log = Log()
    ref = Probe.start(dispatcher=dispatcher)
    watcher = Probe.start(log, dispatcher=dispatcher)

    def scenario(actor):
        actor.watch(ref)
        ref.kill()
        actor.actor_ref.tell(lambda late: late.unwatch(ref))

    watcher.ask(scenario)
    settle(dispatcher)
    watcher.ask("barrier")
    assert log.items == ["barrier"]


def test_unwatching_what_is_not_watched_does_nothing(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    Probe.start(dispatcher=dispatcher).ask(lambda actor: actor.unwatch(ref))
    assert ref.is_alive()


def test_watching_again_after_unwatching_tells_once(dispatcher):
    log = Log()
    ref = Probe.start(dispatcher=dispatcher)
    watcher = Probe.start(log, dispatcher=dispatcher)
    watcher.ask(lambda actor: (actor.watch(ref), actor.unwatch(ref), actor.watch(ref)))
    ref.stop()
    log.wait()
    settle(dispatcher)
    assert log.items == [Terminated(ref, SHUTDOWN)]


def test_messages_of_the_watched_come_before_its_end(dispatcher):
    log = Log()
    watcher = Probe.start(log, dispatcher=dispatcher)

    class Last(DispatchedActor):
        def on_start(self):
            watcher.tell("last words")
            self.exit()

        def on_stop(self):
            watcher.tell("very last words")

    watcher.tell(lambda actor: actor.watch(Last.start()))
    assert [getattr(item, "reason", item) for item in log.wait(3)][:2] == [
        "last words",
        "very last words",
    ]


def test_a_watcher_that_ends_leaves_nothing_behind(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    for _ in range(10):
        watcher = Probe.start(dispatcher=dispatcher)
        watcher.ask(lambda actor: actor.watch(ref))
        watcher.stop()
    assert not ref.cell.watchers
    ref.stop()
    assert dispatcher.stats.dead_letters == 0


def test_a_plain_hosts_actor_cannot_be_watched(dispatcher):
    host = HostActor.start()
    watcher = Probe.start(dispatcher=dispatcher)
    with pytest.raises(TypeError, match="TerminationReporter"):
        watcher.ask(lambda actor: actor.watch(host))
    host.stop()


def test_a_hosts_actor_that_reports_is_watched_like_ours(dispatcher):
    host = ReportingHostActor.start()
    log = watcher_of(host, dispatcher)
    host.stop()
    assert log.wait() == [Terminated(host, SHUTDOWN)]
    assert watcher_of(host, dispatcher).wait() == [Terminated(host, NOPROC)]


def test_a_hosts_actor_watches_ours(dispatcher):
    log = Log()
    ours = Probe.start(dispatcher=dispatcher)
    host = ReportingHostActor.start(log)
    host.ask(lambda actor: actor.watch(ours))
    ours.tell(fail(ValueError("v")))
    assert reasons(log) == ["failed: ValueError: v"]
    host.stop()


def test_a_dead_hosts_watcher_is_skipped(dispatcher):
    ours = Probe.start(dispatcher=dispatcher)
    host = ReportingHostActor.start()
    host.ask(lambda actor: actor.watch(ours))
    host.stop()
    assert ours.stop() is True


def test_a_watcher_survives_the_stop_of_the_others_dispatcher(dispatcher, other):
    ref = Probe.start(dispatcher=other)
    log = watcher_of(ref, dispatcher)
    other.stop()
    assert reasons(log) == ["killed"]
    assert isinstance(log.items[0].ref, pykka.ActorRef)


def test_unwatching_takes_back_a_notice_that_is_in_the_mailbox(dispatcher):
    log = Log()
    dead = Probe.start(dispatcher=dispatcher)
    dead.stop()

    def scenario(actor):
        actor.watch(dead)
        actor.unwatch(dead)

    watcher = Probe.start(log, dispatcher=dispatcher)
    watcher.ask(scenario)
    watcher.ask("barrier")
    assert log.items == ["barrier"]


def test_a_hosts_actor_that_is_gone_can_be_unwatched(dispatcher):
    host = ReportingHostActor.start()
    log = watcher_of(host, dispatcher)
    host.stop()
    assert log.wait() == [Terminated(host, SHUTDOWN)]
    gc.collect()
    stop_watching(host, Probe.start(dispatcher=dispatcher))
    assert len(log.items) == 1


def test_a_hosts_actor_that_fails_without_an_exception_was_killed(dispatcher):
    class Odd(ReportingHostActor):
        def on_receive(self, message):
            self._handle_failure(None, None, None)

    host = Odd.start()
    log = watcher_of(host, dispatcher)
    host.tell("x")
    assert reasons(log) == ["killed"]
