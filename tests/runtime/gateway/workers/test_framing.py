"""Messages to and from workers as bytes, however they are cut."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.runtime.gateway.workers.messages import (
    MAX_FRAME_BYTES,
    FrameError,
    MessageDecoder,
    encode_frame,
)

VALUES = st.none() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=3)
MESSAGES = st.lists(st.dictionaries(st.text(max_size=10), VALUES, max_size=3), max_size=4)


@given(messages=MESSAGES, cuts=st.lists(st.integers(0, 400), max_size=10))
def test_what_is_sent_comes_whole_and_in_order(
    messages: list[dict[str, object]], cuts: list[int]
) -> None:
    data = b"".join(map(encode_frame, messages))
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = MessageDecoder()
    found = []
    for start, end in itertools.pairwise(places):
        found += decoder.feed(data[start:end])
    assert found == messages


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(FrameError, match="at most"):
        encode_frame({"text": "x" * MAX_FRAME_BYTES})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack(">I", MAX_FRAME_BYTES + 1), "is announced"),
        (struct.pack(">I", 3) + b"[1]", "no JSON object"),
        (struct.pack(">I", 2) + b"{]", "no JSON"),
        (struct.pack(">I", 2) + b"\xff\xfe", "no JSON"),
        (struct.pack(">I", 100_000) + b"[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_message_is_said(data: bytes, words: str) -> None:
    with pytest.raises(FrameError, match=words):
        MessageDecoder().feed(data)
