"""What the service sends becomes tunnel messages and control frames, whatever the splits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.actors.servers import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame
from tests.actors.transcripts import to_message, to_text
from tunnelfleet.actors.websocket_input import (
    Arrival,
    CloseArrived,
    PingArrived,
    PongArrived,
    WebSocketInput,
)
from tunnelfleet.proto import Message, RemoteProtocolError, encode_frame


def wire(text: str) -> bytes:
    """A tunnel frame."""
    return encode_frame(to_message(text))


def shown(arrival: Arrival) -> str:
    match arrival:
        case PingArrived(payload):
            return f"PING {payload.decode()}".strip()
        case PongArrived():
            return "PONG"
        case CloseArrived():
            return "CLOSE"
    assert isinstance(arrival, Message)
    return to_text(arrival)


HELLO, WORLD = "DATA SSH 1/1 hello", "DATA SSH 1/1 world"
BOTH = wire(HELLO) + wire(WORLD)
CUT = len(wire(HELLO)) // 2

ARRIVALS = {
    "nothing": (b"", []),
    "a message": (frame(BINARY, wire(HELLO)), [HELLO]),
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
    "the unfinished start of a frame": (frame(BINARY, wire(HELLO))[:-1], []),
    "all kinds": (
        frame(PING) + frame(BINARY, wire(HELLO)) + frame(PONG) + frame(CLOSE),
        ["PING", HELLO, "PONG", "CLOSE"],
    ),
}


@pytest.mark.parametrize(("data", "expected"), ARRIVALS.values(), ids=ARRIVALS.keys())
def test_what_arrives_at_once(data: bytes, expected: list[str]) -> None:
    assert [shown(arrival) for arrival in WebSocketInput().feed(data)] == expected


@pytest.mark.parametrize(("data", "expected"), ARRIVALS.values(), ids=ARRIVALS.keys())
def test_what_arrives_byte_by_byte(data: bytes, expected: list[str]) -> None:
    reader = WebSocketInput()
    pieces = [data[at : at + 1] for at in range(len(data))]
    assert [shown(arrival) for piece in pieces for arrival in reader.feed(piece)] == expected


@given(st.data())
def test_any_split_makes_no_difference(data: st.DataObject) -> None:
    whole = b"".join(part for part, _ in list(ARRIVALS.values())[:8])
    expected = [text for _, texts in list(ARRIVALS.values())[:8] for text in texts]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    borders = [0, *cuts, len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(borders)]
    reader = WebSocketInput()
    assert [shown(arrival) for piece in pieces for arrival in reader.feed(piece)] == expected


VIOLATIONS = {
    "a text message": (frame(TEXT, b"hello"), "text message"),
    "a masked frame": (b"\x82\x81\x00\x00\x00\x00x", "masked"),
    "a continuation of nothing": (frame(CONT, b"x"), "protocol"),
    "a tunnel frame that is none": (frame(BINARY, b"\x00\x03\xff\xff\xff"), "not a tunnel message"),
}


@pytest.mark.parametrize(("data", "text"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_what_came_before_a_violation_counts(data: bytes, text: str) -> None:
    arrivals = WebSocketInput().feed(frame(PING) + frame(BINARY, wire(HELLO)) + data)
    assert [shown(next(arrivals)) for _ in range(2)] == ["PING", HELLO]
    with pytest.raises(RemoteProtocolError, match=text):
        next(arrivals)
