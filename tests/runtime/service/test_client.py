"""A client's WebSocket: control frames, its ends, and requests that never come."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.frames import data_of, masked
from tests.support.service_client import EventLog, TunnelClient, connect_tcp, request
from tests.support.sockets import read_to_end
from tests.support.waiting import WAIT_SECONDS
from tests.support.wire import data, stream_start
from tunnelfleet.actors.transport.codec import FrameReader, Role
from tunnelfleet.proto import (
    MAX_WEBSOCKET_PAYLOAD_BYTES,
    DataBurst,
    MessageReader,
    MessageType,
    Mode,
    encode_frame,
)
from tunnelfleet.runtime.service import ServiceEventKind, client
from tunnelfleet.runtime.service.wire import READ_BYTES, Hold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tunnelfleet.proto import Message
    from tunnelfleet.runtime.service import TunnelService, TunnelTokens

PONG, CLOSE = 10, 8


@pytest.mark.parametrize("payload", [b"", b"1795461027", bytes(125)])
def test_answers_a_ping_with_one_pong_of_the_same_payload(
    source: TunnelClient, payload: bytes
) -> None:
    source.ws.ping(payload)
    frame = source.frame()
    assert (frame.opcode, data_of(frame)) == (PONG, payload)
    source.assert_quiet()


def test_ignores_pongs(source: TunnelClient) -> None:
    source.ws.pong(b"two")
    source.ws.pong(b"of them")
    source.assert_quiet()


def test_a_pong_is_not_held_up_by_a_partial_frame(source: TunnelClient) -> None:
    frame = encode_frame(data(b"x" * 100))
    source.send_fragments([frame[:50]])
    source.assert_quiet()


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8bye"])
def test_answers_a_close_with_an_empty_close_and_ends_tcp(
    source: TunnelClient, destination: TunnelClient, payload: bytes
) -> None:
    source.send(stream_start())
    source.ws.sock.sendall(
        masked(CLOSE, payload)[:2].replace(b"\xff", bytes([0x80 | len(payload)]))
    )
    source.ws.sock.sendall(bytes(4) + payload)
    source.assert_closed_empty()
    assert destination.message() == stream_start()
    assert destination.message().type is MessageType.STREAM_RESET


@pytest.mark.parametrize(
    "wire",
    [
        masked(1, b"text"),
        masked(2, bytes(MAX_WEBSOCKET_PAYLOAD_BYTES + 1)),
        b"\x82\x00",
        masked(0, b"no message to continue"),
        b"\xc2\x80\0\0\0\0",
    ],
    ids=["text", "131,077 bytes", "unmasked", "continuation", "reserved bit"],
)
def test_a_websocket_error_closes_with_an_empty_close(
    source: TunnelClient, destination: TunnelClient, events: EventLog, wire: bytes
) -> None:
    source.ws.sock.sendall(wire)
    source.assert_closed_empty()
    assert events.wait(ServiceEventKind.PROTOCOL_ERROR).tunnel == "press-4"
    destination.assert_quiet()


class TakingTunnel:
    """A tunnel that notes what it takes at a time."""

    def __init__(self) -> None:
        self.takes: list[list[Message | DataBurst]] = []
        self.ends: list[str] = []

    def attach(self, _client: client.Client) -> None: ...
    def drained(self, _client: client.Client) -> None: ...

    def relay(self, _sender: client.Client, arrived: Sequence[client.Arrived]) -> None:
        if arrived:
            self.takes.append([item for item, _frames in arrived])

    def detach(self, _client: client.Client, reason: str) -> None:
        self.ends.append(reason)

    def report_protocol_error(self, _client: client.Client, _reason: str) -> None: ...


class Nobody:
    """A reception that is told of the end."""

    def gone(self, _client: client.Client, _reason: str) -> None: ...


class Taking(NamedTuple):
    """A client on a loop of its own, and the other end of its socket."""

    client: client.Client
    tunnel: TakingTunnel
    near: socket.socket
    far: socket.socket
    loop: asyncio.AbstractEventLoop

    def run_until(self, condition: Callable[[], object]) -> None:
        """Give the loop turns, so many as it takes."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < end
            self.loop.run_until_complete(asyncio.sleep(0.001))


@pytest.fixture
def taking() -> Iterator[Taking]:
    loop, tunnel = asyncio.new_event_loop(), TakingTunnel()
    with (
        contextlib.closing(loop),
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as far,
    ):
        near, _address = server.accept()
        ours = client.Client(near, loop, None, cast("client.Reception", Nobody()), "channel")
        ours.attach(cast("client.Relay", tunnel), Mode.SOURCE, b"")
        loop.run_until_complete(asyncio.sleep(0))
        yield Taking(ours, tunnel, near, far, loop)
        ours.wire.close("the test is over")


FRAME = encode_frame(data(bytes(64_512)))


def test_it_reads_to_the_end_of_a_large_frame(taking: Taking) -> None:
    whole = masked(2, FRAME)
    assert taking.client.allowance() == READ_BYTES
    taking.client.received(whole[:10_000])
    assert taking.client.allowance() == len(whole) - 10_000
    taking.client.received(whole[10_000:])
    assert taking.client.allowance() == len(whole), "the next is as large"
    taking.client.received(masked(2, encode_frame(data(b"x"))))
    assert taking.client.allowance() == READ_BYTES


TINY = masked(2, encode_frame(data(b"x")))
TINY_COUNT = 4 * client.TURN_FRAMES
"""Each is a frame and a message, and read at once they are eight turns."""


@pytest.mark.parametrize(
    ("flood", "count"),
    [
        (TINY * TINY_COUNT, TINY_COUNT),
        (masked(2) * TINY_COUNT + TINY, 1),
        (masked(9) * TINY_COUNT + TINY, 1),
        (masked(2, encode_frame(data(b"x")) * TINY_COUNT), TINY_COUNT),
        (b"".join(masked(2, encode_frame(stream_start(stream=n))) for n in range(1, 2_001)), 2_000),
    ],
    ids=["DATA", "empty frames", "pings", "DATA in one frame", "starts"],
)
def test_one_read_is_taken_in_several_turns(taking: Taking, flood: bytes, count: int) -> None:
    taken = taking.tunnel.takes
    taking.client.received(flood)
    assert sum(map(len, taken)) < count
    taking.far.sendall(TINY)
    taking.run_until(lambda: sum(map(len, taken)) == count + 1)
    assert max(map(len, taken)) <= client.TURN_FRAMES


small = st.binary(max_size=300).map(lambda payload: masked(2, encode_frame(data(payload))))
several = st.integers(2, 9).map(lambda count: masked(2, encode_frame(data(b"y")) * count))
nothing = st.sampled_from([masked(2), masked(9), masked(10), masked(9, b"1795461027")])


@given(
    frames=st.lists(st.one_of(small, several, nothing), max_size=40),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=8),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_is_taken_once_and_in_order_whatever_the_reads(
    taking: Taking, monkeypatch: pytest.MonkeyPatch, frames: list[bytes], sizes: list[int]
) -> None:
    monkeypatch.setattr(client, "TURN_FRAMES", 5)
    stream, ends = b"".join(frames), itertools.accumulate(itertools.cycle(sizes))
    taking.tunnel.takes.clear()
    start = 0
    while start < len(stream):
        end = next(ends)
        taking.client.received(stream[start:end])
        taking.run_until(lambda: Hold.UNTAKEN not in taking.client.wire._holds)
        start = end
    reader, messages = FrameReader(Role.CLIENT), MessageReader(strict=True)
    wanted = [
        item
        for opcode, payload in reader.feed(stream)
        if opcode < CLOSE
        for item, _frames in messages.read(payload)
    ]
    assert payloads_of(itertools.chain(*taking.tunnel.takes)) == payloads_of(wanted)
    assert max(map(len, taking.tunnel.takes), default=0) <= client.TURN_FRAMES


def payloads_of(items: Iterable[Message | DataBurst]) -> list[bytes]:
    """The payload of each DATA; how they were joined on their way says nothing."""
    return [
        each.payload
        for item in items
        for each in (item.messages() if isinstance(item, DataBurst) else [item])
    ]


def test_what_was_read_is_taken_before_the_end_is_heard(taking: Taking) -> None:
    """As when its answers to pings can be written no more: what it said before it left counts."""
    taken, count = taking.tunnel.takes, client.TURN_FRAMES
    taking.near.shutdown(socket.SHUT_WR)
    taking.far.sendall(masked(9) + TINY * count)
    taking.run_until(lambda: taking.tunnel.ends)
    assert len(taken) > 1, "it took several turns"
    assert sum(map(len, taken)) == count
    assert taking.tunnel.ends == ["Broken pipe"]


def test_a_close_among_them_ends_it_and_what_follows_is_nothing(taking: Taking) -> None:
    taken = taking.tunnel.takes
    taking.client.received(TINY * TINY_COUNT + masked(CLOSE) + TINY)
    taking.run_until(lambda: taking.tunnel.ends)
    assert sum(map(len, taken)) == TINY_COUNT
    assert taking.tunnel.ends[0] == "closed by the client"


def test_who_is_replaced_takes_no_more(taking: Taking) -> None:
    taking.client.received(TINY * TINY_COUNT)
    taken = list(taking.tunnel.takes)
    taking.client.wire.abort("replaced by a new connection")
    taking.loop.run_until_complete(asyncio.sleep(0.01))
    assert taking.tunnel.takes == taken
    assert taking.tunnel.ends == ["replaced by a new connection"]


def test_a_frame_of_131076_bytes_is_taken(source: TunnelClient, destination: TunnelClient) -> None:
    frame = encode_frame(data(bytes(64_512)))
    stream = frame * 2
    stream += encode_frame(data(bytes(MAX_WEBSOCKET_PAYLOAD_BYTES - len(stream) - 20)))
    stream += bytes(MAX_WEBSOCKET_PAYLOAD_BYTES - len(stream))[:0]
    source.send_raw(stream)
    for _ in range(3):
        assert destination.message().type is MessageType.DATA


def test_a_request_that_does_not_come_is_not_waited_for_long(
    service: TunnelService, tokens: TunnelTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "HANDSHAKE_SECONDS", 0.1)
    with connect_tcp(service) as sock:
        sock.sendall(request(tokens)[:-4])
        assert read_to_end(sock) == b""


def test_a_request_in_pieces_is_a_request(service: TunnelService, tokens: TunnelTokens) -> None:
    with connect_tcp(service) as sock:
        wire = request(tokens)
        for position in range(0, len(wire), 7):
            sock.sendall(wire[position : position + 7])
        assert sock.recv(12) == b"HTTP/1.1 101"
