"""What a worker process and its gateway tell each other (runtime/gateway/workers/messages.py)."""

from __future__ import annotations

from typing import Any

from tests.fuzz.harness import TURNS, Harness, Source, clock_of, cut, is_line
from tunnelfleet.actors.config import Limits, TunnelConfig
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.proto import ConfigError, Endpoint, Mode
from tunnelfleet.runtime.gateway.workers.messages import (
    FrameError,
    MessageDecoder,
    encode_frame,
    from_json,
    to_json,
)

MAX_SHOWN = 1_000


def run(data: bytes) -> None:
    source = Source(data)
    sizes = source.take(3)
    wire = source.rest()
    whole, error = decode([wire])
    split, split_error = decode(cut(wire, sizes))
    assert error == split_error
    if not error:
        assert whole == split
    for message in whole:
        check(message)


def decode(pieces: list[bytes]) -> tuple[list[dict[str, Any]], str]:
    decoder = MessageDecoder()
    found: list[dict[str, Any]] = []
    clock, most_bytes = clock_of(pieces), sum(map(len, pieces))
    for piece in pieces:
        try:
            with clock:
                found += decoder.feed(piece)
        except FrameError as error:
            assert is_line(str(error), MAX_SHOWN)
            return found, str(error)
        assert len(decoder._buffer) <= most_bytes
    return found, ""


def check(message: dict[str, Any]) -> None:
    for value in message.values():
        try:
            with TURNS:
                made = from_json(value)
        except (ValueError, ConfigError):
            continue
        if not isinstance(made, str | int | float | bool | None):
            assert to_json(made) is not None


CONFIG = TunnelConfig(
    name="a",
    mode=Mode.SOURCE,
    endpoint=Endpoint.parse("ws://127.0.0.1:1"),
    access_token="t" * 20,
    limits=Limits(max_connections=3),
)
GOOD = encode_frame(
    {"say": "open", "config": to_json(CONFIG), "state": to_json(TunnelState.CONNECTED)}
)
HARNESS = Harness(
    run=run,
    covers=["runtime/gateway/workers/messages.py"],
    seeds=[
        b"\1\2\3" + GOOD,
        b"\1\2\3" + encode_frame({"a": to_json(Mode.SOURCE), "b": [1, {"!": "dict", "is": []}]}),
        b"\1\2\3"
        + encode_frame({"a": {"!": "tuple", "is": [1, 2]}, "b": {"!": "dict", "is": [[1, 2]]}}),
        b"\1\2\3" + encode_frame({"a": {"!": "Mode", "is": "x"}, "b": {"!": "Limits", "x": 1}}),
        b"\1\2\3\xff\xff\xff\xff",
        b"\1\2\3\0\0\0\1[",
        b"\1\2\3\0\0\0\2[]",
    ],
    words=[b'{"!":"tuple","is":', b'{"!":"Backoff"', b'{"!":"TcpAddress"', b"[[", b"]]"],
    max_bytes=2_048,
)
