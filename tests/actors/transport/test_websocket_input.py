"""What the service sends becomes tunnel messages and control frames, whatever the splits."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.frames import frame
from tests.support.scripted_server import BINARY, CLOSE, CONT, PING, PONG, TEXT
from tests.support.transcripts import to_frame, to_text
from tunnelfleet.actors.transport.codec import (
    Arrival,
    CloseArrived,
    FrameReader,
    PingArrived,
    PongArrived,
    WebSocketInput,
)
from tunnelfleet.proto import Message, RemoteProtocolError, framing

if TYPE_CHECKING:
    from collections.abc import Callable


def line_of(arrival: Arrival) -> str:
    match arrival:
        case PingArrived(payload):
            return f"PING {payload.decode()}".strip()
        case PongArrived():
            return "PONG"
        case CloseArrived():
            return "CLOSE"
    assert isinstance(arrival, Message)
    return to_text(arrival)


def texts(reader: WebSocketInput, pieces: list[bytes]) -> list[str]:
    """What arrives, without the frames that only count."""
    arrivals = [arrival for piece in pieces for arrival in reader.feed(piece)]
    return [line_of(arrival) for arrival in arrivals if arrival is not None]


HELLO, WORLD = "DATA SSH 1/1 hello", "DATA SSH 1/1 world"
BOTH = to_frame(HELLO) + to_frame(WORLD)
CUT = len(to_frame(HELLO)) // 2
FRAGMENTS = frame(BINARY, b"\0", fin=False) + frame(CONT, b"", fin=False) * 100 + frame(CONT, b"\0")

ARRIVALS = {
    "nothing": (b"", []),
    "a message": (frame(BINARY, to_frame(HELLO)), [HELLO]),
    "two in one WebSocket message": (frame(BINARY, BOTH), [HELLO, WORLD]),
    "one over two WebSocket messages": (
        frame(BINARY, BOTH[:CUT]) + frame(BINARY, BOTH[CUT:]),
        [HELLO, WORLD],
    ),
    "one over fragments, with a ping between": (
        frame(BINARY, BOTH[:CUT], fin=False) + frame(PING, b"now") + frame(CONT, BOTH[CUT:]),
        ["PING now", HELLO, WORLD],
    ),
    "an empty WebSocket message": (frame(BINARY, b""), []),
    "a ping without payload": (frame(PING), ["PING"]),
    "a pong with one": (frame(PONG, b"?"), ["PONG"]),
    "a close": (frame(CLOSE), ["CLOSE"]),
    "a close with a status code": (frame(CLOSE, b"\x03\xe8bye"), ["CLOSE"]),
    "the unfinished start of a frame": (frame(BINARY, to_frame(HELLO))[:-1], []),
    "all kinds": (
        frame(PING) + frame(BINARY, to_frame(HELLO)) + frame(PONG) + frame(CLOSE),
        ["PING", HELLO, "PONG", "CLOSE"],
    ),
}


@pytest.mark.parametrize(("data", "expected"), ARRIVALS.values(), ids=ARRIVALS.keys())
def test_what_arrives_at_once(data: bytes, expected: list[str]) -> None:
    assert texts(WebSocketInput(), [data]) == expected


@pytest.mark.parametrize(("data", "expected"), ARRIVALS.values(), ids=ARRIVALS.keys())
def test_what_arrives_byte_by_byte(data: bytes, expected: list[str]) -> None:
    reader = WebSocketInput()
    pieces = [data[at : at + 1] for at in range(len(data))]
    assert texts(reader, pieces) == expected


@given(st.data())
def test_any_split_makes_no_difference(data: st.DataObject) -> None:
    whole = b"".join(part for part, _ in list(ARRIVALS.values())[:8])
    expected = [text for _, texts in list(ARRIVALS.values())[:8] for text in texts]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    borders = [0, *cuts, len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(borders)]
    reader = WebSocketInput()
    assert texts(reader, pieces) == expected


VIOLATIONS = {
    "a text message": (frame(TEXT, b"hello"), "text message"),
    "a masked frame": (b"\x82\x81\x00\x00\x00\x00x", "masked"),
    "a continuation of nothing": (frame(CONT, b"x"), "went on with none"),
    "a tunnel frame that is none": (frame(BINARY, b"\x00\x03\xff\xff\xff"), "not a tunnel message"),
}


@pytest.mark.parametrize(("data", "text"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_what_came_before_a_violation_counts(data: bytes, text: str) -> None:
    arrivals = WebSocketInput().feed(frame(PING) + frame(BINARY, to_frame(HELLO)) + data)
    first = [next(arrivals) for _ in range(3)]
    assert [line_of(arrival) for arrival in first if arrival is not None] == ["PING", HELLO]
    with pytest.raises(RemoteProtocolError, match=text):
        list(arrivals)


@pytest.mark.parametrize(
    "data",
    [frame(BINARY) * 100, frame(BINARY, to_frame(HELLO) * 99), frame(PING) * 100, FRAGMENTS],
    ids=["empty frames", "messages of one frame", "pings", "fragments of a byte"],
)
def test_no_step_is_more_work_than_a_frame_or_a_message(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that whoever has a budget can rest in between."""
    work = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **named: Any) -> Any:
            nonlocal work
            work += 1
            return function(*args, **named)

        return wrapper

    monkeypatch.setattr(framing, "decode_message", counted(framing.decode_message))  # type: ignore[attr-defined]
    monkeypatch.setattr(FrameReader, "_take_header", counted(FrameReader._take_header))
    steps = 0
    for _ in WebSocketInput().feed(data):
        steps += 1
        assert work <= steps, "it was read ahead"
    assert steps >= 100
