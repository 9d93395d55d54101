"""Threads for work that blocks: as many as are needed, bounded, and nobody waits for them."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import Log
from tests.support.tracing import check_processor_seconds
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.net import daemon_threads
from tunnelfleet.actors.net.daemon_threads import DaemonExecutor, DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Iterator


class Blocking:
    """A job that goes on until it is told."""

    def __init__(self) -> None:
        self.started = Log()
        self.finish = threading.Event()

    def __call__(self) -> None:
        self.started.add(threading.current_thread())
        assert self.finish.wait(WAIT_SECONDS)


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    made = Blocking()
    yield made
    made.finish.set()


@pytest.fixture
def pool() -> Iterator[DaemonThreads]:
    made = DaemonThreads(3, "test-pool")
    yield made
    made.close(WAIT_SECONDS)


def test_as_many_jobs_run_at_once_as_there_may_be_threads(
    pool: DaemonThreads, blocking: Blocking
) -> None:
    for _ in range(5):
        assert pool.submit(blocking)
    threads = blocking.started.wait(3)
    assert len(set(threads)) == 3
    assert all(thread.daemon for thread in threads)
    blocking.finish.set()
    assert set(blocking.started.wait(5)) == set(threads), "the others follow on the same threads"


def test_a_thread_that_is_idle_takes_the_next_job(pool: DaemonThreads) -> None:
    seen = Log()
    for number in range(10):
        pool.submit(lambda: seen.add(threading.current_thread()))
        seen.wait(number + 1)
        eventually(lambda: pool._idle == 1)
    assert len(set(seen.items)) == 1


def test_a_job_that_raises_is_logged_and_ends_no_thread(
    pool: DaemonThreads, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()

    def fail() -> None:
        raise SystemExit

    with caplog.at_level(logging.ERROR):
        pool.submit(fail)
        pool.submit(done.set)
        assert done.wait(WAIT_SECONDS)
        eventually(lambda: "a job of test-pool failed" in caplog.text)


def test_closing_does_not_wait_longer_than_it_is_told(
    pool: DaemonThreads, blocking: Blocking
) -> None:
    never = Blocking()
    pool.submit(blocking)
    blocking.started.wait(1)
    for _ in range(5):
        pool.submit(never)
    before = time.thread_time()
    pool.close(0.0)
    check_processor_seconds(time.thread_time() - before, 1.0)
    assert blocking.started.items[0].is_alive(), "it was left behind"
    assert not pool.submit(blocking), "and nothing more is taken"
    never.finish.set()


def test_threads_without_work_end(pool: DaemonThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_threads, "IDLE_SECONDS", 0.01)
    seen = Log()
    pool.submit(lambda: seen.add(threading.current_thread()))
    (thread,) = seen.wait(1)
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    pool.submit(lambda: seen.add(threading.current_thread()))
    assert seen.wait(2)[1] is not thread


def test_without_a_thread_a_job_is_refused(
    pool: DaemonThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert not pool.submit(lambda: None)
    monkeypatch.undo()
    done = threading.Event()
    assert pool.submit(done.set)
    assert done.wait(WAIT_SECONDS)


def test_with_one_thread_the_next_job_waits_for_it_if_the_system_gives_no_second(
    pool: DaemonThreads, blocking: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.submit(blocking)
    blocking.started.wait(1)

    def refuse(_self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done = threading.Event()
    assert pool.submit(done.set)
    blocking.finish.set()
    assert done.wait(WAIT_SECONDS)


def test_an_executor_gives_what_a_call_returns_or_raises() -> None:
    executor = DaemonExecutor(1, "test-executor")
    assert executor.submit(int, "7").result(WAIT_SECONDS) == 7
    with pytest.raises(ValueError, match="invalid literal"):
        executor.submit(int, "x").result(WAIT_SECONDS)
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(int, "7")


NEVER_RETURNS = """
import threading, urllib.request
from prometheus_client.registry import Collector
from tunnelfleet.runtime import TunnelRuntime
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.admin.server import make_registry

class Never(Collector):
    def describe(self):
        return []
    def collect(self):
        begun.set()
        threading.Event().wait()
        return []

begun = threading.Event()
with TunnelRuntime() as runtime:
    registry = make_registry(runtime)
    registry.register(Never())
    with AdminServer(runtime, AdminOptions(port=0), registry=registry) as server:
        ask = lambda: urllib.request.urlopen(server.url + "/metrics")
        threading.Thread(target=ask, daemon=True).start()
        begun.wait()
print("ended")
"""


def test_a_collector_that_never_returns_holds_up_no_exit() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NEVER_RETURNS],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS * 2,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "ended" in run.stdout
