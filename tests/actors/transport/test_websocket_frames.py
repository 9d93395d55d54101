"""WebSocket frames of both roles, in any split; what RFC 6455 and docs/protocol.md forbid fails.

The reference for what is sent is aiohttp's server; for what is read, frames are written here byte
by byte from RFC 6455 section 5.2.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

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
    Role,
    encode,
    encode_close,
    encode_ping,
    encode_pong,
    encode_tunnel_message,
    frame_header,
)
from tunnelfleet.proto import MAX_WEBSOCKET_PAYLOAD_BYTES, RemoteProtocolError, encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KEY = b"\x01\x20\x7f\xff"
KEYS = {Role.CLIENT: KEY, Role.SERVICE: b""}

both_roles = pytest.mark.parametrize("role", list(Role))


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(borders)]


def joined(items: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Payloads of data frames that follow each other, as one: only the byte stream matters."""
    found: list[tuple[int, bytes]] = []
    for opcode, payload in items:
        if opcode < CLOSE and found and found[-1][0] < CLOSE:
            found[-1] = (found[-1][0], found[-1][1] + payload)
        else:
            found.append((opcode, payload))
    return found


def read(role: Role, pieces: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """What a reader of frames of that sender makes of the pieces."""
    reader = FrameReader(role)
    return joined((f.opcode, data_of(f)) for piece in pieces for f in reader.feed(piece))


def singly(wire: bytes) -> list[bytes]:
    return [wire[at : at + 1] for at in range(len(wire))]


whole_frames = st.lists(
    st.tuples(st.sampled_from([BINARY, PING, PONG]), st.binary(max_size=400)).map(
        lambda item: (item[0], item[1][:125]) if item[0] >= CLOSE else item
    ),
    max_size=8,
)
keys = st.binary(min_size=4, max_size=4)


@both_roles
@given(whole_frames, st.lists(st.integers(0, 10_000), max_size=30), keys)
def test_payloads_come_out_whatever_the_split(
    role: Role, frames: list[tuple[int, bytes]], cuts: list[int], key: bytes
) -> None:
    key = key if role is Role.CLIENT else b""
    wire = b"".join(frame(opcode, payload, mask=key) for opcode, payload in frames)
    assert read(role, split(wire, cuts)) == joined(frames)


@both_roles
@given(whole_frames)
@settings(max_examples=20)
def test_payloads_come_out_byte_by_byte(role: Role, frames: list[tuple[int, bytes]]) -> None:
    wire = b"".join(frame(opcode, payload, mask=KEYS[role]) for opcode, payload in frames)
    assert read(role, singly(wire)) == joined(frames)


@both_roles
@given(
    st.lists(st.binary(max_size=50), min_size=2, max_size=6),
    st.lists(st.integers(0, 500), max_size=12),
    st.integers(0, 10),
)
def test_fragments_come_out_in_order_with_control_frames_between(
    role: Role, pieces: list[bytes], cuts: list[int], ping_at: int
) -> None:
    expected = [(BINARY if index == 0 else CONT, piece) for index, piece in enumerate(pieces)]
    wire = [
        frame(opcode, piece, fin=index == len(pieces) - 1, mask=KEYS[role])
        for index, (opcode, piece) in enumerate(expected)
    ]
    position = ping_at % (len(pieces) + 1)
    wire.insert(position, frame(PING, b"now", mask=KEYS[role]))
    expected.insert(position, (PING, b"now"))
    assert read(role, split(b"".join(wire), cuts)) == joined(expected)


@both_roles
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, MAX_WEBSOCKET_PAYLOAD_BYTES])
def test_every_form_of_length_is_read(role: Role, size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    assert read(role, [frame(BINARY, payload, mask=KEYS[role])]) == [(BINARY, payload)]


@pytest.mark.parametrize("form", [16, 64])
def test_a_length_in_a_longer_form_than_needed_is_read(form: int) -> None:
    assert read(Role.SERVICE, [frame(BINARY, b"abc", length_form=form)]) == [(BINARY, b"abc")]


@both_roles
def test_an_empty_close_is_a_frame(role: Role) -> None:
    assert read(role, [frame(CLOSE, mask=KEYS[role])]) == [(CLOSE, b"")]


@both_roles
def test_a_close_with_a_status_is_a_frame(role: Role) -> None:
    status = b"\x03\xe8bye"
    assert read(role, [frame(CLOSE, status, mask=KEYS[role])]) == [(CLOSE, status)]


def test_an_empty_frame_counts_and_a_header_alone_does_not() -> None:
    reader, wire = FrameReader(Role.SERVICE), frame(BINARY, b"abc")
    assert [data_of(item) for item in reader.feed(frame(BINARY) + wire[:2])] == [b""]
    assert [data_of(item) for item in reader.feed(wire[2:])] == [b"abc"]


@both_roles
def test_what_looks_like_a_small_frame_inside_a_larger_one_is_its_payload(role: Role) -> None:
    small = frame(BINARY, b"abc", mask=KEYS[role])
    whole = frame(BINARY, b"x" * 8 + small + b"y", mask=KEYS[role])
    plain = frame(BINARY, b"x" * 8, mask=KEYS[role])
    # Masked, the piece in the middle has the bytes of a frame.
    start = len(plain)
    wire = whole[:start] + small + whole[start + len(small) :]
    found = read(role, [wire[:start], small, wire[start + len(small) :]])
    assert found == read(role, [wire])
    assert len(found[0][1]) == 8 + len(small) + 1


@both_roles
def test_a_small_message_inside_another_is_refused_in_a_piece_of_its_own(role: Role) -> None:
    reader = FrameReader(role)
    list(reader.feed(frame(BINARY, b"a", fin=False, mask=KEYS[role])))
    with pytest.raises(RemoteProtocolError, match="inside another"):
        list(reader.feed(frame(BINARY, b"b", mask=KEYS[role])))


@both_roles
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 124, 125, 126])
def test_small_messages_one_by_one(role: Role, size: int) -> None:
    reader, payload = FrameReader(role), bytes(range(size))
    for number in range(3):
        wire = frame(BINARY, payload, mask=KEYS[role] and bytes([number, 7, 0, 255]))
        assert reader.alone(wire) == (payload if size < 126 else None)
        # What is not taken so has not been taken.
        assert [(item.opcode, data_of(item)) for item in reader.feed(wire)] == [(BINARY, payload)]
        assert list(reader.feed(frame(PING, b"p", mask=KEYS[role])))


@both_roles
def test_nothing_else_is_a_small_message_alone(role: Role) -> None:
    def of(opcode: int, payload: bytes = b"abc", **more: Any) -> bytes:
        return frame(opcode, payload, mask=KEYS[role], **more)

    others = [b"", b"\x82", of(BINARY, b""), of(BINARY)[:-1], of(BINARY) + b"x", of(BINARY) * 2]
    others += [of(each) for each in (CONT, TEXT, CLOSE, PING, PONG)]
    others += [of(BINARY, fin=False), of(BINARY, rsv=4), of(BINARY, length_form=16)]
    # Of the other role: masked where nothing is, or the other way round.
    others.append(frame(BINARY, b"abc", mask=b"" if KEYS[role] else KEY))
    assert [each for each in others if FrameReader(role).alone(each) is not None] == []


@both_roles
@pytest.mark.parametrize("before", ["a header", "a part", "a fragment"])
def test_nothing_is_alone_behind_what_has_begun(role: Role, before: str) -> None:
    whole = frame(BINARY, b"abc", mask=KEYS[role])
    reader = FrameReader(role)
    begun = {
        "a header": whole[:1],
        "a part": whole[:-1],
        "a fragment": frame(BINARY, b"a", fin=False, mask=KEYS[role]),
    }
    list(reader.feed(begun[before]))
    assert reader.alone(whole) is None


def forbidden(key: bytes) -> dict[str, bytes]:
    """What neither side may send, masked as that side does."""

    def of(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
        return frame(opcode, payload, fin=fin, rsv=rsv, mask=key)

    def announced(first: int, form: int, size: int) -> bytes:
        bit = 0x80 if key else 0
        return bytes([first, bit | form]) + size.to_bytes(2 if form == 126 else 8, "big") + key

    return {
        "too long": announced(0x82, 127, MAX_WEBSOCKET_PAYLOAD_BYTES + 1),
        "absurdly long": announced(0x82, 127, 2**63),
        "long continuation": of(BINARY, fin=False)
        + announced(0x80, 127, MAX_WEBSOCKET_PAYLOAD_BYTES + 1),
        "long ping": announced(0x89, 126, 126),
        "long close": announced(0x88, 126, 126),
        "a text message": of(TEXT, b"hello"),
        "an empty text message": of(TEXT),
        "fragmented ping": of(PING, fin=False),
        "fragmented pong": of(PONG, fin=False),
        "fragmented close": of(CLOSE, fin=False),
        "continuation of nothing": of(CONT, b"abc"),
        "continuation after the end": of(BINARY, b"a", fin=False) + of(CONT, b"b") + of(CONT, b"c"),
        "new message inside another": of(BINARY, b"a", fin=False) + of(BINARY, b"b"),
        "text inside a message": of(BINARY, b"a", fin=False) + of(TEXT, b"b"),
        "reserved bit 1 (compression)": of(BINARY, b"abc", rsv=4),
        "reserved bit 3": of(BINARY, b"abc", rsv=1),
        "unknown data opcode": of(0x3, b"abc"),
        "unknown control opcode": of(0xB, b"abc"),
        "close of one byte": of(CLOSE, b"\x03"),
        "close with a forbidden status": of(CLOSE, (1005).to_bytes(2, "big")),
    }


FORBIDDEN = {
    **{f"service: {what}": (Role.SERVICE, wire) for what, wire in forbidden(b"").items()},
    **{f"client: {what}": (Role.CLIENT, wire) for what, wire in forbidden(KEY).items()},
    "service: masked": (Role.SERVICE, frame(BINARY, b"abc", mask=KEY)),
    "service: masked with zeros": (Role.SERVICE, frame(BINARY, b"abc", mask=bytes(4))),
    "service: masked and empty": (Role.SERVICE, frame(BINARY, mask=KEY)),
    "client: not masked": (Role.CLIENT, frame(BINARY, b"abc")),
    "client: not masked and empty": (Role.CLIENT, frame(PING)),
}


@pytest.mark.parametrize(("role", "wire"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_is_forbidden_is_a_protocol_error(role: Role, wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^the {role.value} "):
        read(role, [wire])


@pytest.mark.parametrize(("role", "wire"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_is_forbidden_is_one_byte_by_byte_too(role: Role, wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read(role, singly(wire))


def test_what_came_before_the_error_is_not_lost() -> None:
    reader, seen = FrameReader(Role.SERVICE), []
    pieces = reader.feed(frame(BINARY, b"good") + frame(BINARY, b"abc", mask=KEY))
    with pytest.raises(RemoteProtocolError):
        seen.extend(data_of(item) for item in pieces)
    assert seen == [b"good"]


@both_roles
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_garbage_is_frames_or_a_protocol_error_and_nothing_else(
    role: Role, garbage: bytes, cuts: list[int]
) -> None:
    reader = FrameReader(role)
    try:
        for piece in split(garbage, cuts):
            for opcode, payload in reader.feed(piece):
                assert opcode in ABNF.OPCODES
                assert len(payload) <= len(garbage)
    except RemoteProtocolError:
        pass


@both_roles
def test_an_oversize_frame_is_refused_before_its_payload_is_kept(role: Role) -> None:
    with pytest.raises(RemoteProtocolError, match="131077"):
        read(role, [forbidden(KEYS[role])["too long"]])


@both_roles
def test_a_large_frame_is_handed_on_as_it_comes(role: Role) -> None:
    reader, wire = FrameReader(role), frame(BINARY, bytes(100_000), mask=KEYS[role])
    first = sum(len(item.data) for item in reader.feed(wire[:50_000]))
    rest = sum(len(item.data) for item in reader.feed(wire[50_000:]))
    assert (first > 49_900, first + rest) == (True, 100_000)


@both_roles
def test_reads_end_where_large_frames_do(role: Role) -> None:
    reader = FrameReader(role)
    assert reader.wanted_bytes(65_536) == 65_536, "nothing is known"
    large, small = frame(BINARY, bytes(60_000), mask=KEYS[role]), frame(PING, mask=KEYS[role])
    list(reader.feed(large[:20_000]))
    assert reader.wanted_bytes(65_536) == len(large) - 20_000, "to its end"
    list(reader.feed(large[20_000:-100]))
    assert reader.wanted_bytes(65_536) == 65_536, "its end is near: what follows, too"
    list(reader.feed(large[-100:]))
    assert reader.wanted_bytes(65_536) == len(large), "the next is as large"
    assert reader.wanted_bytes(2 * len(large)) == 2 * len(large), "several fit"
    list(reader.feed(small))
    assert reader.wanted_bytes(65_536) == 65_536, "no more"


def test_what_a_service_sent_is_not_copied() -> None:
    wire = frame(BINARY, b"x" * 1_000)
    (got,) = FrameReader(Role.SERVICE).feed(wire)
    assert got.data.obj is wire


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
    assert as_server_reads(encode(Role.CLIENT, BINARY, payload)) == (BINARY, payload)


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536, MAX_WEBSOCKET_PAYLOAD_BYTES])
def test_data_of_every_form_of_length_arrives(size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    assert as_server_reads(encode(Role.CLIENT, BINARY, payload)) == (BINARY, payload)


def test_aiohttp_s_server_reads_what_is_sent() -> None:
    payloads = [b"", b"x" * 125, b"y" * 126, b"z" * 65_536, bytes(range(256)) * 512]
    wire = (
        b"".join(encode(Role.CLIENT, BINARY, each) for each in payloads)
        + encode_ping()
        + encode_close()
    )
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
    masks = {bytes(encode(Role.CLIENT, BINARY, b"same")[2:6]) for _ in range(8)}
    assert len(masks) > 1, "the mask must be fresh for each frame (RFC 6455 5.3)"


def test_a_ping_is_empty_and_masked() -> None:
    assert as_server_reads(encode_ping()) == (PING, b"")


@given(st.binary(max_size=125))
def test_a_pong_returns_the_payload(payload: bytes) -> None:
    assert as_server_reads(encode_pong(payload)) == (PONG, payload)


def test_a_close_has_no_status() -> None:
    assert as_server_reads(encode_close()) == (CLOSE, b"")


# -- what a service sends


@given(st.sampled_from([BINARY, PING, PONG]), st.binary(max_size=125))
def test_a_client_reads_what_a_service_sends(opcode: int, payload: bytes) -> None:
    wire = bytes(encode(Role.SERVICE, opcode, payload[:3], payload[3:]))
    assert wire == frame(opcode, payload)
    assert read(Role.SERVICE, [wire]) == [(opcode, payload)]


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, "8200"),
        (125, "827d"),
        (126, "827e007e"),
        (65_535, "827effff"),
        (65_536, "827f0000000000010000"),
    ],
)
def test_headers_of_the_service_are_unmasked(size: int, header: str) -> None:
    assert frame_header(BINARY, size, Role.SERVICE) == bytes.fromhex(header)


def test_a_service_s_control_frames() -> None:
    assert encode_close(Role.SERVICE) == b"\x88\x00"
    assert encode_pong(b"now", Role.SERVICE) == b"\x8a\x03now"
    message = to_message("DATA SSH 1/1 hello")
    assert encode_tunnel_message(message, Role.SERVICE) == frame(BINARY, encode_frame(message))
