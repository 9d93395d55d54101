"""uvloop, or asyncio's own loop without it: both report what is there until it is taken."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import eventually
from tunnelfleet.actors.kernel.loop_io import LOOP_DESCRIPTORS, new_event_loop
from tunnelfleet.actors.net.socket_io import has_hung_up

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]
SECONDS = 20.0


def test_asyncios_own_loop_serves_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.delitem(sys.modules, "tunnelfleet.actors.kernel.uv_loop", raising=False)
    loop = new_event_loop()
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert type(loop).__module__.startswith("asyncio")
    loop.close()


def test_uvloop_is_taken_when_it_is_installed() -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = new_event_loop()
    assert isinstance(loop, uvloop.Loop)
    loop.close()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_it_needs_no_more_descriptors_than_is_looked_for_and_leaves_none() -> None:
    # libuv opens some for all loops of the process, once.
    new_event_loop().close()
    before = descriptors()
    loop = new_event_loop()
    assert descriptors() - before < LOOP_DESCRIPTORS
    loop.close()
    loop.close()
    assert descriptors() == before


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    made = new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
    with contextlib.closing(made):
        yield made


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two sockets that are connected; ours does not block."""
    with contextlib.ExitStack() as stack:
        if request.param == "unix":
            ours, theirs = map(stack.enter_context, socket.socketpair())
        else:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ours = stack.enter_context(socket.create_connection(server.getsockname()))
            theirs = stack.enter_context(server.accept()[0])
        ours.setblocking(False)
        yield ours, theirs


def reset(ours: socket.socket, theirs: socket.socket) -> None:
    """Break the connection, behind what was sent."""
    if theirs.family is socket.AF_UNIX:
        # It breaks by what the other side has not read.
        with contextlib.suppress(BlockingIOError):
            ours.send(b"never read")
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    eventually(lambda: has_hung_up(ours), "the reset is there")


class Reader:
    """Reads a byte each time that it is called, until the end.

    Attributes:
        read: what was read.
        ends: the errors, and an empty read at last.
        calls: how often it was called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop, self._sock = loop, sock
        self.read = b""
        self.ends: list[type[OSError] | None] = []
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        try:
            data = self._sock.recv(1)
        except OSError as error:
            self.ends.append(type(error))
            return
        self.read += data
        if not data:
            self.ends.append(None)
            self._loop.remove_reader(self._sock)
            self._loop.stop()


def run(loop: asyncio.AbstractEventLoop) -> None:
    """Until somebody stops it."""
    late: list[bool] = []

    def give_up() -> None:
        late.append(True)
        loop.stop()

    timer = loop.call_later(SECONDS, give_up)
    loop.run_forever()
    timer.cancel()
    assert not late, "the loop does not report what is there"


WHEN = ["broken before it is watched", "broken while it is watched"]


@pytest.mark.parametrize("when", WHEN)
def test_an_error_is_told_behind_all_bytes_however_few_are_read_at_once(
    loop: asyncio.AbstractEventLoop, pair: Pair, when: str
) -> None:
    ours, theirs = pair
    reader = Reader(loop, ours)
    theirs.sendall(b"0123456789")
    if when == WHEN[0]:
        reset(ours, theirs)
    else:
        loop.call_soon(reset, ours, theirs)
    loop.add_reader(ours, reader)
    run(loop)
    assert reader.read == b"0123456789"
    assert reader.ends == [ConnectionResetError, None]


def test_an_end_is_told_where_a_write_has_met_the_error(
    loop: asyncio.AbstractEventLoop, pair: Pair
) -> None:
    ours, theirs = pair
    reader = Reader(loop, ours)
    theirs.sendall(b"0123456789")

    def write() -> None:
        loop.remove_writer(ours)
        with pytest.raises(ConnectionError):
            ours.send(b"x")

    reset(ours, theirs)
    loop.add_writer(ours, write)
    loop.add_reader(ours, reader)
    run(loop)
    assert reader.read == b"0123456789"
    assert reader.ends[-1] is None


def test_a_writer_alone_is_told(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    ours, theirs = pair
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(65_536))
    met: list[OSError] = []

    def write() -> None:
        if not met:
            # Nothing is done about it: it is called again.
            met.append(OSError())
            return
        try:
            ours.send(b"x")
        except OSError as error:
            met.append(error)
            loop.remove_writer(ours)
            loop.stop()

    loop.add_writer(ours, write)
    loop.call_soon(reset, ours, theirs)
    run(loop)
    assert isinstance(met[1], ConnectionError)


def test_bytes_behind_both_ends_are_read_though_it_breaks_then(
    loop: asyncio.AbstractEventLoop, pair: Pair
) -> None:
    """It has hung up first, which is no error, and breaks with bytes unread."""
    ours, theirs = pair
    reader = Reader(loop, ours)
    theirs.sendall(b"0123456789")
    theirs.shutdown(socket.SHUT_WR)
    ours.send(b"never read")
    ours.shutdown(socket.SHUT_WR)
    eventually(lambda: has_hung_up(ours), "it has hung up")

    def read() -> None:
        reader()
        if len(reader.read) == 5:
            theirs.close()

    loop.add_reader(ours, read)
    run(loop)
    assert reader.read == b"0123456789"
    breaks = theirs.family is socket.AF_UNIX
    assert reader.ends == [*([ConnectionResetError] if breaks else []), None]


def test_who_is_not_watched_is_not_told_of(pair: Pair) -> None:
    """Nor who has merely hung up, more than once."""
    pytest.importorskip("uvloop")
    from tunnelfleet.actors.kernel.uv_loop import UvLoop

    class Counting(UvLoop):
        told = 0

        def _on_errors(self) -> None:
            self.told += 1
            super()._on_errors()

    ours, theirs = pair
    with contextlib.closing(Counting()) as loop:
        reader = Reader(loop, ours)
        loop.add_reader(ours, reader)
        assert loop.remove_reader(ours)
        assert not loop.remove_reader(ours)
        theirs.shutdown(socket.SHUT_WR)
        ours.shutdown(socket.SHUT_WR)
        eventually(lambda: has_hung_up(ours), "it has hung up")
        run_for_a_while(loop)
        assert (loop.told, reader.calls) == (0, 0)
        calls: list[int] = []

        def read(number: int) -> None:
            calls.append(number)
            if len(calls) == 10:
                loop.stop()

        loop.add_reader(ours, read, 1)
        run(loop)
        assert len(calls) >= 10, "the loop by itself goes on telling of it"
        assert 0 < loop.told <= 2
        assert loop.remove_reader(ours)


def run_for_a_while(loop: asyncio.AbstractEventLoop) -> None:
    """As long as it takes to see that nothing happens."""
    loop.call_later(0.05, loop.stop)
    loop.run_forever()


def test_another_socket_with_the_same_number_is_another(
    loop: asyncio.AbstractEventLoop, pair: Pair
) -> None:
    ours, theirs = pair
    loop.add_reader(ours, lambda: None)
    reset(ours, theirs)
    number = ours.fileno()
    loop.remove_reader(ours)
    ours.close()
    with contextlib.ExitStack() as stack:
        ends = [*map(stack.enter_context, socket.socketpair())]
        mine = next(each for each in ends if each.fileno() == number)
        ends.remove(mine)
        reader = Reader(loop, mine)
        loop.add_reader(mine, reader)
        ends[0].sendall(b"new")
        reset(mine, ends[0])
        run(loop)
    assert reader.read == b"new"


def test_a_socket_that_was_closed_without_a_word_disturbs_nobody(
    loop: asyncio.AbstractEventLoop, pair: Pair
) -> None:
    """Another process may hold it, as a forked child does: then it is still there."""
    ours, theirs = pair
    problems: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    reader = Reader(loop, ours)
    loop.add_reader(ours, reader)
    number = ours.fileno()
    with contextlib.closing(ours.dup()) as held:
        ours.close()
        with contextlib.suppress(OSError):
            loop.remove_reader(number)
        reset(held, theirs)
        run_for_a_while(loop)
    assert (problems, reader.calls) == ([], 0)


@pytest.mark.parametrize("way", ["reader", "writer"])
def test_what_is_closed_cannot_be_watched(loop: asyncio.AbstractEventLoop, way: str) -> None:
    sock = socket.socket()
    sock.close()
    with pytest.raises((ValueError, OSError)):
        getattr(loop, f"add_{way}")(sock, lambda: None)
