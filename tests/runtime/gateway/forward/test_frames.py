"""What gateways say to each other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnelfleet.proto import RemoteProtocolError
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.forward.frames import (
    Ask,
    ForwardAnswer,
    FrameKind,
    GatewayFrame,
    GatewayFrameReader,
    Question,
    encode_frame,
)

FRAMES = st.lists(
    st.builds(GatewayFrame, st.sampled_from(FrameKind), st.binary(max_size=20)), max_size=6
)


@settings(max_examples=50)
@given(FRAMES, st.lists(st.integers(0, 130), max_size=6))
def test_frames_arrive_whatever_the_cuts(frames: list[GatewayFrame], cuts: list[int]) -> None:
    data = b"".join(encode_frame(*each) for each in frames)
    reader, found, at = GatewayFrameReader(), [], 0
    for cut in [*sorted(cuts), len(data)]:
        found += reader.feed(data[at:cut])
        at = max(at, cut)
    assert found == frames


def test_the_largest_frame() -> None:
    frame = GatewayFrame(FrameKind.DATA, b"x" * 65_535)
    assert list(GatewayFrameReader().feed(encode_frame(*frame))) == [frame]


@pytest.mark.parametrize("data", [b"\0\0\0", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0"])
def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="no frame of kind"):
        list(GatewayFrameReader().feed(data))


@settings(max_examples=25)
@given(st.text(max_size=20), st.none() | st.integers(0, 65_535), st.lists(st.text(max_size=5)))
def test_a_question_arrives_as_it_was_asked(text: str, port: int | None, names: list[str]) -> None:
    question = Question(
        ask=Ask.CONNECT, target=text, port=port, user=text, peer=text, filters={"name": names}
    )
    assert Question.decode(question.encode()) == question


GOOD = json.loads(Question(ask=Ask.CONNECT, target="press-4").encode())


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "language of gateways"),
        (b"[" * 20_000, "language of gateways"),
        (b"null", "language of gateways"),
        (json.dumps({**GOOD, "version": 2}).encode(), "run the same one at both"),
        (json.dumps({**GOOD, "ask": "for-more"}).encode(), "cannot be read"),
        (json.dumps({**GOOD, "port": "22"}).encode(), "cannot be read"),
        (json.dumps({**GOOD, "filters": {"name": "x"}}).encode(), "cannot be read"),
        (json.dumps({**GOOD, "target": "x" * 20_000}).encode(), "language of gateways"),
    ],
)
def test_what_is_no_question(payload: bytes, says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        Question.decode(payload)


@pytest.mark.parametrize(
    "answer", [ForwardAnswer(), ForwardAnswer(Denial.RULE, "no rule allows it")]
)
def test_an_answer_is_one_line(answer: ForwardAnswer) -> None:
    line = answer.encode()
    assert line.index(b"\n") == len(line) - 1
    assert ForwardAnswer.decode(line) == answer


def test_an_answer_is_made_fit_to_be_shown() -> None:
    found = ForwardAnswer.decode(ForwardAnswer(Denial.NAME, "a\x1b[31m\nb" + "x" * 2_000).encode())
    assert "\x1b" not in found.text
    assert "\n" not in found.text
    assert len(found.text) <= 700


def test_a_denial_of_a_later_version_is_a_failure() -> None:
    assert ForwardAnswer.decode(b'{"denial": "moon", "text": "full"}\n') == ForwardAnswer(
        Denial.FAILED, "full"
    )
