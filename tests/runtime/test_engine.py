"""An engine's one run: started, ended by whom and how, ended by force, ended twice."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.support.actors import Log, crash, hold
from tests.support.fakes import Recorder, make_config
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.callbacks import RelayThreads
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import (
    BlockingCallError,
    ChildSpec,
    DispatchedActor,
    Dispatcher,
    WhichChildren,
    kill,
)
from tunnelfleet.actors.kernel.loop_io import LOOP_DESCRIPTORS
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.tunnel.context import Services
from tunnelfleet.proto import Mode, TunnelClosed, TunnelError
from tunnelfleet.runtime import engine as engine_module
from tunnelfleet.runtime.engine import NAMED_TUNNELS, Engine, EnginePhase
from tunnelfleet.runtime.metrics import DispatcherMeter, TunnelMeter
from tunnelfleet.runtime.registry import TunnelRegistry
from tunnelfleet.runtime.tunnel import Changes, make_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnelfleet.runtime import Tunnel

NEW, RUNNING = EnginePhase.NEW, EnginePhase.RUNNING
STOPPING, ENDED = EnginePhase.STOPPING, EnginePhase.ENDED


class FakeOutbox:
    """Stands for an Outbox."""

    def __init__(self) -> None:
        self.finished = threading.Event()

    def finish(self, _error: Exception) -> None:
        self.finished.set()


class EngineRig:
    """An engine, its tunnels, and what it told. The tunnels have no actors."""

    def __init__(self) -> None:
        self.kernel = DispatcherMeter()
        self.registry = TunnelRegistry(Services(), TunnelMeter(), Changes())
        self.handed_over = Log()
        self.outboxes: list[FakeOutbox] = []
        self.engine = Engine(
            Services(),
            self.kernel,
            self.registry,
            RelayThreads(),
            dispatchers=2,
            connect_concurrency=1,
        )

    def start(
        self,
        make_children: Callable[[Engine], list[ChildSpec]] = lambda _engine: [],
        *,
        as_child: bool = False,
    ) -> Any:
        hand_over = (lambda: self.handed_over.add(self.engine.phase)) if as_child else None
        return self.engine.start(make_children, hand_over)

    def open(self, name: str) -> Tunnel:
        outbox: Any = FakeOutbox()
        self.outboxes.append(outbox)
        return self.registry.add(
            make_config(Mode.SOURCE, name=name), make_parts(Connector(1)), outbox=outbox
        )

    def call(self, callback: Callable[[Any], object]) -> None:
        """Have a callback called, as with an event."""
        self.engine.threads.queue("a", callback, 1_000).put("an event")

    def stop_elsewhere(self, timeout_seconds: float = WAIT_SECONDS) -> threading.Thread:
        """Stop it on another thread; return when it is stopping."""
        thread = threading.Thread(target=self.engine.stop, args=(timeout_seconds,), daemon=True)
        thread.start()
        eventually(lambda: self.engine.phase in (STOPPING, ENDED))
        return thread

    @property
    def finished(self) -> list[bool]:
        return [outbox.finished.is_set() for outbox in self.outboxes]

    def wait_until_ended(self) -> None:
        eventually(lambda: self.engine.phase is ENDED)


@pytest.fixture
def rig() -> Iterator[EngineRig]:
    rig = EngineRig()
    yield rig
    rig.engine.stop(WAIT_SECONDS)
    rig.engine.threads.close(WAIT_SECONDS)


class Stubborn(DispatchedActor):
    """A child that does not end when it is asked to."""

    def on_stop_requested(self) -> bool:
        return False


def stubborn(_engine: Engine) -> list[ChildSpec]:
    return [ChildSpec(id="stubborn", start=Stubborn.start, shutdown=3_600.0)]


def assert_does_not_run(rig: EngineRig, phase: EnginePhase, advice: str) -> None:
    engine = rig.engine
    assert engine.phase is phase
    assert engine.dispatchers == rig.kernel.dispatchers == []
    looks: list[Callable[[], object]] = [lambda: engine.supervisor, lambda: engine.parts]
    for look in looks:
        with pytest.raises(TunnelClosed, match=advice):
            look()


# -- start


def test_making_one_starts_nothing(rig: EngineRig) -> None:
    before = threading.active_count()
    made = EngineRig()
    assert threading.active_count() == before
    assert_does_not_run(made, NEW, r"call start\(\) first")


def test_children_are_made_when_the_threads_run(rig: EngineRig) -> None:
    seen = Log()

    def make_children(engine: Engine) -> list[ChildSpec]:
        seen.add((engine, [each.is_running for each in engine.dispatchers], engine.parts))
        return [ChildSpec(id="child", start=Recorder.start)]

    root = rig.start(make_children)
    engine = rig.engine
    assert engine.phase is RUNNING
    assert seen.items == [(engine, [True, True], engine.parts)]
    assert [info.id for info in root.ask(WhichChildren())] == ["child"]
    assert engine.supervisor == root
    assert root.dispatcher is engine.dispatchers[0]
    assert [each.name for each in engine.dispatchers] == ["tunnelfleet-0", "tunnelfleet-1"]
    assert engine._connector is not None
    assert engine._connector.threads == 1
    assert rig.kernel.dispatchers == engine.dispatchers


@pytest.mark.parametrize("as_child", [True, False])
def test_the_root_is_in_the_registry_unless_it_is_a_child(rig: EngineRig, as_child: bool) -> None:
    root = rig.start(as_child=as_child)
    assert (root in pykka.ActorRegistry.get_all()) is not as_child


def test_a_second_start_is_an_error_and_changes_nothing(rig: EngineRig) -> None:
    root = rig.start()
    with pytest.raises(TunnelError, match="start it once"):
        rig.start()
    assert rig.engine.supervisor == root
    assert len(rig.kernel.dispatchers) == 2


@pytest.mark.parametrize("was_started", [True, False])
def test_a_start_after_a_stop_is_an_error_that_says_what_to_do(
    rig: EngineRig, was_started: bool
) -> None:
    if was_started:
        rig.start()
    rig.engine.stop(WAIT_SECONDS)
    with pytest.raises(TunnelError, match="runs once: make a new TunnelRuntime"):
        rig.start()
    assert_does_not_run(rig, ENDED, "make a new TunnelRuntime")


def test_a_start_while_it_stops_is_an_error(rig: EngineRig) -> None:
    rig.start()
    with hold(rig.engine.dispatchers[1]):
        stopper = rig.stop_elsewhere()
        with pytest.raises(TunnelError, match="still stopping"):
            rig.start()
    stopper.join(WAIT_SECONDS)
    assert_does_not_run(rig, ENDED, "make a new TunnelRuntime")


def test_without_descriptors_it_does_not_start_by_half_and_may_be_started_later(
    rig: EngineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    made = []

    def only_one(path: str, flags: int) -> int:
        made.append(path)
        if len(made) > LOOP_DESCRIPTORS:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return os.dup(0)

    with monkeypatch.context() as patched:
        patched.setattr("tunnelfleet.actors.kernel.dispatcher.os.open", only_one)
        with pytest.raises(TunnelError, match="Too many open files: raise the limits"):
            rig.start()
    assert_does_not_run(rig, NEW, r"call start\(\) first")
    assert set(threading.enumerate()) <= before
    rig.start()
    assert len(rig.engine.dispatchers) == 2


def test_without_a_root_nothing_is_left_running(rig: EngineRig) -> None:
    before = set(threading.enumerate())

    def fail(_engine: Engine) -> list[ChildSpec]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rig.start(fail)
    assert_does_not_run(rig, NEW, r"call start\(\) first")
    assert set(threading.enumerate()) <= before


# -- end


def test_a_stop_ends_the_actors_then_the_threads_then_the_tunnels(rig: EngineRig) -> None:
    before = set(threading.enumerate())
    root = rig.start()
    rig.open("a")
    dispatchers = rig.engine.dispatchers
    for _ in range(2):
        rig.engine.stop(WAIT_SECONDS)
        assert_does_not_run(rig, ENDED, "make a new TunnelRuntime")
    assert not root.is_alive()
    assert not any(each.is_running for each in dispatchers)
    assert (rig.finished, len(rig.registry)) == ([True], 0)
    assert rig.engine.threads.is_closed
    assert set(threading.enumerate()) <= before
    assert [row.name for row in rig.kernel.rows()] == ["tunnelfleet-0", "tunnelfleet-1"]


@pytest.mark.parametrize(
    ("end", "as_child", "is_final"),
    [
        pytest.param(lambda root: root.stop(block=False), False, True, id="stopped"),
        pytest.param(kill, False, True, id="killed"),
        pytest.param(crash, False, True, id="crashed"),
        pytest.param(lambda root: root.stop(block=False), True, True, id="stopped child"),
        pytest.param(kill, True, False, id="killed child"),
        pytest.param(crash, True, False, id="crashed child"),
    ],
)
def test_the_end_of_the_root_is_that_of_the_tunnels_unless_a_host_starts_another(
    rig: EngineRig, end: Callable[[Any], object], as_child: bool, is_final: bool
) -> None:
    root = rig.start(as_child=as_child)
    tunnel = rig.open("a")
    tunnel.stats.enter(TunnelState.CONNECTED)
    with hold(rig.engine.dispatchers[1]):
        end(root)
        eventually(lambda: rig.engine.phase is STOPPING)
        if is_final:
            assert rig.outboxes[0].finished.wait(WAIT_SECONDS), "answered in the root's last turn"
        assert rig.handed_over.items == [], "only when the threads are over"
    rig.wait_until_ended()
    assert rig.finished == [is_final]
    assert tunnel.stats.state is (TunnelState.STOPPED if is_final else TunnelState.BACKOFF)
    assert len(rig.registry) == (0 if is_final else 1)
    assert rig.engine.threads.is_closed is is_final
    # Whoever takes the tunnels over has them before anybody sees the end.
    assert rig.handed_over.items == ([] if is_final else [STOPPING])
    assert_does_not_run(rig, ENDED, "make a new TunnelRuntime")


def test_once_another_has_the_tunnels_a_stop_leaves_them_alone(rig: EngineRig) -> None:
    rig.start(as_child=True)
    rig.open("a")
    kill(rig.engine.supervisor)
    rig.wait_until_ended()
    rig.engine.stop(WAIT_SECONDS)
    assert (rig.finished, len(rig.registry)) == ([False], 1)
    assert not rig.engine.threads.is_closed


def test_a_stop_ends_the_tunnels_that_a_failure_has_left(rig: EngineRig) -> None:
    rig.start(as_child=True)
    tunnel = rig.open("a")
    kill(rig.engine.supervisor)
    rig.wait_until_ended()
    successor = rig.engine.renewed()
    assert successor.threads is rig.engine.threads
    assert successor.phase is NEW
    successor.stop(WAIT_SECONDS)
    assert (rig.finished, len(rig.registry)) == ([True], 0)
    assert successor.threads.is_closed
    with pytest.raises(TunnelClosed):
        successor.begin_close(tunnel)


def test_a_tunnel_that_a_failure_has_left_can_be_closed(rig: EngineRig) -> None:
    rig.start(as_child=True)
    closing, _other = rig.open("a"), rig.open("b")
    kill(rig.engine.supervisor)
    rig.wait_until_ended()
    assert rig.engine.renewed().begin_close(closing).result(0) == closing.status()
    assert rig.finished == [True, False]
    assert [each.name for each in rig.registry.tunnels()] == ["b"]


def test_a_child_that_fails_while_its_user_stops_it_has_ended_for_good(rig: EngineRig) -> None:
    root = rig.start(stubborn, as_child=True)
    rig.open("a")
    stopper = rig.stop_elsewhere()
    crash(root)
    stopper.join(WAIT_SECONDS)
    assert (rig.finished, len(rig.registry)) == ([True], 0)
    assert rig.handed_over.items == []


def test_a_stop_that_comes_while_a_failed_child_ends_is_final(rig: EngineRig) -> None:
    root = rig.start(as_child=True)
    rig.open("a")
    with hold(rig.engine.dispatchers[1]):
        crash(root)
        eventually(lambda: rig.engine.phase is STOPPING)
        stopper = threading.Thread(target=rig.engine.stop, args=(WAIT_SECONDS,))
        stopper.start()
        eventually(lambda: rig.engine._hand_over is None)
    stopper.join(WAIT_SECONDS)
    assert (rig.finished, len(rig.registry)) == ([True], 0)
    assert rig.handed_over.items == []


def test_a_turn_that_does_not_end_is_left_behind_and_ends_nobody_later(
    rig: EngineRig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "FORCED_END_SECONDS", 0.05)
    root = rig.start()
    blocked, other = rig.engine.dispatchers
    with hold(blocked):
        rig.engine.stop(0.01)
        assert "is left behind" in caplog.text
        assert_does_not_run(rig, ENDED, "make a new TunnelRuntime")
        assert (blocked.is_running, other.is_running) == (True, False)
        rig.open("of the next engine")
    blocked.stop(WAIT_SECONDS)
    # The root has ended only now.
    assert not root.is_alive()
    assert (rig.engine.phase, rig.finished) == (ENDED, [False])


@pytest.mark.parametrize(
    ("stopped", "late", "said"),
    [
        pytest.param(0, 0, "0 of 0 tunnels (none)", id="no tunnel"),
        pytest.param(2, 0, "0 of 2 tunnels (none)", id="none is late"),
        pytest.param(1, 1, "1 of 2 tunnels (late-0)", id="one is late"),
        pytest.param(
            0,
            NAMED_TUNNELS + 1,
            "6 of 6 tunnels (late-0, late-1, late-2, late-3, late-4, ...)",
            id="many are",
        ),
    ],
)
def test_a_stop_that_is_late_ends_by_force_and_names_what_is(
    rig: EngineRig, caplog: pytest.LogCaptureFixture, stopped: int, late: int, said: str
) -> None:
    rig.start(stubborn)
    for number in range(stopped):
        rig.open(f"stopped-{number}").stats.enter(TunnelState.STOPPED)
    for number in range(late):
        rig.open(f"late-{number}")
    with caplog.at_level(logging.WARNING, engine_module.__name__):
        rig.engine.stop(0.25)
    [record] = [each for each in caplog.records if each.name == engine_module.__name__]
    assert "after 0.25 s" in record.getMessage()
    assert said in record.getMessage()
    assert_does_not_run(rig, ENDED, "make a new TunnelRuntime")
    assert len(rig.registry) == 0


# -- who waits for whom


def test_a_second_stop_with_less_time_hurries_the_first(rig: EngineRig) -> None:
    rig.start(stubborn)
    first = rig.stop_elsewhere(3_600.0)
    rig.engine.stop(0.01)
    first.join(WAIT_SECONDS)
    assert not first.is_alive()
    assert rig.engine.phase is ENDED


def test_a_stop_waits_for_an_end_elsewhere_no_longer_than_its_time(
    rig: EngineRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That end goes on; it may be held up by a thread that nobody can interrupt."""
    monkeypatch.setattr(engine_module, "MIN_CALLBACK_SECONDS", 0.05)
    rig.start()
    with hold(rig.engine.dispatchers[1]):
        first = rig.stop_elsewhere()
        rig.engine.stop(0.05)
        assert first.is_alive()
        assert "still under way" in caplog.text
    first.join(WAIT_SECONDS)
    assert rig.engine.phase is ENDED


def test_a_stop_waits_for_the_callback_that_ended_it_before(rig: EngineRig) -> None:
    rig.start()
    may_return, has_stopped = threading.Event(), threading.Event()

    def stop_in_a_callback(_event: object) -> None:
        rig.engine.stop(1.0)
        has_stopped.set()
        assert may_return.wait(WAIT_SECONDS)

    rig.call(stop_in_a_callback)
    assert has_stopped.wait(WAIT_SECONDS)
    assert rig.engine.phase is ENDED
    stopper = threading.Thread(target=rig.engine.stop, args=(WAIT_SECONDS,))
    stopper.start()
    stopper.join(0.05)
    assert stopper.is_alive()
    may_return.set()
    stopper.join(WAIT_SECONDS)
    assert rig.engine.threads.thread_count == 0


def test_a_callback_does_not_wait_for_an_end_that_waits_for_callbacks(rig: EngineRig) -> None:
    rig.start()
    returned = threading.Event()

    def stop_in_a_callback(_event: object) -> None:
        rig.engine.stop(1.0)
        returned.set()

    with hold(rig.engine.dispatchers[1]):
        stopper = rig.stop_elsewhere()
        rig.call(stop_in_a_callback)
        assert returned.wait(WAIT_SECONDS), "it waits for the end that waits for it"
        assert stopper.is_alive()
    stopper.join(WAIT_SECONDS)
    eventually(lambda: rig.engine.threads.thread_count == 0)


def test_an_actor_may_not_wait_for_the_end_and_ends_nothing(rig: EngineRig) -> None:
    root = rig.start()
    rig.open("a")
    refused: Future[BaseException | None] = Future()

    def stop() -> None:
        try:
            rig.engine.stop(1.0)
        except BlockingCallError as error:
            refused.set_result(error)
        else:
            refused.set_result(None)

    with Dispatcher("host") as host:
        host.call_soon(stop)
        assert isinstance(refused.result(WAIT_SECONDS), BlockingCallError)
    assert root.is_alive()
    assert (rig.engine.phase, len(rig.registry)) == (RUNNING, 1)


def test_the_callbacks_of_one_and_the_next_are_counted_together(rig: EngineRig) -> None:
    engine = rig.engine
    for number in range(1, 3):
        engine.start(lambda _engine: [])
        engine.threads.queue("a", lambda _event: None, 1_000).put("an event")
        engine.stop(WAIT_SECONDS)
        assert engine.threads.totals.events == number
        engine = engine.renewed()
        assert not engine.threads.is_closed


LOW_ON_DESCRIPTORS = """
import os, resource
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime import TunnelRuntime

open_now = len(os.listdir("/proc/self/fd"))
_soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
refused = 0
for room in range(60):
    runtime = TunnelRuntime(dispatchers=2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + room, hard))
    try:
        runtime.start()
    except TunnelError:
        refused += 1
        continue
    runtime.stop()
    print("refused", refused)
    break
"""


def test_a_process_that_is_low_on_descriptors_is_told_and_not_aborted() -> None:
    """libuv ends the process if it gets some of a loop's descriptors and not all."""
    done = subprocess.run(
        [sys.executable, "-c", LOW_ON_DESCRIPTORS],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) >= LOOP_DESCRIPTORS
