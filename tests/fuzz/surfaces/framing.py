"""Frames of a length and a protobuf message, cut anyhow (proto/message.py)."""

from __future__ import annotations

from tests.fuzz.harness import Harness, Source, clock_of, cut, is_line
from tunnelfleet.proto import (
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameDecoder,
    Message,
    MessageType,
    ProtocolVersion,
    RemoteProtocolError,
    encode_frame,
    frame_around,
)
from tunnelfleet.proto.session import shape_of

MAX_SHOWN = 200


def run(data: bytes) -> None:
    source = Source(data)
    strict, sizes = source.flag(), source.take(3)
    wire = source.rest()
    whole, split = FrameDecoder(strict=strict), FrameDecoder(strict=strict)
    messages, error = decode(whole, [wire])
    cut_messages, cut_error = decode(split, cut(wire, sizes))
    assert error == cut_error
    if not error:
        assert messages == cut_messages
        assert whole.buffered_bytes == split.buffered_bytes
    for message in messages:
        check(message)


def decode(decoder: FrameDecoder, pieces: list[bytes]) -> tuple[list[Message], str]:
    """Feed all; return the messages, and the text of the error that ended it."""
    messages: list[Message] = []
    fed, clock = 0, clock_of(pieces)
    for piece in pieces:
        fed += len(piece)
        try:
            with clock:
                messages += decoder.feed(piece)
        except RemoteProtocolError as error:
            assert is_line(str(error), MAX_SHOWN)
            assert decoder.buffered_bytes == 0
            assert again(decoder) == str(error)
            return messages, str(error)
        assert decoder.buffered_bytes <= MAX_FRAME_BYTES + 2
        assert 2 * len(messages) + decoder.buffered_bytes <= fed
    return messages, ""


def again(decoder: FrameDecoder) -> str:
    """What a decoder says that has failed."""
    try:
        decoder.feed(b"")
    except RemoteProtocolError as error:
        return str(error)
    raise AssertionError("it goes on after an error")


def check(message: Message) -> None:
    assert len(message.payload) <= MAX_PAYLOAD_BYTES
    assert isinstance(shape_of(message), ProtocolVersion)
    assert len(repr(message)) < 8 * MAX_FRAME_BYTES
    frame = encode_frame(message)
    assert FrameDecoder().feed(frame) == [message]
    if message.type is MessageType.DATA:
        before, behind = frame_around(message)
        assert before + message.payload + behind == frame


FRAMES = b"".join(
    encode_frame(each)
    for each in (
        Message(MessageType.SERVICE_IDS, available_service_ids=("SSH", "HTTP")),
        Message(MessageType.STREAM_START, 1, service_id="SSH", connection_id=1, ignorable=True),
        Message(MessageType.DATA, 1, payload=b"hello", service_id="SSH", connection_id=1),
        Message(MessageType.CONNECTION_RESET, 1, service_id="SSH", connection_id=1),
        Message(MessageType.SESSION_RESET),
    )
)
HARNESS = Harness(
    run=run,
    covers=["proto/message.py"],
    seeds=[b"\0\1\2\3" + FRAMES, b"\1\5\0\0" + FRAMES, b"\0\1\1\1\xff\xff", b"\1\0\0\0\0\2\x50\1"],
    words=[b"\x08\x01", b"\x22\x05", b"\x2a\x03SSH", b"\x38\x01", b"\x18\x01", b"\x32\x03"],
    max_bytes=2_048,
)
