"""A client's WebSocket: control frames, its ends, and requests that never come."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, cast

import pytest

from tests.support.frames import data_of, masked
from tests.support.service_client import EventLog, TunnelClient, connect_tcp, request
from tests.support.sockets import read_to_end
from tests.support.wire import data, stream_start
from tunnelfleet.proto import MAX_WEBSOCKET_PAYLOAD_BYTES, MessageType, Mode, encode_frame
from tunnelfleet.runtime.service import ServiceEventKind, client
from tunnelfleet.runtime.service.wire import READ_BYTES

if TYPE_CHECKING:
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


class Unthrottled:
    """A tunnel that lets all be read, and takes it."""

    def allowance(self, _client: client.Client, wanted_bytes: int) -> int:
        return wanted_bytes

    def attach(self, _client: client.Client) -> None: ...
    def spend(self, _client: client.Client, _count_bytes: int) -> None: ...
    def relay(self, _sender: client.Client, _arrived: object) -> None: ...
    def detach(self, _client: client.Client, _reason: str) -> None: ...


class Nobody:
    """A reception that is told of the end."""

    def gone(self, _client: client.Client, _reason: str) -> None: ...


FRAME = encode_frame(data(bytes(64_512)))


@pytest.mark.parametrize(
    ("wire", "lacking_bytes"),
    [
        (b"", 0),
        (masked(2, FRAME), 0),
        (masked(2, FRAME)[:8], 0),
        (masked(2, FRAME)[:10_000], len(masked(2, FRAME)) - 10_000),
        (masked(2, FRAME * 2)[: len(FRAME) + 108], len(FRAME) - 100),
        (masked(2, FRAME[:10_000], fin=False), 0),
        (masked(2, FRAME[:10_000], fin=False) + masked(0, FRAME[10_000:20_000])[:508], 9_500),
        (masked(2, encode_frame(data(b"x")) * 4_000)[:10_000], 0),
    ],
    ids=[
        "nothing",
        "whole",
        "a header",
        "a part",
        "of the second",
        "a fragment: the next may hold pings",
        "a fragment's part: behind it there may be pings",
        "small ones in a large frame",
    ],
)
def test_what_a_large_message_lacks_is_read_at_once(wire: bytes, lacking_bytes: int) -> None:
    """It is no more work than a small one; what else a turn reads is as little as ever."""
    loop = asyncio.new_event_loop()
    with (
        contextlib.closing(loop),
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        near, _address = server.accept()
        ours = client.Client(near, loop, None, cast("client.Reception", Nobody()), "channel")
        ours.attach(cast("client.Relay", Unthrottled()), Mode.SOURCE, b"")
        ours.received(wire)
        # A small message that has begun lacks a few bytes.
        assert 0 <= ours.allowance() - READ_BYTES - lacking_bytes < 10
        ours.wire.close("the test is over")


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
