"""The WebSocket reader and writer, as RFC 6455 and docs/protocol.md section 1 say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.frames import masked
from tunnelfleet.proto import MAX_WEBSOCKET_PAYLOAD_BYTES, RemoteProtocolError
from tunnelfleet.runtime.service.websocket import (
    Opcode,
    WebSocketReader,
    accept_key,
    frame_header,
    websocket_frame,
)

MASK = b"\x01\x20\x7f\xff"


def joined(reader: WebSocketReader, pieces: list[bytes]) -> list[tuple[Opcode, bytes]]:
    """Feed pieces; join what is BINARY and adjacent, as only the byte stream matters."""
    items: list[tuple[Opcode, bytes]] = []
    for piece in pieces:
        for opcode, payload in reader.feed(piece):
            if items and items[-1][0] is opcode is Opcode.BINARY:
                items[-1] = (opcode, items[-1][1] + bytes(payload))
            else:
                items.append((opcode, bytes(payload)))
    return items


@pytest.mark.parametrize("size", [1, 125, 126, 127, 65_535, 65_536, MAX_WEBSOCKET_PAYLOAD_BYTES])
def test_reads_a_frame_of_any_size(size: int) -> None:
    payload = bytes(n % 251 for n in range(size))
    items = joined(WebSocketReader(), [masked(2, payload)])
    assert items == [(Opcode.BINARY, payload)]


@given(
    payloads=st.lists(st.binary(max_size=300), min_size=1, max_size=6),
    splits=st.lists(st.integers(1, 400), max_size=60),
    mask=st.binary(min_size=4, max_size=4),
)
def test_any_split_gives_the_same_bytes(
    payloads: list[bytes], splits: list[int], mask: bytes
) -> None:
    stream = b""
    for index, payload in enumerate(payloads):
        stream += masked(2 if index == 0 else 0, payload, fin=index == len(payloads) - 1, mask=mask)
        stream += masked(Opcode.PING, b"%d" % index, mask=mask)
    pieces = []
    for size in splits:
        pieces.append(stream[:size])
        stream = stream[size:]
    items = joined(WebSocketReader(), [*pieces, stream])
    data = b"".join(payload for opcode, payload in items if opcode is Opcode.BINARY)
    pings = [payload for opcode, payload in items if opcode is Opcode.PING]
    assert data == b"".join(payloads)
    assert pings == [b"%d" % index for index in range(len(payloads))]


@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error_or_nothing(garbage: bytes) -> None:
    reader = WebSocketReader()
    try:
        reader.feed(garbage)
    except RemoteProtocolError:
        return


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (masked(1, b"hello"), "text"),
        (masked(1, b""), "text"),
        (masked(2, bytes(MAX_WEBSOCKET_PAYLOAD_BYTES + 1)), "131077"),
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff" + MASK, "frame of"),
        (b"\x82\x05hello", "unmasked"),
        (b"\xc2\x80" + MASK, "first byte"),
        (masked(3, b""), "first byte"),
        (masked(0, b""), "fragmentation"),
        (masked(2, b"", fin=False) + masked(2, b""), "fragmentation"),
        (masked(9, bytes(126)), "PING"),
        (masked(9, b"", fin=False), "PING"),
        (masked(8, b"\x03", fin=False), "CLOSE"),
    ],
)
def test_protocol_errors(wire: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        WebSocketReader().feed(wire)


def test_control_frames_may_stand_between_fragments() -> None:
    wire = masked(2, b"ab", fin=False) + masked(9, b"p") + masked(10, b"") + masked(0, b"cd")
    assert joined(WebSocketReader(), [wire]) == [
        (Opcode.BINARY, b"ab"),
        (Opcode.PING, b"p"),
        (Opcode.PONG, b""),
        (Opcode.BINARY, b"cd"),
    ]


def test_a_large_frame_is_handed_on_as_it_comes() -> None:
    reader, wire = WebSocketReader(), masked(2, bytes(100_000))
    assert sum(len(item.payload) for item in reader.feed(wire[:50_000])) > 49_000


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
    assert frame_header(Opcode.BINARY, size) == bytes.fromhex(header)


def test_an_empty_close_has_no_status() -> None:
    assert websocket_frame(Opcode.CLOSE, b"") == b"\x88\x00"


def test_accept_key_of_the_rfc() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
