"""The wire on a socket pair and a loop: holds, bounds and ends."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.waiting import WAIT_SECONDS, until
from tunnelfleet.actors.kernel.loop_io import new_event_loop
from tunnelfleet.actors.net.socket_io import abort_quietly, has_hung_up, undelivered_bytes
from tunnelfleet.actors.transport.established import RECORDS_JOINED
from tunnelfleet.runtime.service.tls import ensure_certificate, server_context
from tunnelfleet.runtime.service.wire import (
    HIGH_WATER_BYTES,
    LOW_WATER_BYTES,
    READ_BYTES,
    READS_A_TURN,
    Hold,
    Wire,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path


class User:
    """Records what a wire tells."""

    def __init__(self) -> None:
        self.data = b""
        self.ends: list[str] = []
        self.drains = 0
        self.allowed = READ_BYTES
        self.reads: list[int] = []

    def allowance(self) -> int:
        return self.allowed

    def received(self, data: bytes) -> None:
        self.data += data
        self.reads.append(len(data))

    def drained(self) -> None:
        self.drains += 1

    def ended(self, reason: str) -> None:
        self.ends.append(reason)


class WirePair(NamedTuple):
    """The wire's socket, the other side's, and the loop that the wire is to be on."""

    near: socket.socket
    far: socket.socket
    make_loop: Callable[[], asyncio.AbstractEventLoop]

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=self.make_loop) as runner:
            runner.run(asyncio.wait_for(main(), WAIT_SECONDS))


@pytest.fixture(params=[asyncio.new_event_loop, new_event_loop], ids=["asyncio", "installed"])
def pair(request: pytest.FixtureRequest) -> Iterator[WirePair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    far.setblocking(False)
    yield WirePair(near, far, request.param)
    far.close()
    near.close()


def play(pair: WirePair, scenario: Callable[[Wire, User, socket.socket], Awaitable[None]]) -> None:
    async def main() -> None:
        user = User()
        wire = Wire(pair.near, user, asyncio.get_running_loop(), None)
        try:
            await scenario(wire, user, pair.far)
        finally:
            wire.close("the test is over")

    pair.run(main)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_reads_what_comes(pair: WirePair) -> None:
    async def scenario(_wire: Wire, user: User, far: socket.socket) -> None:
        far.send(b"hello")
        await until(lambda: user.data == b"hello")

    play(pair, scenario)


def test_reads_no_more_than_is_allowed(pair: WirePair) -> None:
    async def scenario(_wire: Wire, user: User, far: socket.socket) -> None:
        user.allowed = 10
        far.send(bytes(95))
        await until(lambda: len(user.data) == 95)
        assert user.reads == [10] * 9 + [5]

    play(pair, scenario)


def test_reads_all_that_stands_in_front_of_a_reset(pair: WirePair) -> None:
    """However many turns it takes."""

    async def scenario(_wire: Wire, user: User, far: socket.socket) -> None:
        user.allowed = 10
        far.send(bytes(95))
        abort_quietly(far)
        await until(lambda: bool(user.ends))
        assert user.reads == [10] * 9 + [5]
        assert user.ends == ["Connection reset by peer"]

    play(pair, scenario)


def test_reads_all_records_of_tls_in_front_of_a_reset(pair: WirePair, tmp_path: Path) -> None:
    """A read of TLS gives one record, and the others wait in the kernel."""
    files = ensure_certificate(tmp_path, "127.0.0.1")
    trusting = ssl.create_default_context(cafile=files.ca)
    sent = [b"record %d;" % number for number in range(5 * READS_A_TURN * RECORDS_JOINED)]

    async def main() -> None:
        user, loop = User(), asyncio.get_running_loop()
        wire = Wire(pair.near, user, loop, server_context(files.own()))
        pair.far.setblocking(True)
        pair.far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far = await asyncio.to_thread(trusting.wrap_socket, pair.far, server_hostname="127.0.0.1")
        far.send(b"begin;")
        await until(lambda: user.data == b"begin;")
        wire.hold(Hold.PEER_FULL)
        for record in sent:
            far.send(record)
        await until(lambda: undelivered_bytes(far) == 0)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Without the farewell of TLS, as a process that dies.
        socket.socket.close(far)
        await until(lambda: has_hung_up(wire._socket))
        wire.release(Hold.PEER_FULL)
        await until(lambda: bool(user.ends))
        assert user.data == b"begin;" + b"".join(sent)
        assert user.ends == ["Connection reset by peer"]

    pair.run(main)


def test_reads_only_when_no_hold_is_left(pair: WirePair) -> None:
    async def scenario(wire: Wire, user: User, far: socket.socket) -> None:
        wire.hold(Hold.PEER_FULL)
        wire.hold(Hold.THROTTLED)
        far.send(b"wait")
        await turns()
        wire.release(Hold.PEER_FULL)
        wire.release(Hold.STALLED)
        await turns()
        assert user.data == b""
        wire.release(Hold.THROTTLED)
        await until(lambda: user.data == b"wait")

    play(pair, scenario)


def test_is_full_above_high_water_until_it_drains_to_low_water(pair: WirePair) -> None:
    async def scenario(wire: Wire, user: User, far: socket.socket) -> None:
        chunk = bytes(65_536)
        while not wire.is_full:
            wire.write(chunk)
        assert HIGH_WATER_BYTES < wire.buffered_bytes <= HIGH_WATER_BYTES + len(chunk)
        assert user.drains == 0
        loop = asyncio.get_running_loop()
        while user.drains == 0:
            await loop.sock_recv(far, 65_536)
        assert not wire.is_full
        assert wire.buffered_bytes <= LOW_WATER_BYTES

    play(pair, scenario)


def test_small_writes_keep_their_order_when_joined(pair: WirePair) -> None:
    async def scenario(wire: Wire, _user: User, far: socket.socket) -> None:
        pieces = [bytes([n % 256]) * (n * 7) for n in range(700)]
        for piece in pieces:
            wire.write(piece)
        loop, received, wanted = asyncio.get_running_loop(), b"", b"".join(pieces)
        while len(received) < len(wanted):
            received += await loop.sock_recv(far, 65_536)
        assert received == wanted

    play(pair, scenario)


def test_finish_sends_what_was_written_then_ends(pair: WirePair) -> None:
    async def scenario(wire: Wire, user: User, far: socket.socket) -> None:
        wire.write(bytes(100_000))
        wire.finish(b"last")
        wire.write(b"too late")
        loop, received = asyncio.get_running_loop(), b""
        while chunk := await loop.sock_recv(far, 65_536):
            received += chunk
        assert received == bytes(100_000) + b"last"
        assert user.ends == []
        far.send(b"what was on its way is not an error")
        far.shutdown(socket.SHUT_WR)
        await until(lambda: user.ends == ["closed by the service"])
        assert user.data == b""

    play(pair, scenario)


def test_finish_is_bounded_in_time(pair: WirePair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.service.wire.LINGER_SECONDS", 0.05)

    async def scenario(wire: Wire, user: User, _far: socket.socket) -> None:
        wire.finish(b"and the other side stays")
        ends = user.ends
        await until(lambda: bool(ends))

    play(pair, scenario)


def test_abort_resets(pair: WirePair) -> None:
    async def scenario(wire: Wire, user: User, far: socket.socket) -> None:
        wire.abort("dropped")
        wire.abort("only once")
        assert user.ends == ["dropped"]
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(far, 1)

    play(pair, scenario)


def test_close_ends_without_a_reset(pair: WirePair) -> None:
    async def scenario(wire: Wire, user: User, far: socket.socket) -> None:
        wire.close("over")
        assert await asyncio.get_running_loop().sock_recv(far, 1) == b""
        assert (user.ends, wire.is_open) == (["over"], False)

    play(pair, scenario)


def test_tells_the_other_sides_end_after_its_bytes(pair: WirePair) -> None:
    async def scenario(_wire: Wire, user: User, far: socket.socket) -> None:
        far.send(b"all of it")
        far.shutdown(socket.SHUT_WR)
        ends = user.ends
        await until(lambda: bool(ends))
        assert (user.data, user.ends) == (b"all of it", ["closed by the client"])

    play(pair, scenario)


def test_silence_neither_reads_nor_writes(pair: WirePair) -> None:
    async def scenario(wire: Wire, user: User, far: socket.socket) -> None:
        wire.silence()
        wire.write(b"never")
        far.send(b"unheard")
        await turns()
        assert user.data == b""
        with pytest.raises(BlockingIOError):
            far.recv(1)
        assert wire.is_open

    play(pair, scenario)


def test_a_user_may_end_the_wire_while_it_is_told(pair: WirePair) -> None:
    async def scenario(wire: Wire, user: User, far: socket.socket) -> None:
        user.received = lambda _data: wire.abort("enough")  # type: ignore[assignment, method-assign]
        far.send(b"x")
        await until(lambda: user.ends == ["enough"])

    play(pair, scenario)


def test_an_answer_that_cannot_be_written_does_not_end_it_while_its_user_takes_bytes(
    pair: WirePair,
) -> None:
    """As when a client sends a ping, DATA and its CLOSE, and hears nothing more: all is taken."""

    async def scenario(wire: Wire, user: User, far: socket.socket) -> None:
        def received(data: bytes) -> None:
            wire.write(b"pong")
            user.ends.append("read on")
            user.data += data

        user.received = received  # type: ignore[assignment, method-assign]
        pair.near.shutdown(socket.SHUT_WR)
        far.send(b"all of it")
        await until(lambda: len(user.ends) == 2)
        assert (user.data, user.ends) == (b"all of it", ["read on", "Broken pipe"])

    play(pair, scenario)


def test_bytes_that_cannot_be_written_end_it(pair: WirePair) -> None:
    async def scenario(wire: Wire, user: User, _far: socket.socket) -> None:
        pair.near.shutdown(socket.SHUT_WR)
        wire.write(b"pong")
        assert user.ends == ["Broken pipe"]

    play(pair, scenario)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda wire, _far: wire.close("over"), id="closed"),
        pytest.param(lambda wire, _far: wire.abort("over"), id="aborted"),
        pytest.param(lambda wire, _far: wire.finish(b"last"), id="finished"),
        pytest.param(lambda _wire, far: far.send(b"last"), id="by the other side"),
    ],
)
def test_nothing_of_it_waits_for_the_garbage_collector(
    pair: WirePair, end: Callable[[Wire, socket.socket], object]
) -> None:
    """Its user has it, and TLS may hold 50 KB for it: at a thousand ends that is much."""

    class Holder(User):
        wire: Wire

    async def main() -> None:
        near, far, _make_loop = pair
        user = Holder()
        user.wire = Wire(near.dup(), user, asyncio.get_running_loop(), None)
        end(user.wire, far)
        far.close()
        ends = user.ends
        await until(lambda: bool(ends))
        left = weakref.ref(user)
        del user
        await until(lambda: left() is None)

    gc.collect()
    gc.disable()
    try:
        pair.run(main)
    finally:
        gc.enable()
