"""What a worker tells its gateway; the test has the gateway's end of the socket."""

from __future__ import annotations

import logging
import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.counters import TunnelStats
from tunnelfleet.actors.events import TunnelState, TunnelStateChanged
from tunnelfleet.runtime.gateway.workers import reporter as reporters
from tunnelfleet.runtime.gateway.workers.messages import Is, MessageDecoder
from tunnelfleet.runtime.gateway.workers.reporter import LogForwarder, WorkerReporter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnelfleet.runtime import Tunnel, TunnelRuntime


class Worker:
    """A reporter, and what the gateway gets of it."""

    def __init__(self) -> None:
        ours, self.gateway = socket.socketpair()
        self._ours = ours
        self.reporter = WorkerReporter(ours)
        self._reader = MessageDecoder()
        self._found: list[dict[str, Any]] = []
        self.gateway.settimeout(WAIT_SECONDS)

    def start(self) -> None:
        """Begin to report, of a runtime without dispatchers."""
        runtime = SimpleNamespace(dispatchers=[], connect_stats=lambda: None)
        self.reporter.start(cast("TunnelRuntime", runtime))

    def open(self, serial: int) -> TunnelStats:
        """Have one tunnel more."""
        stats = TunnelStats()
        tunnel = SimpleNamespace(stats=stats)
        self.reporter.serials[f"t{serial}"] = serial
        self.reporter.tunnels[serial] = cast("Tunnel", tunnel)
        return stats

    def next(self, kind: str) -> dict[str, Any]:
        """The next message of a kind; others are passed over."""
        while True:
            while not self._found:
                data = self.gateway.recv(65_536)
                assert data, "the worker says nothing more"
                self._found += self._reader.feed(data)
            message = self._found.pop(0)
            if message["is"] == kind:
                return message

    def close(self) -> None:
        self.reporter.close()
        self._ours.close()
        self.gateway.close()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(reporters, "REPORT_SECONDS", 0.02)
    made = Worker()
    yield made
    made.close()


def test_much_to_report_comes_in_parts(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporters, "TUNNELS_A_REPORT", 2)
    for serial in range(5):
        worker.open(serial)
    worker.start()
    parts = [worker.next(Is.REPORT)["tunnels"] for _ in range(3)]
    assert [[each["serial"] for each in part] for part in parts] == [[0, 1], [2, 3], [4]]


def test_what_has_not_changed_is_not_told_again(worker: Worker) -> None:
    first, _second = worker.open(1), worker.open(2)
    worker.start()
    assert [each["serial"] for each in worker.next(Is.REPORT)["tunnels"]] == [1, 2]
    first.connect_attempts += 1
    assert [each["serial"] for each in worker.next(Is.REPORT)["tunnels"]] == [1]


def test_a_serial_that_is_used_again_is_told_anew(worker: Worker) -> None:
    worker.open(1)
    worker.start()
    worker.next(Is.REPORT)
    del worker.reporter.tunnels[1]
    eventually(lambda: not worker.reporter._reported)
    worker.open(1)
    assert [each["serial"] for each in worker.next(Is.REPORT)["tunnels"]] == [1]


def test_an_event_of_a_tunnel_that_is_not_known_is_left_out(worker: Worker) -> None:
    worker.open(1)
    worker.start()
    for name in ("unknown", "t1"):
        worker.reporter.on_event(TunnelStateChanged(name, TunnelState.CONNECTED))
    message = worker.next(Is.EVENT)
    assert message["serial"] == 1
    assert message["face"]["state"] == "connecting"


def test_whoever_waits_for_room_goes_on_when_all_is_over(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway has gone: its worker's tunnels must not hang on events that nobody takes."""
    monkeypatch.setattr(worker.reporter, "_room", threading.BoundedSemaphore(1))
    worker.open(1)
    event = TunnelStateChanged("t1", TunnelState.CONNECTED)
    worker.reporter.on_event(event)
    waiting = [
        threading.Thread(target=worker.reporter.on_event, args=(event,), daemon=True)
        for _ in range(3)
    ]
    for each in waiting:
        each.start()
    worker.reporter.close()
    for each in waiting:
        each.join(WAIT_SECONDS)
        assert not each.is_alive()


def test_a_gateway_that_has_gone_ends_the_reports(worker: Worker) -> None:
    worker.open(1)
    worker.gateway.close()
    worker.start()
    thread = worker.reporter._thread
    assert thread is not None
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    # Who has it told something is not held up.
    worker.reporter.answer(lambda: {"is": Is.BEAT})


class TestTheLog:
    @pytest.fixture
    def forwarder(self, worker: Worker) -> LogForwarder:
        return LogForwarder(worker.reporter)

    @pytest.fixture
    def logger(self, forwarder: LogForwarder) -> logging.Logger:
        # One of nobody else, to which nothing else listens.
        made = logging.Logger("test-reporter", logging.INFO)  # noqa: LOG001
        made.addHandler(forwarder)
        return made

    def test_a_line_comes_with_its_tunnel(self, worker: Worker, logger: logging.Logger) -> None:
        worker.start()
        logger.info("hello %s", "you", extra={"tunnel": "press-4"})
        message = worker.next(Is.LOG)
        assert (message["text"], message["tunnel"]) == ("hello you", "press-4")
        assert (message["level"], message["name"]) == (logging.INFO, "test-reporter")

    def test_a_failure_comes_with_its_traceback(
        self, worker: Worker, logger: logging.Logger
    ) -> None:
        worker.start()
        try:
            raise ZeroDivisionError("bang")
        except ZeroDivisionError:
            logger.exception("it has failed")
        text = worker.next(Is.LOG)["text"]
        assert text.startswith("it has failed\nTraceback")
        assert text.endswith("ZeroDivisionError: bang")

    def test_lines_without_room_are_left_out(
        self,
        worker: Worker,
        forwarder: LogForwarder,
        logger: logging.Logger,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(forwarder, "_room", threading.BoundedSemaphore(2))
        # Nothing is sent yet.
        for number in range(5):
            logger.info("line %d", number)
        worker.start()
        assert [worker.next(Is.LOG)["text"] for _ in range(2)] == ["line 0", "line 1"]
        # There is room again: it is made before a line is sent.
        logger.info("line 5")
        assert worker.next(Is.LOG)["text"] == "line 5"

    def test_a_wrong_line_harms_nobody_who_logs_it(
        self,
        worker: Worker,
        forwarder: LogForwarder,
        logger: logging.Logger,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(forwarder, "_room", threading.BoundedSemaphore(1))
        worker.start()
        logger.info("%d tunnels", "no")
        assert "Logging error" in capsys.readouterr().err
        logger.info("the next one")
        assert worker.next(Is.LOG)["text"] == "the next one"
