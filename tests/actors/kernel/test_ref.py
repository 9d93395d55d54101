"""Sending through a ref, from inside and outside, to the living and the dead."""

from __future__ import annotations

import pykka
import pytest

from tests.support.actors import HostActor, Log, Probe, settle
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.kernel import DispatchedRef, kill


def test_it_is_a_pykka_ref(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    assert isinstance(ref, pykka.ActorRef)
    assert isinstance(ref, DispatchedRef)
    assert ref.dispatcher is dispatcher
    assert ref.ask(lambda actor: actor.actor_ref) is ref
    assert "Probe" in repr(ref)
    assert not hasattr(ref, "__dict__") or not ref.__dict__


def test_tell_to_the_dead_raises_outside_and_is_counted_inside(dispatcher, other):
    dead = Probe.start(dispatcher=dispatcher)
    dead.stop()
    with pytest.raises(pykka.ActorDeadError):
        dead.tell("x")
    assert dispatcher.stats.dead_letters == 0
    Probe.start(dispatcher=dispatcher).ask(lambda _actor: dead.tell("x"))
    Probe.start(dispatcher=other).ask(lambda _actor: dead.tell("x"))
    assert dispatcher.stats.dead_letters == 1
    assert other.stats.dead_letters == 1


def test_ask_and_stop_of_the_dead_answer(dispatcher):
    dead = Probe.start(dispatcher=dispatcher)
    dead.stop()
    assert dead.stop(block=False).get() is False
    with pytest.raises(pykka.ActorDeadError):
        dead.ask("x", block=False).get()
    inside = Probe.start(dispatcher=dispatcher).ask(lambda _a: dead.ask("x", block=False))
    with pytest.raises(pykka.ActorDeadError):
        inside.get()


def test_a_slow_ask_times_out(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    with pytest.raises(pykka.Timeout):
        ref.ask(lambda actor: actor.defer_reply() and None, timeout=0.01)


def test_messages_from_another_dispatcher_arrive_in_order(dispatcher, other):
    log = Log()
    ref = Probe.start(log, dispatcher=dispatcher)
    Probe.start(dispatcher=other).tell(lambda _a: [ref.tell(n) for n in range(1000)] and None)
    assert log.wait(1000) == list(range(1000))


def test_only_dispatched_actors_can_be_killed(dispatcher):
    host = HostActor.start()
    with pytest.raises(TypeError, match="thread"):
        kill(host)
    host.stop()
    ref = Probe.start(dispatcher=dispatcher)
    kill(ref)
    assert ref.actor_stopped.wait(WAIT_SECONDS)
    settle(dispatcher)
