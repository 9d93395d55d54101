"""The future of an ask."""

from __future__ import annotations

import queue
import threading

import pykka
import pytest

from tests.support.actors import HostActor, Log, Probe
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.kernel import DispatchedFuture, ask_future, mailbox
from tunnelfleet.actors.kernel.mailbox import resolve, resolve_exception


def test_a_value_can_be_got_again_and_again():
    future = DispatchedFuture()
    assert not future.is_resolved
    future.set(1)
    assert future.is_resolved
    assert [future.get(), future.get(timeout=0)] == [1, 1]


def test_it_resolves_once():
    future = DispatchedFuture()
    future.set(1)
    with pytest.raises(queue.Full):
        future.set(2)
    with pytest.raises(queue.Full):
        future.set_exception()
    with pytest.raises(queue.Full):
        future.set_get_hook(lambda _timeout: 3)
    resolve(future, 4)
    resolve_exception(future, ValueError())
    assert future.get() == 1


def test_get_waits_and_can_time_out():
    future = DispatchedFuture()
    with pytest.raises(pykka.Timeout):
        future.get(timeout=0.01)
    threading.Timer(0.01, future.set, ["late"]).start()
    assert future.get(timeout=WAIT_SECONDS) == "late"


def test_many_threads_may_wait():
    future, log = DispatchedFuture(), Log()
    threads = [threading.Thread(target=lambda: log.add(future.get())) for _ in range(5)]
    for thread in threads:
        thread.start()
    future.set("all")
    assert log.wait(5) == ["all"] * 5
    for thread in threads:
        thread.join()


def test_exceptions_are_raised_by_get():
    given, current, of_type = DispatchedFuture(), DispatchedFuture(), DispatchedFuture()
    given.set_exception((ValueError, ValueError("given"), None))
    try:
        raise OSError("current")
    except OSError:
        current.set_exception()
    of_type.set_exception((KeyError, None, None))
    with pytest.raises(ValueError, match="given"):
        given.get()
    with pytest.raises(OSError, match="current"):
        current.get()
    with pytest.raises(KeyError):
        of_type.get()


def test_pykkas_combinators_work(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    future = ref.ask([1, 2, 3], block=False)
    assert future.filter(lambda x: x > 1).get(timeout=WAIT_SECONDS) == [2, 3]
    assert future.map(len).get() == 3
    assert future.reduce(lambda x, y: x + y).get() == 6
    assert future.join(ref.ask("x", block=False)).get(timeout=WAIT_SECONDS) == [[1, 2, 3], "x"]
    with pytest.raises(TypeError, match="derived"):
        future.map(len).add_done_callback(print)


def test_callbacks_are_called_once_before_or_after(caplog):
    future, log = DispatchedFuture(), Log()
    future.add_done_callback(lambda f: log.add(("before", f.get())))
    future.add_done_callback(lambda _f: 1 / 0)
    future.add_done_callback(lambda f: log.add(("second", f.get())))
    future.set(1)
    future.add_done_callback(lambda f: log.add(("after", f.get())))
    assert log.items == [("before", 1), ("second", 1), ("after", 1)]
    assert "callback of a future failed" in caplog.text


def test_ask_future_asks_any_actor(dispatcher):
    host, ours = HostActor.start(), Probe.start(dispatcher=dispatcher)
    for ref in (host, ours):
        assert ask_future(ref, "x").get(timeout=WAIT_SECONDS) == "x"
        ref.stop()
        with pytest.raises(pykka.ActorDeadError):
            ask_future(ref, "x").get(timeout=WAIT_SECONDS)


def test_a_value_that_comes_as_the_wait_begins_is_not_waited_for(monkeypatch):
    future = DispatchedFuture()
    # The last moment in which another thread can resolve it before the wait takes the lock.
    monkeypatch.setattr(mailbox, "refuse_to_block", lambda _call: future.set("meanwhile"))
    assert future.get(timeout=0) == "meanwhile"
