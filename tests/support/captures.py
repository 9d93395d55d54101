"""Reads the transcripts of real peers in `tests/captures/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from tunnelfleet.proto import Message, MessageType, Mode, ProtocolVersion, encode_message

CAPTURES = sorted((Path(__file__).parent.parent / "captures").glob("*.jsonl"))


class Recorded(NamedTuple):
    """One tunnel message of a transcript that was alone in its WebSocket message."""

    sender: str
    """source, destination or service"""
    receiver: Mode
    message: Message
    frame: bytes
    """As recorded; of a long one the first 48 bytes."""
    frame_bytes: int


class Handshake(NamedTuple):
    mode: Mode
    path: str
    headers: dict[str, str]


def version_of(capture: Path) -> ProtocolVersion:
    return ProtocolVersion(int(capture.stem[-1]))


def messages(capture: Path) -> list[Recorded]:
    return [_recorded(line) for line in _lines(capture) if line["event"] == "message"]


def handshakes(capture: Path) -> list[Handshake]:
    return [
        Handshake(Mode(line["peer"]), line["path"], line["headers"])
        for line in _lines(capture)
        if line["event"] == "handshake"
    ]


def full_frames(capture: Path, receiver: Mode) -> list[Recorded]:
    """Return what one peer received, without the messages that are not recorded in full."""
    return [
        record
        for record in messages(capture)
        if record.receiver is receiver and len(record.frame) == record.frame_bytes
    ]


def reencode(capture: Path, message: Message) -> bytes:
    """Return `message` as a frame, with its fields in the order of the peer that was recorded."""
    if capture.stem.startswith("aws-c"):
        # The C client puts the ids first. Protobuf messages can be concatenated, so its order is
        # made of two messages: one without payload and service id, one with nothing else.
        ids = message._replace(payload=b"", service_id="")
        rest = Message(MessageType.UNKNOWN, payload=message.payload, service_id=message.service_id)
        body = encode_message(ids) + encode_message(rest)
    else:
        body = encode_message(message)
    return len(body).to_bytes(2, "big") + body


def _lines(capture: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capture.read_text("utf-8").splitlines()]


def _recorded(line: dict[str, Any]) -> Recorded:
    (decoded,) = line["decoded"]
    hexadecimal = line["hex"].removesuffix("...")
    frame = bytes.fromhex(hexadecimal)
    if line["hex"] == hexadecimal:
        payload = frame_payload(frame, decoded.get("payload_len", 0))
        length = len(frame)
    else:
        # All that was recorded of it is this letter.
        payload = b"x" * decoded["payload_len"]
        length = line["length"]
    sender = line["peer"]
    other = Mode.DESTINATION if sender == Mode.SOURCE else Mode.SOURCE
    message = Message(
        MessageType[decoded["type"]],
        decoded.get("streamId", 0),
        payload=payload,
        service_id=decoded.get("serviceId", ""),
        available_service_ids=tuple(decoded.get("availableServiceIds", ())),
        connection_id=decoded.get("connectionId", 0),
    )
    return Recorded(sender, Mode(line.get("to", other)), message, frame, length)


def frame_payload(frame: bytes, payload_bytes: int) -> bytes:
    """Return the payload in `frame`, found by its field tag and length, without our decoder."""
    if not payload_bytes:
        return b""
    start = frame.index(bytes([4 << 3 | 2, payload_bytes])) + 2
    return frame[start : start + payload_bytes]
