"""Worker processes under a gateway in this process: hung, wrong, suspended, and with doors."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.support.fleet import Fleet
from tests.support.rig import connect, echo
from tests.support.waiting import eventually
from tunnelfleet.actors.config import stood_still_seconds
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway.placement import worker_of
from tunnelfleet.runtime.gateway.workers import processes, worker_actor
from tunnelfleet.runtime.gateway.workers import worker_actor as launcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tunnelfleet.runtime.gateway import Gateway
    from tunnelfleet.runtime.gateway.workers import WorkerProcesses

NAMES = ("press-0", "press-2")
"""One in each worker."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "state") as made:
        made.files.settings = replace(made.files.settings, workers=2)
        made.files.tunnels = {name: made.tunnel(name) for name in NAMES}
        yield made


def workers_of(gateway: Gateway) -> WorkerProcesses:
    assert gateway.workers is not None
    return gateway.workers


def wait_connected(fleet: Fleet) -> None:
    for name in NAMES:
        fleet.wait_state(name, "connected")


def test_the_tunnels_are_in_different_workers() -> None:
    assert [worker_of(name, 2) for name in NAMES] == [0, 1]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_each_tunnel_has_a_worker_and_each_worker_its_part(workers: int) -> None:
    names = [f"tunnel-{number}" for number in range(1_000)]
    shares = [sum(worker_of(name, workers) == each for name in names) for each in range(workers)]
    assert sum(shares) == len(names)
    assert min(shares) > len(names) / workers / 2


def test_with_one_more_worker_only_what_that_gets_moves() -> None:
    names = [f"tunnel-{number}" for number in range(1_000)]
    moved = {worker_of(name, 4) for name in names if worker_of(name, 3) != worker_of(name, 4)}
    assert moved == {3}


def test_a_worker_that_hangs_is_told_killed_and_started_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = fleet.start()
    workers = workers_of(gateway)
    wait_connected(fleet)
    assert workers.silent() == []
    monkeypatch.setattr(processes, "SILENT_SECONDS", 2.0)
    pid = workers.workers[0].pid
    other = workers.workers[1].pid
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: workers.silent() == ["worker 0"], "the worker is told to be silent")
    monkeypatch.setattr(worker_actor, "HUNG_SECONDS", 3.0)
    eventually(lambda: workers.workers[0].pid != pid, "it is killed")
    # The other one may be late on a busy machine.
    monkeypatch.undo()
    eventually(lambda: workers.workers[0].pid != 0, "another worker has started")
    wait_connected(fleet)
    eventually(lambda: workers.silent() == [], "all workers give signs of life")
    assert workers.restarts == 1
    assert workers.workers[1].pid == other


def test_when_all_of_a_gateway_stood_still_no_worker_counts_as_hung(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that was frozen: the looks at the workers come late, and so do they."""
    clock = SimpleNamespace(later_seconds=0.0)
    stills: list[float] = []

    def stood_still(due_at: float, now: float) -> float:
        stills.append(stood_still_seconds(due_at, now))
        return stills[-1]

    monkeypatch.setattr(worker_actor, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(worker_actor, "stood_still_seconds", stood_still)
    monkeypatch.setattr(
        worker_actor,
        "time",
        SimpleNamespace(monotonic=lambda: time.monotonic() + clock.later_seconds),
    )
    gateway = fleet.start()
    workers = workers_of(gateway)
    wait_connected(fleet)
    pids = [each.pid for each in workers.workers]
    clock.later_seconds = 1_000.0
    eventually(lambda: sum(each > 900.0 for each in stills) == len(pids), "all have been late")
    seen = len(stills)
    eventually(lambda: len(stills) >= seen + 2 * len(pids), "they have been looked at again")
    assert [each.pid for each in workers.workers] == pids
    assert workers.restarts == 0


def test_a_worker_that_fails_is_started_again(fleet: Fleet) -> None:
    gateway = fleet.start()
    workers = workers_of(gateway)
    wait_connected(fleet)
    worker = workers.workers[1]
    pid = worker.pid
    # What is no command ends it by an exception.
    worker.tell({"do": "nonsense", "serial": 1})
    eventually(lambda: worker.pid not in (pid, 0), "another worker has started")
    wait_connected(fleet)
    row = fleet.row(NAMES[1])
    host, _, port = row.services["SSH"].rpartition(":")
    with connect(TcpAddress(host, int(port))) as sock:
        assert echo(sock, b"hello") == b"hello"


def test_connects_are_suspended_in_all_workers(fleet: Fleet) -> None:
    gateway = fleet.start()
    wait_connected(fleet)
    gateway.runtime.suspend_connects("no lease")
    worker = workers_of(gateway).workers[0]
    pid = worker.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: worker.ref is not None and worker.pid != pid, "another worker has started")
    eventually(lambda: gateway.runtime.connect_stats().waiting == 1, "its tunnel waits")
    assert fleet.row(NAMES[0]).state == "connecting"
    assert gateway.runtime.connect_stats().suspended == "no lease"
    gateway.runtime.resume_connects()
    wait_connected(fleet)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            "import os, sys, time; os.write(int(sys.argv[1]), b'HTTP/1.1 200'); time.sleep(60)",
            "say",
        ),
        ("raise SystemExit(3)", "status 3"),
    ],
    ids=["garbage", "no start"],
)
def test_a_program_that_is_no_worker_harms_nobody(
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    program: str,
    reason: str,
) -> None:
    monkeypatch.setattr(launcher, "PROGRAM", (sys.executable, "-c", program))
    gateway = fleet.start()
    workers = workers_of(gateway)
    eventually(lambda: workers.restarts >= 2, "each is started again")
    eventually(lambda: reason in caplog.text, "the reason")
    assert {fleet.row(name).state for name in NAMES} == {"connecting"}
    monkeypatch.undo()
    wait_connected(fleet)
