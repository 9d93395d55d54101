"""Frames leave whole, in order and joined; what the kernel does not take is kept."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnelfleet.actors.transport.established import JOIN_WRITE_BYTES, FrameWriter, Outcome

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


class ScriptedSocket:
    """Takes as many bytes at each call as it is told; then what it is told to raise."""

    def __init__(self, *takes: int | Exception) -> None:
        self._takes: Iterator[int | Exception] = iter(takes)
        self.calls: list[int] = []
        self.data = b""

    def send(self, data: memoryview) -> int:
        self.calls.append(len(data))
        take = next(self._takes, len(data))
        if isinstance(take, Exception):
            raise take
        self.data += bytes(data[:take])
        return min(take, len(data))


def write(writer: FrameWriter, sock: ScriptedSocket) -> tuple[int, Outcome]:
    return writer.write(cast("socket.socket", sock))


def test_frames_leave_in_order_and_small_ones_together() -> None:
    writer, sock = FrameWriter(), ScriptedSocket()
    for frame in (b"one", b"two", b"three"):
        writer.add(frame, 1)
    assert write(writer, sock) == (3, Outcome.DONE)
    assert sock.data == b"onetwothree"
    assert len(sock.calls) == 1
    assert writer.is_empty


def test_large_frames_are_not_joined() -> None:
    writer, sock = FrameWriter(), ScriptedSocket()
    large = b"x" * JOIN_WRITE_BYTES
    for frame in (large, large, b"small"):
        writer.add(frame, 1)
    assert write(writer, sock) == (3, Outcome.DONE)
    assert sock.calls == [len(large), len(large), 5]


def test_a_partial_write_goes_on_where_it_stopped() -> None:
    writer = FrameWriter()
    writer.add(b"hello", 1)
    first = ScriptedSocket(2, BlockingIOError())
    assert write(writer, first) == (0, Outcome.BLOCKED)
    assert not writer.is_empty
    writer.add_first(b"ping")
    second = ScriptedSocket()
    assert write(writer, second) == (1, Outcome.DONE)
    assert first.data + second.data == b"helloping"


def test_a_refused_write_is_offered_again_unchanged() -> None:
    writer = FrameWriter()
    writer.add(b"hello", 1)
    refused = ScriptedSocket(ssl.SSLWantWriteError())
    assert write(writer, refused) == (0, Outcome.BLOCKED)
    writer.add(b"more", 1)
    sock = ScriptedSocket()
    assert write(writer, sock) == (2, Outcome.DONE)
    assert sock.calls == [5, 4], "TLS wants the same bytes again"


def test_tls_may_want_input_first() -> None:
    writer = FrameWriter()
    writer.add(b"hello", 1)
    assert write(writer, ScriptedSocket(ssl.SSLWantReadError())) == (0, Outcome.WANTS_INPUT)
    assert not writer.is_empty


def test_a_broken_connection_is_raised() -> None:
    writer = FrameWriter()
    writer.add(b"hello", 1)
    with pytest.raises(ConnectionResetError):
        write(writer, ScriptedSocket(ConnectionResetError()))


def test_only_the_latest_pong_waits() -> None:
    writer, sock = FrameWriter(), ScriptedSocket()
    writer.add_pong(b"<pong 1>")
    writer.add(b"data", 1)
    writer.add_pong(b"<pong 2>")
    assert len(writer) == 2
    write(writer, sock)
    assert sock.data == b"<pong 2>data", "pings without end do not keep the pong back"
    writer.add_pong(b"<pong 3>")
    write(writer, sock)
    assert sock.data.endswith(b"data<pong 3>")


class Counted(list[Any]):
    """A queue that counts how often it is looked through."""

    scans = 0

    def __contains__(self, item: object) -> bool:
        self.scans += 1
        return super().__contains__(item)

    def remove(self, item: object) -> None:
        self.scans += 1
        super().remove(item)

    def __iter__(self) -> Iterator[Any]:
        self.scans += 1
        return super().__iter__()


def test_a_pong_costs_the_same_however_much_waits() -> None:
    writer = FrameWriter()
    queue = writer._frames = Counted()
    for _ in range(2_000):
        writer.add(b"reply", 1)
    for _ in range(1_000):
        writer.add_pong(b"<pong>")
    assert queue.scans == 0
    assert len(writer) == 2_001


@given(st.lists(st.binary(max_size=40), max_size=30), st.data())
@settings(deadline=None, derandomize=True)
def test_nothing_is_lost_whatever_the_kernel_takes(
    frames: list[bytes], data: st.DataObject
) -> None:
    writer = FrameWriter()
    for frame in frames:
        writer.add(frame, 1)
    takes: Any = st.lists(st.integers(1, 50) | st.just(BlockingIOError()), max_size=20)
    received, messages = b"", 0
    for _ in range(200):
        sock = ScriptedSocket(*data.draw(takes))
        written, outcome = write(writer, sock)
        received += sock.data
        messages += written
        if outcome is Outcome.DONE:
            break
    else:
        written, _ = write(writer, ScriptedSocket())
    assert messages == len(frames)
    assert received == b"".join(frames)
