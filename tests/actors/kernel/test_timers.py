"""Messages after a delay, which die with their actor."""

from __future__ import annotations

import gc
import weakref

import pytest

from tests.support.actors import Log, Probe, settle
from tests.support.waiting import eventually
from tunnelfleet.actors.kernel import Timer


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def ref(dispatcher, log):
    return Probe.start(log, dispatcher=dispatcher)


def test_messages_come_in_the_order_of_their_times(ref, log):
    def schedule(actor):
        for delay_seconds, message in [(0.06, "c"), (0.02, "a"), (0.04, "b"), (-1, "now")]:
            actor.schedule(delay_seconds, message)

    ref.tell(schedule)
    assert log.wait(4) == ["now", "a", "b", "c"]


def test_a_timer_is_active_until_its_message_is_handled(ref, log):
    def schedule(actor):
        actor.timer = actor.schedule(0.001, lambda a: a.log.add(a.timer.active))
        return isinstance(actor.timer, Timer) and actor.timer.active

    assert ref.ask(schedule) is True
    assert log.wait() == [False]


def test_a_cancelled_timer_sends_nothing(ref, log, dispatcher):
    def schedule_and_cancel(actor):
        timer = actor.schedule(0.0, "never")
        timer.cancel()
        timer.cancel()
        return timer.active

    assert ref.ask(schedule_and_cancel) is False
    ref.ask(lambda actor: actor.schedule(0.005, "later") and None)
    assert log.wait() == ["later"]


def test_cancelling_after_the_time_is_up_prevents_the_message_in_the_mailbox(ref, log, dispatcher):
    def scenario(actor):
        timer = actor.schedule(3600, "never")
        dispatcher.timer_fired(actor.actor_ref.cell, timer)
        assert timer.active
        timer.cancel()

    ref.ask(scenario)
    ref.ask("barrier")
    assert log.items == ["barrier"]


def test_timers_die_with_their_actor(ref, log, dispatcher):
    def schedule_and_end(actor):
        # In one turn: on a busy machine the time would else be up before the end.
        actor.exit()
        return [actor.schedule(0.01, "never") for _ in range(5)]

    timers = ref.ask(schedule_and_end)
    eventually(lambda: not ref.is_alive() and not any(timer.active for timer in timers))
    assert not any(timer.active for timer in timers)
    Probe.start(log, dispatcher=dispatcher).ask(lambda a: a.schedule(0.03, "after") and None)
    assert log.wait() == ["after"]
    assert dispatcher.stats.dead_letters == 0


def test_a_timer_made_in_on_stop_dies_too(dispatcher, log):
    class Late(Probe):
        def on_stop(self):
            self.made = self.schedule(0.0, "never")
            self.log.add(self.made)

    Late.start(log, dispatcher=dispatcher).stop()
    [timer] = log.wait()
    eventually(lambda: not timer.active)
    settle(dispatcher)
    assert log.items == [timer]


@pytest.mark.parametrize("delay_seconds", [0.0, 0.001])
@pytest.mark.parametrize("cancelled", [True, False])
def test_a_timer_that_is_over_leaves_no_cycle_to_the_collector(
    ref, log, dispatcher, delay_seconds, cancelled
):
    class Message:
        pass

    def schedule(actor):
        message = Message()
        timer = actor.schedule(delay_seconds, message)
        if cancelled:
            timer.cancel()
        return weakref.ref(message)

    log.add = lambda _message: None
    gc.disable()
    try:
        message = ref.ask(schedule)
        eventually(lambda: message() is None)
    finally:
        gc.enable()
