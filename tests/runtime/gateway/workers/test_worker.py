"""The program of a worker process, with a gateway that the test plays over the real socket."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import struct
import subprocess
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime.gateway.workers import worker as program
from tunnelfleet.runtime.gateway.workers.messages import (
    EXHAUSTED,
    Do,
    Is,
    MessageDecoder,
    encode_frame,
)
from tunnelfleet.runtime.gateway.workers.worker import CommandReader
from tunnelfleet.runtime.gateway.workers.worker_actor import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BEGIN = {
    "do": Do.BEGIN,
    "rate_per_second": 10.0,
    "concurrency": 2,
    "suspended": "",
    "left_seconds": None,
    "gate_rate": None,
    "log_level": 30,
}
REFUSED = ["NotConnected", ""]
"""What a worker answers that has the socket, and no such tunnel."""


def carry(number: int) -> bytes:
    """Ask to carry the socket that comes along through a tunnel that there is not."""
    fields = {"serial": number, "number": number, "service_id": "SSH", "greeting": ""}
    return encode_frame({"do": Do.CARRY, **fields, "peer": f"client {number}", "user": ""})


class WorkerProgram:
    """A worker process; a context manager, within which it runs."""

    def __init__(self) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(WAIT_SECONDS)
        with theirs:
            self.process = subprocess.Popen(
                [*PROGRAM, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        self.pid = self.process.pid
        self.log: list[str] = []
        self._decoder = MessageDecoder()
        self._told: list[dict[str, Any]] = []

    def __enter__(self) -> WorkerProgram:
        self.sock.sendall(encode_frame(BEGIN))
        self.next(Is.STARTED)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.sock.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(WAIT_SECONDS)
        self.process.kill()
        self.process.wait()

    def next(self, kind: Is) -> dict[str, Any]:
        """The next that it tells of this kind. Lines of its log are kept, the rest is left out."""
        while True:
            while not self._told:
                data = self.sock.recv(65_536)
                assert data, f"it has ended: {self.log}"
                self._told += self._decoder.feed(data)
            message = self._told.pop(0)
            if message["is"] == Is.LOG:
                self.log.append(message["text"])
            if message["is"] == kind:
                return message

    def answers(self, count: int) -> dict[int, list[str]]:
        """The errors in its next answers, by number."""
        found = [self.next(Is.CARRIED) for _ in range(count)]
        return {each["number"]: each["error"] for each in found}

    def lend(self, data: bytes) -> socket.socket:
        """Send this with a socket, and keep nothing of that; return its far end."""
        near, far = socket.socketpair()
        far.settimeout(WAIT_SECONDS)
        with near:
            socket.send_fds(self.sock, [data], [near.fileno()])
        return far

    def descriptors(self) -> set[int]:
        """Those that it has open."""
        return {int(each.name) for each in Path(f"/proc/{self.pid}/fd").iterdir()}

    @contextlib.contextmanager
    def exhausted(self) -> Iterator[None]:
        """It gets no descriptor more, as long as the block lasts."""
        used = self.descriptors()
        first_free = next(each for each in range(10_000) if each not in used)
        _soft, hard = before = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (first_free, hard))
        yield
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, before)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It reads nothing, as long as the block lasts."""
        os.kill(self.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it stands still")
        yield
        os.kill(self.pid, signal.SIGCONT)

    def wait_read(self) -> None:
        """Return when it has read all that was sent."""
        eventually(lambda: unread_bytes(self.sock) == 0, "it has read all")


def unread_bytes(sock: socket.socket) -> int:
    """How much the other end has not read yet; of a Unix socket, in what the kernel spends."""
    found: int = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0]
    return found


@pytest.fixture
def worker() -> Iterator[WorkerProgram]:
    with WorkerProgram() as running:
        yield running


def test_without_a_descriptor_it_refuses_one_socket_and_goes_on(worker: WorkerProgram) -> None:
    before = worker.descriptors()
    with worker.exhausted(), worker.lend(carry(1)) as lost:
        assert worker.answers(1) == {1: [EXHAUSTED, "Too many open files"]}
        # The gateway has its own copy of it; the test has kept none.
        assert lost.recv(1) == b""
    with worker.lend(carry(2)) as far:
        assert worker.answers(1) == {2: REFUSED}
        assert far.recv(1) == b""
    assert any("a client's socket" in each and "limit" in each for each in worker.log)
    assert worker.descriptors() == before


def test_a_socket_that_was_lost_is_not_replaced_by_the_next_client_s(
    worker: WorkerProgram,
) -> None:
    """The first one's message comes in two parts, and the socket with the first of them."""
    with contextlib.ExitStack() as stack:
        with worker.exhausted():
            stack.enter_context(worker.lend(carry(1)[:20]))
            worker.wait_read()
        with worker.stopped():
            worker.sock.sendall(carry(1)[20:])
            stack.enter_context(worker.lend(carry(2)))
        answers = worker.answers(2)
    assert answers == {1: [EXHAUSTED, "Too many open files"], 2: REFUSED}


def test_a_socket_with_what_wants_none_is_closed_and_given_to_nobody(
    worker: WorkerProgram,
) -> None:
    frame = encode_frame({"do": Do.CLOSE, "serial": 1})
    with worker.lend(frame) as stray, worker.lend(carry(2)) as far:
        worker.sock.sendall(carry(3))
        assert worker.answers(2) == {2: REFUSED, 3: [EXHAUSTED, "Too many open files"]}
        assert (stray.recv(1), far.recv(1)) == (b"", b"")


class Lent:
    """A socket to send along, and its far end, which tells when nobody has it any more."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.far.setblocking(False)
        self.inode = os.fstat(self.near.fileno()).st_ino

    @property
    def is_closed(self) -> bool:
        """Whether every copy is closed."""
        try:
            return self.far.recv(1) == b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def lend() -> Iterator[Callable[[], Lent]]:
    with contextlib.ExitStack() as stack:

        def make() -> Lent:
            made = Lent()
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The gateway's end and the worker's."""
    gateway, ours = socket.socketpair()
    ours.settimeout(WAIT_SECONDS)
    with gateway, ours:
        yield gateway, ours


def send(gateway: socket.socket, data: bytes, *lent: Lent) -> None:
    """Send bytes, and these sockets with the first of them, of which no copy is kept."""
    socket.send_fds(gateway, [data], [each.near.fileno() for each in lent])
    for each in lent:
        each.near.close()


def read_all(sock: socket.socket) -> list[tuple[int, int | None]]:
    """The number of each message and the inode of its socket, which is closed."""
    found = []
    for message, descriptor in CommandReader(sock).read():
        inode = None
        if descriptor is not None:
            inode = os.fstat(descriptor).st_ino
            os.close(descriptor)
        found.append((message["number"], inode))
    return found


@pytest.mark.parametrize("read_bytes", [1, 7, 150, 262_144])
def test_each_message_has_its_own_socket_however_it_is_read(
    ends: tuple[socket.socket, socket.socket],
    lend: Callable[[], Lent],
    monkeypatch: pytest.MonkeyPatch,
    read_bytes: int,
) -> None:
    monkeypatch.setattr(program, "READ_BYTES", read_bytes)
    gateway, ours = ends
    expected: list[tuple[int, int | None]] = []
    for number in range(12):
        # One of four is sent in two parts, one of three has no socket.
        cut = 20 if number % 4 == 1 else len(carry(number))
        sockets = [lend()] if number % 3 else []
        expected.append((number, sockets[0].inode if sockets else None))
        send(gateway, carry(number)[:cut], *sockets)
        gateway.sendall(carry(number)[cut:])
    gateway.close()
    assert read_all(ours) == expected


def test_sockets_that_cannot_be_told_apart_are_nobody_s(
    ends: tuple[socket.socket, socket.socket], lend: Callable[[], Lent]
) -> None:
    """Two with one message, at once and one after the other: no gateway does so."""
    gateway, ours = ends
    wrong = [lend() for _ in range(4)]
    good = lend()
    send(gateway, carry(1), *wrong[:2])
    send(gateway, carry(2)[:20], wrong[2])
    send(gateway, carry(2)[20:], wrong[3])
    send(gateway, carry(3), good)
    gateway.close()
    assert read_all(ours) == [(1, None), (2, None), (3, good.inode)]
    assert [each.is_closed for each in wrong] == [True] * 4


def test_a_socket_whose_message_never_ends_is_closed(
    ends: tuple[socket.socket, socket.socket], lend: Callable[[], Lent]
) -> None:
    gateway, ours = ends
    lent = lend()
    send(gateway, carry(1)[:20], lent)
    gateway.close()
    assert read_all(ours) == []
    assert lent.is_closed


def test_a_gateway_that_dies_with_answers_unread_has_gone(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    gateway, ours = ends
    ours.sendall(b"an answer that nobody reads")
    gateway.sendall(carry(1))
    gateway.close()
    assert read_all(ours) == [(1, None)]
