from __future__ import annotations

import threading
import time

from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.actors.kernel.counting import DispatcherStats
from tunnelfleet.runtime.metrics import DispatcherMeter
from tunnelfleet.runtime.metrics.meters import LagProbe, merge


def test_a_dispatcher_that_hangs_lags_more_and_more() -> None:
    with Dispatcher("hangs") as dispatcher:
        probe = LagProbe(dispatcher)
        probe.start()
        eventually(lambda: len(probe._lags) > 0, "a beat")
        assert probe.lag_seconds < 0.3
        go_on = threading.Event()
        dispatcher.call_soon(go_on.wait)
        eventually(lambda: probe.lag_seconds > 0.3, "lag")
        go_on.set()
        beats = len(probe._lags)
        eventually(lambda: len(probe._lags) > beats, "a beat")
        assert probe.lag_seconds > 0.3, "it is remembered"


def test_what_a_stopped_dispatcher_counted_is_kept() -> None:
    meter = DispatcherMeter()
    for _ in range(2):
        dispatcher = Dispatcher("one").start()
        meter.attach(dispatcher)
        dispatcher.stats.messages_handled += 5
        assert meter.dispatchers == [dispatcher]
        dispatcher.stop()
        meter.retire()
    (row,) = meter.rows()
    assert row.name == "one"
    assert row.stats.messages_handled >= 10
    assert row.mailbox_messages == 0
    assert meter.dispatchers == []


def test_counts_are_added_and_levels_are_not() -> None:
    old = DispatcherStats(
        turns=3, actors_alive=7, longest_turn_seconds=2.0, restarts={"A": 1, "B": 1}
    )
    new = DispatcherStats(turns=4, actors_alive=1, longest_turn_seconds=1.0, restarts={"A": 2})
    merged = merge(old, new)
    assert merged.turns == 7
    assert merged.actors_alive == 1
    assert merged.longest_turn_seconds == 2.0
    assert merged.restarts == {"A": 3, "B": 1}


def test_waiting_messages_are_counted() -> None:
    with Dispatcher("busy") as dispatcher:
        go_on, begun = threading.Event(), threading.Event()
        dispatcher.call_soon(lambda: (begun.set(), go_on.wait()))
        assert begun.wait(WAIT_SECONDS)
        for _ in range(7):
            dispatcher.call_soon(time.monotonic)
        assert dispatcher.mailbox_messages() == 7
        go_on.set()
        eventually(lambda: dispatcher.mailbox_messages() == 0, "empty")
