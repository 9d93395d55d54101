"""A client's WebSocket: control frames, its ends, and requests that never come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.frames import data_of, masked
from tests.support.service_client import EventLog, TunnelClient, connect_tcp, request
from tests.support.sockets import read_to_end
from tests.support.wire import data, stream_start
from tunnelfleet.proto import MAX_WEBSOCKET_PAYLOAD_BYTES, MessageType, encode_frame
from tunnelfleet.runtime.service import ServiceEventKind, client

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
