"""Splitting frames, and who may send what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.proto import (
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    Message,
    MessageType,
    Mode,
    RemoteProtocolError,
)
from tunnelfleet.runtime.service.rules import FrameSplitter, check_message


@given(
    bodies=st.lists(st.binary(max_size=600), max_size=8),
    splits=st.lists(st.integers(1, 500), max_size=40),
)
def test_any_split_gives_the_same_frames(bodies: list[bytes], splits: list[int]) -> None:
    frames = [len(body).to_bytes(2, "big") + body for body in bodies]
    stream, splitter, found = b"".join(frames), FrameSplitter(), []
    for size in [*splits, len(stream)]:
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert found == frames
    assert splitter.buffered_bytes == 0


def test_holds_at_most_one_partial_frame() -> None:
    splitter = FrameSplitter()
    frame = MAX_FRAME_BYTES.to_bytes(2, "big") + bytes(MAX_FRAME_BYTES)
    assert splitter.feed(frame * 3 + frame[:-1]) == [frame] * 3
    assert splitter.buffered_bytes == MAX_FRAME_BYTES + 1


ALLOWED = {
    MessageType.DATA: {Mode.SOURCE, Mode.DESTINATION},
    MessageType.STREAM_START: {Mode.SOURCE},
    MessageType.STREAM_RESET: {Mode.SOURCE, Mode.DESTINATION},
    MessageType.CONNECTION_START: {Mode.SOURCE},
    MessageType.CONNECTION_RESET: {Mode.SOURCE, Mode.DESTINATION},
    MessageType.SERVICE_IDS: set(),
    MessageType.SESSION_RESET: set(),
    MessageType.UNKNOWN: set(),
}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("kind", list(MessageType))
def test_who_may_send_what(kind: MessageType, mode: Mode) -> None:
    message = Message(kind, 1, service_id="SSH", connection_id=1)
    if mode in ALLOWED[kind]:
        assert check_message(message, mode)
    else:
        with pytest.raises(RemoteProtocolError, match=kind.name):
            check_message(message, mode)


def test_negative_stream_ids_are_legal_and_0_is_not() -> None:
    assert check_message(Message(MessageType.STREAM_START, -1), Mode.SOURCE)
    with pytest.raises(RemoteProtocolError, match="stream id 0"):
        check_message(Message(MessageType.STREAM_START, 0), Mode.SOURCE)


def test_an_unknown_type_is_skipped_if_ignorable() -> None:
    assert not check_message(Message(42, ignorable=True), Mode.SOURCE)
    assert not check_message(Message(MessageType.UNKNOWN, ignorable=True), Mode.SOURCE)
    with pytest.raises(RemoteProtocolError, match="42"):
        check_message(Message(42), Mode.SOURCE)


def test_the_payload_limit() -> None:
    fits = Message(MessageType.DATA, 1, payload=bytes(MAX_PAYLOAD_BYTES))
    assert check_message(fits, Mode.DESTINATION)
    with pytest.raises(RemoteProtocolError, match="64513"):
        check_message(fits._replace(payload=bytes(MAX_PAYLOAD_BYTES + 1)), Mode.DESTINATION)
