"""Frames survive any split of their bytes, and garbage (docs/protocol.md section 2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proto.test_message import UNKNOWN_FIELD, any_announcement, any_message
from tests.support.wire import T, connection_start, data, service_ids, stream_start, tunnel_frame
from tunnelfleet.proto import (
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_WEBSOCKET_PAYLOAD_BYTES,
    FrameDecoder,
    FrameSplitter,
    LocalProtocolError,
    Message,
    PayloadTooLarge,
    RemoteProtocolError,
    encode_frame,
    encode_message,
    frame_around,
)

MESSAGES = [
    service_ids("SSH", "HTTP"),
    stream_start(),
    data(),
    connection_start(),
    data(b"x" * 300),
]
STREAM = b"".join(map(encode_frame, MESSAGES))


def test_limits_are_those_of_the_protocol() -> None:
    assert MAX_PAYLOAD_BYTES == 63 * 1024
    assert MAX_FRAME_BYTES == 2**16 - 1
    assert MAX_WEBSOCKET_PAYLOAD_BYTES == 131_076


def test_a_frame_is_a_length_and_a_message() -> None:
    assert encode_frame(stream_start()) == tunnel_frame(encode_message(stream_start()))
    assert encode_frame(data(b"x" * 300))[:2] == (314).to_bytes(2, "big")


def test_largest_payload_fits() -> None:
    message = data(b"x" * MAX_PAYLOAD_BYTES, service="S" * 128)
    assert FrameDecoder().feed(encode_frame(message)) == [message]


def test_payload_above_the_limit_is_refused() -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        encode_frame(data(b"x" * (MAX_PAYLOAD_BYTES + 1)))
    assert (caught.value.payload_bytes, caught.value.max_bytes) == (64_513, 64_512)


def test_message_above_the_length_prefix_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="service ids are too long"):
        encode_frame(service_ids("S" * 70_000))
    longest = service_ids("S" * (MAX_FRAME_BYTES - 6))
    assert len(encode_frame(longest)) == 2 + MAX_FRAME_BYTES
    assert FrameDecoder().feed(encode_frame(longest)) == [longest]


def test_many_frames_in_one_websocket_message() -> None:
    assert FrameDecoder().feed(STREAM) == MESSAGES


def test_one_byte_at_a_time() -> None:
    decoder = FrameDecoder()
    assert [message for byte in STREAM for message in decoder.feed(bytes([byte]))] == MESSAGES


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_split_in_two_of_any_buffer(kind: type) -> None:
    for cut in range(len(STREAM) + 1):
        decoder = FrameDecoder()
        head = decoder.feed(kind(STREAM[:cut]))
        assert decoder.buffered_bytes == cut - sum(len(encode_frame(m)) for m in head)
        assert head + decoder.feed(kind(STREAM[cut:])) == MESSAGES
        assert decoder.buffered_bytes == 0


@given(st.lists(any_message | any_announcement, max_size=8), st.data())
def test_any_messages_in_any_split(messages: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(encode_frame, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    decoder = FrameDecoder(strict=True)
    decoded: list[Message] = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoded += decoder.feed(stream[start:stop])
    assert decoded == messages
    assert decoder.buffered_bytes == 0


def test_the_fed_buffer_may_be_reused() -> None:
    buffer = bytearray(encode_frame(data(b"first")) + encode_frame(data(b"later"))[:5])
    decoder = FrameDecoder()
    (first,) = decoder.feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert first.payload == b"first"
    assert decoder.feed(encode_frame(data(b"later"))[5:]) == [data(b"later")]


def test_an_empty_frame_is_a_message_of_unknown_type() -> None:
    assert FrameDecoder().feed(b"\0\0") == [Message(T.UNKNOWN)]


def test_nothing_is_nothing() -> None:
    assert FrameDecoder().feed(b"") == []


def test_oversize_payload_of_the_peer() -> None:
    body = encode_message(data(b"x" * (MAX_PAYLOAD_BYTES + 1)))
    with pytest.raises(RemoteProtocolError, match="64513 bytes"):
        FrameDecoder().feed(tunnel_frame(body))


def test_an_error_is_final() -> None:
    decoder = FrameDecoder()
    bad = tunnel_frame(b"\xff") + encode_frame(data())
    assert decoder.feed(bad[:2]) == []
    with pytest.raises(RemoteProtocolError) as first:
        decoder.feed(bad[2:])
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as again:
            decoder.feed(encode_frame(data()))
        assert str(again.value) == str(first.value)
    assert decoder.buffered_bytes == 0


def test_strict_refuses_unknown_fields() -> None:
    stream = tunnel_frame(encode_message(data()) + UNKNOWN_FIELD)
    assert FrameDecoder().feed(stream) == [data()]
    with pytest.raises(RemoteProtocolError, match="not in the schema"):
        FrameDecoder(strict=True).feed(stream)


@given(st.lists(st.binary(max_size=200), max_size=20), st.booleans())
def test_garbage_raises_one_error_and_is_not_kept(pieces: list[bytes], strict: bool) -> None:
    decoder = FrameDecoder(strict=strict)
    failed = False
    for piece in pieces:
        try:
            decoder.feed(piece)
        except RemoteProtocolError:
            failed = True
        else:
            assert not failed
        assert decoder.buffered_bytes <= 2 + MAX_FRAME_BYTES
    assert not failed or decoder.buffered_bytes == 0


@given(st.lists(st.integers(1, MAX_WEBSOCKET_PAYLOAD_BYTES), min_size=1, max_size=8))
def test_at_most_one_partial_frame_is_kept(sizes: list[int]) -> None:
    stream = encode_frame(data(b"x" * MAX_PAYLOAD_BYTES)) * 2
    decoder, received, fed = FrameDecoder(), 0, 0
    for size in sizes:
        received += len(decoder.feed(_cycle(stream, fed, size)))
        fed += size
        assert decoder.buffered_bytes == fed - received * (len(stream) // 2)
        assert decoder.buffered_bytes < 2 + MAX_FRAME_BYTES


def _cycle(stream: bytes, offset: int, size: int) -> bytes:
    """Return `size` bytes of the endless repetition of `stream` from `offset`."""
    start = offset % len(stream)
    return (stream * (size // len(stream) + 2))[start : start + size]


any_data = st.builds(
    Message,
    type=st.just(T.DATA),
    stream_id=st.integers(-(2**31), 2**31 - 1),
    ignorable=st.booleans(),
    payload=st.one_of(st.binary(max_size=300), st.sampled_from([127, 128, 16_384]).map(bytes)),
    service_id=st.text(max_size=10),
    available_service_ids=st.just(()),
    connection_id=st.integers(0, 2**32 - 1),
)


@given(any_data)
def test_a_frame_can_be_put_around_its_payload_and_is_the_same(message: Message) -> None:
    before, behind = frame_around(message)
    assert before + message.payload + behind == encode_frame(message)


def test_what_fits_no_frame_cannot_be_put_around_it_either() -> None:
    for message, error in [
        (data(bytes(MAX_PAYLOAD_BYTES + 1)), PayloadTooLarge),
        (data(bytes(MAX_PAYLOAD_BYTES), service="S" * 2_000), LocalProtocolError),
        (data(b"x")._replace(stream_id=2**31), LocalProtocolError),
        (data(b"x")._replace(connection_id=2**32), LocalProtocolError),
    ]:
        with pytest.raises(error):
            frame_around(message)
        with pytest.raises(error):
            encode_frame(message)


@given(
    bodies=st.lists(st.binary(max_size=600), max_size=8),
    splits=st.lists(st.integers(1, 500), max_size=40),
)
def test_frames_come_out_as_they_were_sent(bodies: list[bytes], splits: list[int]) -> None:
    frames = [tunnel_frame(body) for body in bodies]
    stream, splitter, found = b"".join(frames), FrameSplitter(), []
    for size in [*splits, len(stream)]:
        found += splitter.frames(stream[:size])
        stream = stream[size:]
    assert found == frames
    assert splitter.buffered_bytes == 0


def test_a_splitter_holds_at_most_one_partial_frame() -> None:
    splitter = FrameSplitter()
    frame = tunnel_frame(bytes(MAX_FRAME_BYTES))
    assert list(splitter.frames(frame * 3 + frame[:-1])) == [frame] * 3
    assert splitter.buffered_bytes == MAX_FRAME_BYTES + 1


def test_a_frame_that_came_whole_is_not_copied() -> None:
    wire = tunnel_frame(b"hello") * 2
    assert [frame.obj is wire for frame in FrameSplitter().frames(wire)] == [True, True]
