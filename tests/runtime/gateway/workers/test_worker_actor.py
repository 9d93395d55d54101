"""The actor of a worker process, with a worker that the test plays over the real socket."""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import subprocess
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import Probe, hold, reasons, settle, watcher_of
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import ask_future
from tunnelfleet.actors.transport.connect_gate import ConnectGate
from tunnelfleet.runtime.gateway.workers import messages, worker_actor
from tunnelfleet.runtime.gateway.workers.messages import Do, encode_frame
from tunnelfleet.runtime.gateway.workers.sums import WorkerTable
from tunnelfleet.runtime.gateway.workers.worker_actor import Launcher, Started, WorkerActor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tunnelfleet.actors.kernel import Dispatcher

SERIAL = 7


class Reluctant(socket.socket):
    """A socket for which the kernel seems to have no memory, or room for descriptors.

    It is the true one but for the errors in `codes`, each of which is raised once, when more than
    the first message is sent.
    """

    codes: list[int]

    def __init__(self, *, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self.codes = []
        self.has_begun = False
        self.has_refused = threading.Event()

    def _fail(self) -> None:
        if self.has_begun and self.codes:
            code = self.codes.pop(0)
            self.has_refused.set()
            raise OSError(code, os.strerror(code))
        self.has_begun = True

    def send(self, data: Any, flags: int = 0, /) -> int:
        self._fail()
        return super().send(data, flags)

    def sendmsg(self, buffers: Iterable[Any], ancdata: Any = (), *more: Any) -> int:
        self._fail()
        return super().sendmsg(buffers, ancdata, *more)


class PlayedLauncher(Launcher):
    """Starts `cat` in the place of a worker; the test has the worker's end of the way to it."""

    def __init__(self) -> None:
        super().__init__(2)
        self.processes: list[subprocess.Popen[bytes]] = []
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.theirs.settimeout(WAIT_SECONDS)
        self.held: Future[Started] | None = None
        """In the place of a process that is there at once."""

    def start_process(self) -> Future[Started]:
        if self.held is not None:
            return self.held
        return self._threads.submit(self.make)

    def make(self) -> Started:
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.processes.append(process)
        self._running.add(process)
        return Started(process, self._ours)

    def refuse_with(self, *codes: int) -> Reluctant:
        """Have the kernel refuse with these errors, one after the other, what is sent."""
        self._ours = made = Reluctant(fileno=self._ours.detach())
        made.setblocking(False)
        made.codes += codes
        return made

    def let_end(self) -> None:
        """What stands for the worker ends by itself."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()

    def end(self) -> None:
        self.let_end()
        self.close()
        self._ours.close()
        self.theirs.close()


@pytest.fixture
def launcher() -> Iterator[PlayedLauncher]:
    made = PlayedLauncher()
    yield made
    made.end()


class Played:
    """A worker that has been started, and what its tunnels and its supervisor are told."""

    def __init__(self, launcher: PlayedLauncher, dispatcher: Dispatcher) -> None:
        self.launcher = launcher
        self.table = WorkerTable(1)
        self.table.gate = ConnectGate()
        (self.entry,) = self.table.workers
        self.tunnel = Probe.start(dispatcher=dispatcher)
        self.told = self.tunnel.ask(lambda actor: actor.log)
        self.entry.tunnels[SERIAL] = self.tunnel
        self.ref = WorkerActor.start(self.table, launcher, self.entry, dispatcher=dispatcher)
        self.end = watcher_of(self.ref, dispatcher)
        self._decoder = messages.MessageDecoder()
        self._heard: list[dict[str, Any]] = []
        self._descriptors: list[int] = []

    def begin(self) -> None:
        """It is told to begin, and says that it has."""
        assert self.hear()["do"] == Do.BEGIN
        self.say({"is": "started"})
        (up,) = self.told.wait()
        assert up == messages.WorkerUp(self.ref)

    def hear(self) -> dict[str, Any]:
        """The next that it is told."""
        while not self._heard:
            data, descriptors, *_ = socket.recv_fds(self.launcher.theirs, 1_000_000, 4)
            self._heard += self._decoder.feed(data)
            self._descriptors += descriptors
        return self._heard.pop(0)

    def hear_socket(self) -> tuple[dict[str, Any], int]:
        """The next that it is told, and the only socket that has come."""
        message = self.hear()
        (descriptor,) = self._descriptors
        self._descriptors.clear()
        return message, descriptor

    def ask_to_carry(self, number: int, sock: socket.socket) -> None:
        """Have it told to carry a socket."""
        self.entry.tell({"do": Do.CARRY, "serial": SERIAL, "number": number}, sock)

    def refusal(self) -> dict[str, Any]:
        """The next answer to its tunnel."""
        told = self.told.wait(2)[-1]
        assert told.kind == messages.Is.CARRIED
        found: dict[str, Any] = told.message
        return found

    def leave_unread(self) -> None:
        """It has been told something that it does not read."""
        self.entry.tell({"do": "unread"})
        assert self.launcher.theirs.recv(1, socket.MSG_PEEK)

    def say(self, message: dict[str, Any]) -> None:
        """Tell the gateway something."""
        self.launcher.theirs.sendall(encode_frame(message))

    def check_lost(self, text: str) -> None:
        """It is ended for this reason; its tunnels know, and no process is left."""
        (reason,) = reasons(self.end)
        assert text in reason
        assert isinstance(self.told.wait_for(_has_lost)[-1], messages.WorkerLost)
        (process,) = self.launcher.processes
        eventually(lambda: process.poll() is not None, "its process has ended")
        assert (self.entry.ref, self.entry.pid) == (None, 0)


def _has_lost(items: list[Any]) -> bool:
    return bool(items) and isinstance(items[-1], messages.WorkerLost)


@pytest.fixture
def played(launcher: PlayedLauncher, dispatcher: Dispatcher) -> Iterator[Played]:
    made = Played(launcher, dispatcher)
    yield made
    made.ref.stop()


@pytest.fixture
def worker(played: Played) -> Played:
    played.begin()
    return played


def frame_of(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "data",
    [
        frame_of(b"no JSON"),
        frame_of(b"{}"),
        frame_of(b'{"is": "dancing"}'),
        frame_of(b'{"is": "report", "tunnels": 1}'),
        b"\xff\xff\xff\xff",
    ],
    ids=["no JSON", "no word", "no such word", "no list", "too long"],
)
def test_one_that_speaks_nonsense_is_killed(worker: Played, data: bytes) -> None:
    worker.launcher.theirs.sendall(data)
    worker.check_lost("it says what nobody understands")


def test_one_that_closes_its_end_has_ended(worker: Played) -> None:
    worker.launcher.theirs.close()
    worker.launcher.let_end()
    worker.check_lost("status 0): its process has ended")


def test_one_that_hangs_is_killed(
    launcher: PlayedLauncher, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_actor, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(worker_actor, "HUNG_SECONDS", 0.1)
    worker = Played(launcher, dispatcher)
    worker.begin()
    worker.check_lost("it gave no sign of life for 0.1 s, and was killed")


def test_one_that_never_begins_is_killed(
    launcher: PlayedLauncher, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_actor, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(worker_actor, "START_SECONDS", 0.1)
    Played(launcher, dispatcher).check_lost("it gave no sign of life for 0.1 s, and was killed")


def test_one_that_does_not_read_is_killed(worker: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_actor, "MAX_WAITING_BYTES", 2_000_000)
    for _ in range(40):
        worker.entry.tell({"do": "open", "config": "x" * 100_000})
    worker.check_lost("it does not read what it is told")


def test_what_waits_for_a_slow_reader_comes_whole_in_order_with_its_sockets(
    worker: Played,
) -> None:
    """More than the kernel takes at once, and a socket in the midst of it."""
    one, other = socket.socketpair()
    with one, other:
        for number in range(20):
            sock = other if number == 10 else None
            worker.entry.tell({"do": "open", "number": number, "config": "x" * 50_000}, sock)
        got, descriptors = bytearray(), list[int]()
        found = list[dict[str, Any]]()
        decoder = messages.MessageDecoder()
        while len(found) < 20:
            data, more, _flags, _address = socket.recv_fds(worker.launcher.theirs, 65_536, 4)
            got += data
            descriptors += more
            found += decoder.feed(data)
        assert [each["number"] for each in found] == list(range(20))
        (descriptor,) = descriptors
        with socket.socket(fileno=descriptor) as theirs:
            theirs.sendall(b"hello")
            assert one.recv(100) == b"hello"


def check_handed_over(worker: Played, far: socket.socket, number: int) -> None:
    """It is told to carry this client's socket next, and gets it."""
    message, descriptor = worker.hear_socket()
    assert message["number"] == number
    with socket.socket(fileno=descriptor) as theirs:
        theirs.sendall(b"hello")
        assert far.recv(100) == b"hello"


def test_when_the_gateway_has_no_descriptor_one_hand_over_fails_and_no_worker(
    worker: Played, pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    near, far = pair
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        worker.ask_to_carry(1, near)
        answer = worker.refusal()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert answer["number"] == 1
    assert answer["error"] == [messages.EXHAUSTED, "Too many open files"]
    assert "handing a socket over to worker 0 failed: Too many open files" in caplog.text
    worker.ask_to_carry(2, near)
    check_handed_over(worker, far, 2)


def test_a_socket_that_was_closed_meanwhile_is_not_handed_over(
    worker: Played, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, _far = pair
    near.close()
    worker.ask_to_carry(1, near)
    assert worker.refusal()["error"] == ["TunnelClosed", "the socket was closed meanwhile"]
    worker.entry.tell({"do": "open"})
    assert worker.hear() == {"do": "open"}


def test_a_socket_that_is_closed_while_it_is_copied_is_not_handed_over(
    worker: Played,
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its number may be another socket's by then, which must not get to this worker's client."""
    near, far = pair
    copy = os.dup

    def closed_before(number: int) -> int:
        monkeypatch.undo()
        # As another thread does that closes it and opens another one.
        other = copy(number)
        near.close()
        return other

    monkeypatch.setattr(os, "dup", closed_before)
    worker.ask_to_carry(1, near)
    assert worker.refusal()["error"] == ["TunnelClosed", "the socket was closed meanwhile"]
    assert far.recv(1) == b"", "nobody has a copy"


@pytest.mark.parametrize("code", [errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM])
def test_a_socket_that_the_kernel_does_not_take_is_refused_and_the_rest_is_sent(
    launcher: PlayedLauncher,
    dispatcher: Dispatcher,
    pair: tuple[socket.socket, socket.socket],
    code: int,
) -> None:
    near, far = pair
    launcher.refuse_with(code)
    worker = Played(launcher, dispatcher)
    worker.begin()
    worker.ask_to_carry(1, near)
    answer = worker.refusal()
    assert (answer["number"], answer["error"]) == (1, [messages.EXHAUSTED, os.strerror(code)])
    worker.entry.tell({"do": "open"})
    assert worker.hear() == {"do": "open"}
    worker.ask_to_carry(2, near)
    check_handed_over(worker, far, 2)
    near.close()
    assert far.recv(1) == b"", "no copy is left of the one that was refused"
    worker.ref.stop()


def test_what_the_kernel_has_no_memory_for_is_sent_again_in_order(
    launcher: PlayedLauncher,
    dispatcher: Dispatcher,
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near, far = pair
    monkeypatch.setattr(worker_actor, "LOOK_SECONDS", 0.01)
    sock = launcher.refuse_with(errno.ENOBUFS, errno.ENOMEM, errno.ENOBUFS)
    worker = Played(launcher, dispatcher)
    worker.begin()
    with hold(dispatcher):
        worker.entry.tell({"do": "open"})
        worker.ask_to_carry(1, near)
    assert sock.has_refused.wait(WAIT_SECONDS)
    assert worker.hear() == {"do": "open"}
    check_handed_over(worker, far, 1)
    assert sock.codes == []
    worker.ref.stop()


def test_what_waits_when_the_actor_ends_is_closed(
    launcher: PlayedLauncher,
    dispatcher: Dispatcher,
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    sock = launcher.refuse_with(*[errno.ENOBUFS] * 1_000)
    worker = Played(launcher, dispatcher)
    worker.begin()
    worker.entry.tell({"do": "open"})
    worker.ask_to_carry(1, near)
    assert sock.has_refused.wait(WAIT_SECONDS)
    settle(dispatcher)
    near.close()
    worker.ref.stop()
    assert far.recv(1) == b"", "nobody has a copy"


@pytest.mark.parametrize("is_told_more", [False, True], ids=["read first", "written first"])
def test_one_that_dies_with_much_to_say_and_commands_unread_has_ended(
    worker: Played,
    dispatcher: Dispatcher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_told_more: bool,
) -> None:
    """The kernel reports an error then, in front of which there is something to read."""
    monkeypatch.setattr(worker_actor, "READ_BYTES", 64)
    worker.leave_unread()
    with hold(dispatcher):
        if is_told_more:
            worker.entry.tell({"do": "open"})
        for number in range(20):
            text = f"word {number}"
            worker.say({"is": "log", "level": logging.ERROR, "name": "tunnelfleet", "text": text})
        worker.launcher.theirs.close()
        worker.launcher.let_end()
    worker.check_lost("status 0): its process has ended")
    assert "word 19" in caplog.text


def test_one_that_dies_while_more_waits_for_it_has_ended(
    worker: Played, dispatcher: Dispatcher, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    for _ in range(40):
        worker.entry.tell({"do": "open", "config": "x" * 50_000})
    worker.ask_to_carry(1, near)
    worker.leave_unread()
    settle(dispatcher)
    near.close()
    with hold(dispatcher):
        worker.say({"is": "log", "level": logging.ERROR, "name": "tunnelfleet", "text": "bye"})
        worker.launcher.theirs.close()
        worker.launcher.let_end()
    worker.check_lost("status 0): its process has ended")
    assert far.recv(1) == b"", "nobody has a copy"


def test_what_it_is_told_before_it_is_there_goes_nowhere(
    launcher: PlayedLauncher, dispatcher: Dispatcher
) -> None:
    """Its tunnels tell it all when it has begun."""
    launcher.held = held = Future()
    worker = Played(launcher, dispatcher)
    one, other = socket.socketpair()
    with one, other:
        worker.ref.tell(messages.ToWorker({"do": "close"}, other))
    worker.ref.ask(messages.ToWorker({"do": "close"}))
    held.set_result(launcher.make())
    worker.begin()
    worker.entry.tell({"do": "open"})
    assert worker.hear() == {"do": "open"}
    worker.ref.stop()


def test_what_it_tells_of_a_tunnel_that_has_gone_is_dropped(worker: Played) -> None:
    told = len(worker.told.items)
    worker.say({"is": "closed", "serial": SERIAL + 1})
    worker.say({"is": "closed", "serial": SERIAL})
    last = worker.told.wait(told + 1)[-1]
    assert (last.kind, last.message["serial"]) == (messages.Is.CLOSED, SERIAL)
    # One whose actor has ended, too.
    worker.tunnel.stop()
    worker.say({"is": "closed", "serial": SERIAL})
    worker.say({"is": "tree", "number": 99, "nodes": []})
    tree = ask_future(worker.ref, messages.AskTree())
    assert worker.hear() == {"do": "tree", "number": 1}
    worker.say({"is": "tree", "number": 1, "nodes": []})
    assert tree.get(timeout=WAIT_SECONDS) == []


def test_its_log_is_ours_and_what_libraries_warn_of(
    worker: Played, caplog: pytest.LogCaptureFixture
) -> None:
    line = {"is": "log", "level": logging.WARNING}
    with caplog.at_level(logging.INFO):
        worker.say({**line, "name": "urllib3", "text": "a warning of a library"})
        worker.say({**line, "name": "urllib3", "text": "GET /", "level": logging.INFO})
        worker.say({**line, "name": "tunnelfleet.x", "text": "of a tunnel", "tunnel": "press-4"})
        worker.say({**line, "name": "tunnelfleet", "text": "of the worker"})
        eventually(lambda: "of the worker" in caplog.text)
    assert "a warning of a library" in caplog.text
    assert "GET /" not in caplog.text
    (record,) = (each for each in caplog.records if each.getMessage() == "of a tunnel")
    assert record.__dict__["tunnel"] == "press-4"


def test_a_sign_of_life_without_life_is_none(worker: Played) -> None:
    before = worker.entry.beat_at
    stats = {"is": "beat", "connects": messages.to_json(ConnectGate().stats)}
    worker.say({**stats, "alive": False})
    worker.say({"is": "closed", "serial": SERIAL})
    worker.told.wait(2)
    assert worker.entry.beat_at == before
    worker.say({**stats, "alive": True})
    eventually(lambda: worker.entry.beat_at > before)


def test_a_process_that_comes_after_the_end_is_not_left_over(
    launcher: PlayedLauncher, dispatcher: Dispatcher
) -> None:
    launcher.held = held = Future()
    worker = Played(launcher, dispatcher)
    worker.ref.stop()
    started = launcher.make()
    held.set_result(started)
    eventually(lambda: started.sock.fileno() == -1, "the way to it is closed")
    process = launcher.processes[0]
    assert process.stdin is not None
    process.stdin.close()
    eventually(lambda: process.returncode == 0, "somebody has waited for it")


def test_one_that_does_not_end_by_itself_is_killed(
    launcher: PlayedLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_actor, "EXIT_SECONDS", 0.01)
    process = launcher.make().process
    waiting = launcher.wait_process(process)
    assert waiting is not None
    assert waiting.result(WAIT_SECONDS) == -9


def test_when_all_has_ended_nobody_waits_and_none_is_left(launcher: PlayedLauncher) -> None:
    launcher.close()
    started = launcher.make()
    assert launcher.wait_process(started.process) is None
    assert started.process.wait(WAIT_SECONDS) == -9


def test_a_program_that_cannot_be_started_leaves_no_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_actor, "PROGRAM", ("/nowhere/at-all",))
    made: list[socket.socket] = []
    pair = socket.socketpair

    def noted() -> tuple[socket.socket, socket.socket]:
        made.extend(pair())
        return made[0], made[1]

    monkeypatch.setattr("tunnelfleet.runtime.gateway.workers.worker_actor.socket.socketpair", noted)
    real = Launcher(1)
    with pytest.raises(FileNotFoundError):
        real.start_process().result(WAIT_SECONDS)
    assert [each.fileno() for each in made] == [-1, -1]
    real.close()
