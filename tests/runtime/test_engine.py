"""The threads and the root of one life: started, ended, ended by force, ended twice."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.actors.fakes import Recorder
from tests.actors.kernel.helpers import DEADLINE_SECONDS, Log
from tunnelfleet.actors.kernel import ChildSpec, WhichChildren, kill
from tunnelfleet.actors.kernel.dispatcher import LOOP_DESCRIPTORS
from tunnelfleet.actors.tunnel.context import Services
from tunnelfleet.proto import TunnelClosed, TunnelError
from tunnelfleet.runtime import engine as engine_module
from tunnelfleet.runtime.engine import Engine
from tunnelfleet.runtime.metrics import KernelMeter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Rig:
    """An engine and what it told."""

    def __init__(self, **options: Any) -> None:
        self.kernel = KernelMeter()
        self.ended = Log()
        self.engine = Engine(Services(), self.kernel, **options)

    def start(
        self,
        make_children: Callable[[Engine], list[ChildSpec]] = lambda _engine: [],
        *,
        register: bool = False,
    ) -> Any:
        return self.engine.start(make_children, self.ended.add, register=register)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(dispatchers=2, connect_concurrency=1)
    yield rig
    rig.engine.end()


def assert_does_not_run(rig: Rig) -> None:
    engine = rig.engine
    assert not engine.is_running
    assert engine.dispatchers == rig.kernel.dispatchers == []
    looks: list[Callable[[], object]] = [
        engine.require_running,
        lambda: engine.supervisor,
        lambda: engine.connector,
    ]
    for look in looks:
        with pytest.raises(TunnelClosed, match=r"start\(\) first"):
            look()


def test_making_one_starts_nothing_and_it_can_be_ended(rig: Rig) -> None:
    before = threading.active_count()
    Rig()
    assert threading.active_count() == before
    rig.engine.stop(0.0)
    rig.engine.end()
    assert_does_not_run(rig)


def test_children_are_made_when_the_threads_run(rig: Rig) -> None:
    seen = Log()

    def make_children(engine: Engine) -> list[ChildSpec]:
        seen.add((engine, [each.is_running for each in engine.dispatchers], engine.connector))
        return [ChildSpec(id="child", start=Recorder.start)]

    root = rig.start(make_children)
    engine = rig.engine
    assert seen.items == [(engine, [True, True], engine.connector)]
    assert [info.id for info in root.ask(WhichChildren())] == ["child"]
    engine.require_running()
    assert engine.supervisor == root
    assert root.dispatcher is engine.dispatchers[0]
    assert [each.name for each in engine.dispatchers] == ["tunnelfleet-0", "tunnelfleet-1"]
    assert engine.connector.threads == 1
    assert rig.kernel.dispatchers == engine.dispatchers


@pytest.mark.parametrize("register", [True, False])
def test_the_root_is_in_the_registry_if_so_wanted(rig: Rig, register: bool) -> None:
    root = rig.start(register=register)
    assert (root in pykka.ActorRegistry.get_all()) is register


def test_a_stop_ends_the_actors_and_the_end_the_threads(rig: Rig) -> None:
    before = set(threading.enumerate())
    root = rig.start()
    dispatchers = rig.engine.dispatchers
    rig.engine.stop(DEADLINE_SECONDS)
    assert not root.is_alive()
    assert [reason.is_normal for reason in rig.ended.items] == [True]
    assert all(each.is_running for each in dispatchers)
    for _ in range(2):
        rig.engine.end()
        assert_does_not_run(rig)
    assert set(threading.enumerate()) <= before
    assert [row.name for row in rig.kernel.rows()] == ["tunnelfleet-0", "tunnelfleet-1"]


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "by the end"])
def test_the_root_s_end_is_told_whoever_ends_it(rig: Rig, is_killed: bool) -> None:
    root = rig.start()
    if is_killed:
        kill(root)
    else:
        rig.engine.end()
    [reason] = rig.ended.wait()
    assert not reason.is_normal
    assert not root.is_alive()


def test_a_turn_that_does_not_end_is_left_behind_and_the_rest_ends(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "FORCED_END_SECONDS", 0.05)
    gate, entered = threading.Event(), threading.Event()
    rig.start()
    blocked, other = rig.engine.dispatchers

    def block() -> None:
        entered.set()
        gate.wait(DEADLINE_SECONDS)

    blocked.call_soon(block)
    assert entered.wait(DEADLINE_SECONDS)
    with pytest.raises(pykka.Timeout):
        rig.engine.stop(0.01)
    rig.engine.end()
    assert "is left behind" in caplog.text
    assert_does_not_run(rig)
    assert (blocked.is_running, other.is_running) == (True, False)
    gate.set()
    blocked.stop(DEADLINE_SECONDS)


def test_without_descriptors_it_does_not_start_by_half_and_may_be_started_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
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
    assert_does_not_run(rig)
    assert set(threading.enumerate()) <= before
    rig.start()
    assert len(rig.engine.dispatchers) == 2


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
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) >= LOOP_DESCRIPTORS
