"""What a gateway tells its service manager: over a real socket, and with a real dispatcher."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.runtime.gateway.process import Heartbeat, ServiceManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(WAIT_SECONDS)
        yield sock


def test_it_says_ready_status_stopping(listener: socket.socket) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": listener.getsockname()})
    assert manager.is_there
    manager.ready()
    manager.status("1 of 2\n tunnels connected")
    manager.status("1 of 2 tunnels connected")
    manager.stopping()
    manager.extend(1.5)
    said = [listener.recv(1_000).decode() for _ in range(4)]
    assert said == [
        "READY=1",
        "STATUS=1 of 2 tunnels connected",
        "STOPPING=1",
        "EXTEND_TIMEOUT_USEC=1500000",
    ]


def test_an_abstract_socket_is_found() -> None:
    name = f"tunnelfleet-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.settimeout(WAIT_SECONDS)
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert sock.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all"])
def test_nobody_there_is_no_trouble(address: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": address})
    manager.ready()
    manager.status("fine")
    assert manager.is_there == (address == "/nowhere/at/all")


def test_a_manager_that_does_not_read_holds_up_nothing(listener: socket.socket) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": listener.getsockname()})
    for number in range(10_000):
        manager.status(f"{number}")
    assert listener.recv(100) == b"STATUS=0"


@pytest.mark.parametrize(
    ("environ", "fed"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "0"}, 0),
        ({"WATCHDOG_USEC": "x"}, 0),
        ({"WATCHDOG_USEC": "9" * 5_000}, 0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 4),
        ({"WATCHDOG_USEC": "3000000"}, 4),
        ({"WATCHDOG_USEC": "30000000"}, 1),
    ],
)
def test_the_watchdog_is_fed_three_times_in_its_time(
    listener: socket.socket, environ: dict[str, str], fed: int
) -> None:
    now = [100.0]
    manager = ServiceManager(
        {"NOTIFY_SOCKET": listener.getsockname(), **environ}, clock=lambda: now[0]
    )
    for _ in range(8):
        # Eight looks in four seconds.
        manager.tick(lambda: True)
        now[0] += 0.5
    manager.status("end")
    said: list[bytes] = []
    while not said or said[-1] != b"STATUS=end":
        said.append(listener.recv(100))
    assert said == [b"WATCHDOG=1"] * fed + [b"STATUS=end"]


def test_a_process_that_does_not_turn_lets_the_watchdog_go_hungry(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    environ = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "3000000"}
    manager = ServiceManager(environ, clock=lambda: now[0])
    for answer in (True, False, False, True):
        manager.tick(lambda answer=answer: answer)  # type: ignore[misc]
        now[0] += 1.0
    manager.status("end")
    assert [listener.recv(100) for _ in range(3)] == [b"WATCHDOG=1", b"WATCHDOG=1", b"STATUS=end"]
    assert caplog.text.count("a dispatcher does not turn") == 1


def test_the_heart_beats_while_every_dispatcher_turns() -> None:
    heartbeat = Heartbeat()
    with contextlib.ExitStack() as stack:
        dispatchers = [Dispatcher(f"d{number}").start() for number in range(2)]
        for dispatcher in dispatchers:
            stack.callback(dispatcher.stop, WAIT_SECONDS)
        assert heartbeat.beat([])
        assert heartbeat.beat(dispatchers)
        eventually(lambda: heartbeat.beat(dispatchers))
        may_go_on = threading.Event()
        stack.callback(may_go_on.set)
        is_blocked = threading.Event()

        def block() -> None:
            is_blocked.set()
            may_go_on.wait(WAIT_SECONDS)

        dispatchers[1].call_soon(block)
        assert is_blocked.wait(WAIT_SECONDS)
        heartbeat.beat(dispatchers)
        eventually(lambda: not heartbeat.beat(dispatchers))
        assert not heartbeat.beat(dispatchers)
        may_go_on.set()
        eventually(lambda: heartbeat.beat(dispatchers))


def test_a_dispatcher_that_has_ended_is_no_beat() -> None:
    heartbeat = Heartbeat()
    dispatcher = Dispatcher("ended").start()
    dispatcher.stop(WAIT_SECONDS)
    assert not heartbeat.beat([dispatcher])
