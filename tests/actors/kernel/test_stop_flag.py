"""`actor_stopped`, as pykka's users know it."""

from __future__ import annotations

from tests.support.actors import Log, Probe
from tests.support.waiting import WAIT_SECONDS


def test_setting_actor_stopped_ends_without_on_stop(dispatcher):
    log = Log()
    ref = Probe.start(log, hooks=True, dispatcher=dispatcher)
    ref.ask("hello")
    ref.actor_stopped.set()
    assert ref.actor_stopped.wait(WAIT_SECONDS)
    assert ref.actor_stopped.is_set()
    assert log.items == [("start", ""), "hello"]
    assert ref.actor_stopped.wait(0)


def test_waiting_for_actor_stopped_can_time_out(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    assert ref.actor_stopped.wait(0.01) is False
