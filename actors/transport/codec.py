"""WebSocket frames, in both directions: made, masked, joined and judged.

Owns the byte form of what a client sends, and reads what a service sends, a bounded number of
frames at a time. Pure: it knows no socket. RFC 6455 section 5; docs/protocol.md section 1.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from websocket import ABNF, WebSocketProtocolException

from tunnelfleet.proto import (
    MAX_WEBSOCKET_PAYLOAD_BYTES,
    FrameDecoder,
    Message,
    MessageType,
    RemoteProtocolError,
    encode_frame,
    frame_around,
)

from .compat import mask

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Arrival",
    "CloseArrived",
    "FrameReader",
    "PingArrived",
    "PongArrived",
    "WebSocketInput",
    "encode_close",
    "encode_data",
    "encode_ping",
    "encode_pong",
    "encode_tunnel_message",
]


_MOST_CONTROL_BYTES = 125
_SHORT_HEADER_BYTES = 2
_FIN = 0x80
_OPCODE = 0x0F
_MASKED = 0x80
_MEDIUM = 126
"""Sizes from here on have a form of two bytes, which this number announces."""
_LARGE = 65_536
"""Sizes from here on have a form of eight bytes."""
_FORM_BYTES = {_MEDIUM: 2, _MEDIUM + 1: 8}
"""What the size in the second byte says of the bytes that hold the size instead."""
_WHOLE_BINARY = _FIN | ABNF.OPCODE_BINARY
"""The first byte of nearly all frames."""
_PACK_MEDIUM = Struct("!BBH").pack
_PACK_LARGE = Struct("!BBQ").pack
_KEY_BYTES = 4


class ReceivedFrame(NamedTuple):
    """A frame that a service sent, as RFC 6455 section 5.2 draws it.

    Attributes:
        first: its first byte: the final bit, the reserved bits, the opcode.
        second: its second byte, of which the mask bit is left to be looked at.
        data: its payload, a view of what was read: it lives as long as that does.
    """

    first: int
    second: int
    data: memoryview

    @property
    def opcode(self) -> int:
        """What kind of frame it is."""
        return self.first & _OPCODE

    @property
    def is_final(self) -> bool:
        """Whether it is the last one of its message."""
        return bool(self.first & _FIN)


class FrameReader:
    """Turns received bytes into WebSocket frames.

    Holds at most one partial frame, and no frame twice: what arrives whole is not copied.
    """

    __slots__ = ("_inside", "_partial", "_wanted_bytes")

    def __init__(self) -> None:
        self._partial = bytearray()
        self._wanted_bytes = 0
        """How many bytes the partial frame needs until more can be said of it."""
        self._inside = False
        """A message has begun, and its last frame has not come."""

    def feed(self, data: bytes) -> Iterator[ReceivedFrame]:
        """Yield each frame that `data` completes, which may be split anyhow.

        Raises:
            RemoteProtocolError: on anything RFC 6455 or docs/protocol.md section 1 forbids.
        """
        rest: bytes | bytearray = data
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted_bytes:
                return
            rest, self._partial = self._partial, bytearray()
        view = memoryview(rest)
        offset, size = 0, len(rest)
        while offset < size:
            start, stop = _place_of_payload(rest, offset)
            if stop > size:
                self._partial = bytearray(view[offset:])
                self._wanted_bytes = stop - offset
                return
            frame = ReceivedFrame(rest[offset], rest[offset + 1], view[start:stop])
            self._check(frame)
            yield frame
            offset = stop

    def _check(self, frame: ReceivedFrame) -> None:
        if frame.first == _WHOLE_BINARY and not frame.second & _MASKED and not self._inside:
            return
        if frame.second & _MASKED:
            raise RemoteProtocolError(
                "the service masked a frame, which only clients do (RFC 6455 5.1)"
            )
        if frame.opcode >= ABNF.OPCODE_CLOSE:
            if not frame.is_final:
                raise RemoteProtocolError("the service fragmented a control frame (RFC 6455 5.5)")
        elif (frame.opcode == ABNF.OPCODE_CONT) is not self._inside:
            raise _broken("a message began inside another, or went on without a beginning")
        else:
            self._inside = not frame.is_final
        _check_by_library(frame)


def _place_of_payload(data: bytes | bytearray, offset: int) -> tuple[int, int]:
    """Where the payload of the frame at `offset` starts and stops.

    If it stops behind the end of the data, so much is needed to say more, or to have all of it.

    Raises:
        RemoteProtocolError: it is longer than it may be.
    """
    start = offset + _SHORT_HEADER_BYTES
    if start > len(data):
        return start, start
    length = data[offset + 1] & ~_MASKED
    if length >= _MEDIUM:
        form_bytes = _FORM_BYTES[length]
        start += form_bytes
        if start > len(data):
            return start, start
        length = int.from_bytes(data[start - form_bytes : start], "big")
    if length > _MOST_CONTROL_BYTES:
        _check_length(data[offset], length)
    return start, start + length


def _check_length(first: int, length: int) -> None:
    """Refuse a frame by its announced length, before a byte of it is kept."""
    is_control = first & _OPCODE >= ABNF.OPCODE_CLOSE
    limit = _MOST_CONTROL_BYTES if is_control else MAX_WEBSOCKET_PAYLOAD_BYTES
    if length > limit:
        raise RemoteProtocolError(
            f"the service sent a WebSocket frame of {length} bytes; at most {limit} are allowed "
            "(docs/protocol.md section 1)"
        )


def _check_by_library(frame: ReceivedFrame) -> None:
    """Refuse reserved bits, opcodes that there are not, and a CLOSE with a forbidden status."""
    rsv1, rsv2, rsv3 = (frame.first >> shift & 1 for shift in (6, 5, 4))
    fin = int(frame.is_final)
    same = ABNF(fin, rsv1, rsv2, rsv3, frame.opcode, 0, bytes(frame.data))
    try:
        same.validate(skip_utf8_validation=True)
    except WebSocketProtocolException as error:
        raise _broken(str(error)) from None


def _broken(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"the service broke the WebSocket protocol: {what}")


def _encode(opcode: int, *parts: bytes) -> bytearray:
    """A whole, masked frame, whose payload is put together of parts.

    All of it is one buffer, into which the parts are copied once, and masked in place. The header
    is masked with the rest, as masks work on whole buffers, and then written.
    """
    size = sum(map(len, parts))
    if size < _MEDIUM:
        header = bytes((_FIN | opcode, _MASKED | size))
    elif size < _LARGE:
        header = _PACK_MEDIUM(_FIN | opcode, _MASKED | _MEDIUM, size)
    else:
        header = _PACK_LARGE(_FIN | opcode, _MASKED | _MEDIUM + 1, size)
    key = os.urandom(_KEY_BYTES)
    start = len(header) + _KEY_BYTES
    frame = bytearray().join((header, key, *parts))
    # The first byte of the payload takes the first one of the key, wherever in the frame it is.
    turn = -start % _KEY_BYTES
    mask(key[turn:] + key[:turn], frame)
    frame[:start] = header + key
    return frame


def encode_data(payload: bytes) -> bytearray:
    """A whole binary message."""
    return _encode(ABNF.OPCODE_BINARY, payload)


def encode_tunnel_message(message: Message) -> bytearray:
    """A whole binary message that holds one message of the tunnel.

    Raises:
        LocalProtocolError: it does not fit a frame.
    """
    if message.type is not MessageType.DATA:
        return _encode(ABNF.OPCODE_BINARY, encode_frame(message))
    before, behind = frame_around(message)
    return _encode(ABNF.OPCODE_BINARY, before, message.payload, behind)


def encode_ping(payload: bytes = b"") -> bytearray:
    """A ping, whose answer has the same payload."""
    return _encode(ABNF.OPCODE_PING, payload)


def encode_pong(payload: bytes) -> bytearray:
    """The answer to a ping with that payload."""
    return _encode(ABNF.OPCODE_PONG, payload)


def encode_close() -> bytearray:
    """A CLOSE without status code (docs/protocol.md section 4)."""
    return _encode(ABNF.OPCODE_CLOSE, b"")


class PingArrived(NamedTuple):
    """A ping, which is due a pong with the same payload (RFC 6455 5.5.3)."""

    payload: bytes


class PongArrived(NamedTuple):
    """A pong, asked for or not, with the payload of its ping."""

    payload: bytes


class CloseArrived(NamedTuple):
    """A CLOSE; its status code and reason say nothing that is defined for tunnels."""


Arrival: TypeAlias = Message | PingArrived | PongArrived | CloseArrived


class WebSocketInput:
    """Turns the bytes of one connection, in any split, into what arrived with them."""

    __slots__ = ("_decoder", "_reader")

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._decoder = FrameDecoder()

    def feed(self, data: bytes) -> Iterator[Arrival | None]:
        """Yield what `data` completes, in order, and None for a frame that was read before it.

        Frames may be empty, or hold a byte each: whoever has a budget counts what is yielded, rests
        when it is spent, and goes on with the same iterator, which has to be used up before the
        next call.

        Raises:
            RemoteProtocolError: the service broke the protocol; what came before it was yielded.
        """
        for frame in self._reader.feed(data):
            opcode, payload = frame.first & _OPCODE, frame.data
            if opcode in (ABNF.OPCODE_BINARY, ABNF.OPCODE_CONT):
                yield None
                yield from self._decoder.iterate(payload)
            elif opcode == ABNF.OPCODE_PING:
                yield PingArrived(bytes(payload))
            elif opcode == ABNF.OPCODE_PONG:
                yield PongArrived(bytes(payload))
            elif opcode == ABNF.OPCODE_CLOSE:
                yield CloseArrived()
            else:
                raise RemoteProtocolError(
                    "the service sent a text message (docs/protocol.md section 1)"
                )
