"""WebSocket frames in any split; what RFC 6455 and docs/protocol.md section 1 forbid is refused.

The reference for what is sent is aiohttp's server; for what is read, frames are written here byte
by byte from RFC 6455 section 5.2.
"""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from aiohttp import WSMsgType, web
from hypothesis import given, settings
from hypothesis import strategies as st
from websocket import ABNF

from tests.support.frames import data_of, frame
from tests.support.transcripts import to_message
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.transport.codec import (
    FrameReader,
    encode_close,
    encode_data,
    encode_ping,
    encode_pong,
    encode_tunnel_message,
)
from tunnelfleet.proto import MAX_WEBSOCKET_PAYLOAD_BYTES, RemoteProtocolError, encode_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(borders)]


def read(reader: FrameReader, pieces: Sequence[bytes]) -> list[tuple[int, bytes]]:
    return [(f.opcode, data_of(f)) for piece in pieces for f in reader.feed(piece)]


whole_frames = st.lists(
    st.tuples(st.sampled_from([BINARY, TEXT, PING, PONG]), st.binary(max_size=400)).map(
        lambda item: (item[0], item[1][:125]) if item[0] >= CLOSE else item
    ),
    max_size=8,
)


@given(whole_frames, st.lists(st.integers(0, 10_000), max_size=30))
def test_frames_come_out_whole_whatever_the_split(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    wire = b"".join(frame(opcode, payload) for opcode, payload in frames)
    assert read(FrameReader(), split(wire, cuts)) == frames


@given(whole_frames)
@settings(max_examples=20)
def test_frames_come_out_whole_byte_by_byte(frames: list[tuple[int, bytes]]) -> None:
    wire = b"".join(frame(opcode, payload) for opcode, payload in frames)
    assert read(FrameReader(), [bytes([byte]) for byte in wire]) == frames


@given(
    st.lists(st.binary(max_size=50), min_size=2, max_size=6),
    st.lists(st.integers(0, 500), max_size=12),
    st.integers(0, 10),
)
def test_fragments_come_out_in_order_with_control_frames_between(
    pieces: list[bytes], cuts: list[int], ping_at: int
) -> None:
    expected = [(BINARY if index == 0 else CONT, piece) for index, piece in enumerate(pieces)]
    wire = [
        frame(opcode, piece, fin=index == len(pieces) - 1)
        for index, (opcode, piece) in enumerate(expected)
    ]
    position = ping_at % (len(pieces) + 1)
    wire.insert(position, frame(PING, b"now"))
    expected.insert(position, (PING, b"now"))
    assert read(FrameReader(), split(b"".join(wire), cuts)) == expected


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, MAX_WEBSOCKET_PAYLOAD_BYTES])
def test_every_form_of_length_is_read(size: int) -> None:
    assert read(FrameReader(), [frame(BINARY, b"x" * size)]) == [(BINARY, b"x" * size)]


@pytest.mark.parametrize("form", [16, 64])
def test_a_length_in_a_longer_form_than_needed_is_read(form: int) -> None:
    assert read(FrameReader(), [frame(BINARY, b"abc", length_form=form)]) == [(BINARY, b"abc")]


def test_an_empty_close_is_a_frame() -> None:
    assert read(FrameReader(), [frame(CLOSE)]) == [(CLOSE, b"")]


def test_a_close_with_a_status_is_a_frame() -> None:
    assert read(FrameReader(), [frame(CLOSE, b"\x03\xe8bye")]) == [(CLOSE, b"\x03\xe8bye")]


FORBIDDEN = {
    "too long": b"\x82\x7f" + (MAX_WEBSOCKET_PAYLOAD_BYTES + 1).to_bytes(8, "big"),
    "absurdly long": b"\x82\x7f" + (2**63).to_bytes(8, "big"),
    "long continuation": frame(BINARY, fin=False)
    + b"\x80\x7f"
    + (MAX_WEBSOCKET_PAYLOAD_BYTES + 1).to_bytes(8, "big"),
    "long ping": b"\x89\x7e" + (126).to_bytes(2, "big"),
    "long close": b"\x88\x7e" + (126).to_bytes(2, "big"),
    "masked": frame(BINARY, b"abc", mask=b"\x01\x02\x03\x04"),
    "masked with zeros": frame(BINARY, b"abc", mask=bytes(4)),
    "masked and empty": frame(BINARY, mask=b"\x01\x02\x03\x04"),
    "fragmented ping": frame(PING, fin=False),
    "fragmented pong": frame(PONG, fin=False),
    "fragmented close": frame(CLOSE, fin=False),
    "continuation of nothing": frame(CONT, b"abc"),
    "continuation after the end": frame(BINARY, b"a", fin=False)
    + frame(CONT, b"b")
    + frame(CONT, b"c"),
    "new message inside another": frame(BINARY, b"a", fin=False) + frame(BINARY, b"b"),
    "text inside a message": frame(BINARY, b"a", fin=False) + frame(TEXT, b"b"),
    "reserved bit 1 (compression)": frame(BINARY, b"abc", rsv=4),
    "reserved bit 3": frame(BINARY, b"abc", rsv=1),
    "unknown data opcode": frame(0x3, b"abc"),
    "unknown control opcode": frame(0xB, b"abc"),
    "close of one byte": frame(CLOSE, b"\x03"),
    "close with a forbidden status": frame(CLOSE, (1005).to_bytes(2, "big")),
}


@pytest.mark.parametrize("wire", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_is_forbidden_is_a_protocol_error(wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read(FrameReader(), [wire])


@pytest.mark.parametrize("wire", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_is_forbidden_is_one_byte_by_byte_too(wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read(FrameReader(), [bytes([byte]) for byte in wire])


def test_what_came_before_the_error_is_not_lost() -> None:
    reader, seen = FrameReader(), []
    frames = reader.feed(frame(BINARY, b"good") + FORBIDDEN["masked"])
    with pytest.raises(RemoteProtocolError):
        seen.extend(data_of(item) for item in frames)
    assert seen == [b"good"]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_garbage_is_frames_or_a_protocol_error_and_nothing_else(
    garbage: bytes, cuts: list[int]
) -> None:
    reader = FrameReader()
    try:
        for opcode, payload in read(reader, split(garbage, cuts)):
            assert opcode in ABNF.OPCODES
            assert len(payload) <= MAX_WEBSOCKET_PAYLOAD_BYTES
    except RemoteProtocolError:
        pass


def test_an_oversize_frame_is_refused_before_its_payload_is_kept() -> None:
    reader = FrameReader()
    with pytest.raises(RemoteProtocolError, match="131077"):
        read(reader, [FORBIDDEN["too long"]])


def test_a_partial_frame_is_all_that_is_held() -> None:
    reader = FrameReader()
    whole = frame(BINARY, b"x" * 100_000)
    tracemalloc.start()
    try:
        for _ in range(50):
            assert len(read(reader, [whole[:70_000], whole[70_000:]])) == 1
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 300_000


# -- what is sent


def as_server_reads(wire: bytes | bytearray) -> tuple[int, bytes]:
    """The opcode and the payload of one client's frame, by RFC 6455 section 5.2."""
    assert wire[0] & 0xF0 == 0x80, "whole, and no reserved bit"
    assert wire[1] & 0x80, "a client masks"
    short = wire[1] & 0x7F
    size_bytes = {126: 2, 127: 8}.get(short, 0)
    size = int.from_bytes(wire[2 : 2 + size_bytes], "big") if size_bytes else short
    start = 2 + size_bytes + 4
    mask, masked = wire[start - 4 : start], wire[start:]
    assert len(masked) == size
    return wire[0] & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked))


@given(st.binary(max_size=2_000))
def test_data_arrives_as_it_was(payload: bytes) -> None:
    assert as_server_reads(encode_data(payload)) == (BINARY, payload)


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536, MAX_WEBSOCKET_PAYLOAD_BYTES])
def test_data_of_every_form_of_length_arrives(size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    assert as_server_reads(encode_data(payload)) == (BINARY, payload)


def test_aiohttp_s_server_reads_what_is_sent() -> None:
    payloads = [b"", b"x" * 125, b"y" * 126, b"z" * 65_536, bytes(range(256)) * 512]
    wire = b"".join(map(encode_data, payloads)) + encode_ping() + encode_close()
    assert asyncio.run(aiohttp_reads(wire)) == [
        *((WSMsgType.BINARY, payload) for payload in payloads),
        (WSMsgType.PING, b""),
        (WSMsgType.CLOSE, b""),
    ]


async def aiohttp_reads(wire: bytes) -> list[tuple[WSMsgType, bytes]]:
    """Send `wire` to a WebSocket server of aiohttp; return what it got."""
    seen: list[tuple[WSMsgType, bytes]] = []
    done = asyncio.Event()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse(autoping=False, autoclose=False, compress=False)
        await response.prepare(request)
        while not seen or seen[-1][0] is not WSMsgType.CLOSE:
            message = await response.receive()
            is_data = message.type in (WSMsgType.BINARY, WSMsgType.PING)
            seen.append((message.type, bytes(message.data) if is_data else b""))
        done.set()
        return response

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        _host, port = runner.addresses[0]
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        writer.write(wire)
        await asyncio.wait_for(done.wait(), WAIT_SECONDS)
        writer.close()
        await writer.wait_closed()
    finally:
        await runner.cleanup()
    return seen


@pytest.mark.parametrize(
    "text", ["DATA SSH 1/1 hello", "DATA* - 7", "DATA SSH 1/1 <60000>", "STREAM_START* SSH 1/1"]
)
def test_a_tunnel_message_arrives_in_one_frame(text: str) -> None:
    message = to_message(text)
    wire = encode_tunnel_message(message)
    assert as_server_reads(wire) == (BINARY, encode_frame(message))


def test_two_frames_are_masked_differently() -> None:
    masks = {bytes(encode_data(b"same")[2:6]) for _ in range(8)}
    assert len(masks) > 1, "the mask must be fresh for each frame (RFC 6455 5.3)"


def test_a_ping_is_empty_and_masked() -> None:
    assert as_server_reads(encode_ping()) == (PING, b"")


@given(st.binary(max_size=125))
def test_a_pong_returns_the_payload(payload: bytes) -> None:
    assert as_server_reads(encode_pong(payload)) == (PONG, payload)


def test_a_close_has_no_status() -> None:
    assert as_server_reads(encode_close()) == (CLOSE, b"")


def test_a_trickle_is_joined_as_it_comes() -> None:
    """A frame that comes byte by byte costs its size, not a piece of memory for each byte."""
    reader = FrameReader()
    whole = frame(BINARY, bytes(range(250)) * 100)
    tracemalloc.start()
    try:
        for byte in whole[:-1]:
            assert list(reader.feed(bytes([byte]))) == []
        held, _ = tracemalloc.get_traced_memory()
        (got,) = reader.feed(whole[-1:])
    finally:
        tracemalloc.stop()
    assert held < 2 * len(whole)
    assert data_of(got) == bytes(range(250)) * 100


def test_a_frame_that_came_whole_is_not_copied() -> None:
    wire = frame(BINARY, b"x" * 1_000)
    (got,) = FrameReader().feed(wire)
    assert got.data.obj is wire
