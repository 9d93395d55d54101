"""WebSocket frames, in both directions: made, masked, joined and judged.

Owns the byte form of what a client sends, and reads what a service sends, a bounded number of
frames at a time. Pure: it knows no socket. RFC 6455 section 5; docs/protocol.md section 1.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from websocket import ABNF, WebSocketProtocolException, continuous_frame, frame_buffer

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


MAX_CONTROL_BYTES = 125
MAX_PIECES = 64
"""Pieces of one frame that are kept before they are joined."""
_FIN = 0x80
_MASKED = 0x80
_MEDIUM = 126
"""Sizes from here on have a form of two bytes, which this number announces."""
_LARGE = 65_536
"""Sizes from here on have a form of eight bytes."""
_PACK_MEDIUM = Struct("!BBH").pack
_PACK_LARGE = Struct("!BBQ").pack
_KEY_BYTES = 4


class _NeedData(Exception):  # noqa: N818  (like mini-redis' Incomplete: expected, not an error)
    """The frame is not complete yet."""


class _BoundedFrameBuffer(frame_buffer):
    """Refuses a frame by its announced length, before a byte of it is kept."""

    def recv_length(self) -> None:
        super().recv_length()
        length = self.length or 0
        opcode = self.header[4] if self.header else 0
        limit = MAX_CONTROL_BYTES if opcode >= ABNF.OPCODE_CLOSE else MAX_WEBSOCKET_PAYLOAD_BYTES
        if length > limit:
            raise RemoteProtocolError(
                f"the service sent a WebSocket frame of {length} bytes; at most {limit} are "
                "allowed "
                "(docs/protocol.md section 1)"
            )


class _Source:
    """What the library's parser reads from: the bytes at hand."""

    __slots__ = ("_data", "_position")

    def __init__(self) -> None:
        self.fill(b"")

    def fill(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> bytes:
        start = self._position
        piece = self._data[start : start + size]
        if not piece:
            raise _NeedData
        self._position = start + len(piece)
        return piece


class FrameReader:
    """Turns received bytes into WebSocket frames.

    Holds at most one partial frame. `feed` takes bytes in any split.
    """

    def __init__(self) -> None:
        self._source = _Source()
        self._buffer = _BoundedFrameBuffer(self._source.take, skip_utf8_validation=True)
        self._sequence = continuous_frame(fire_cont_frame=True, skip_utf8_validation=True)

    def feed(self, data: bytes) -> Iterator[ABNF]:
        """Yield each frame that `data` completes.

        Raises:
            RemoteProtocolError: on anything RFC 6455 or docs/protocol.md section 1 forbids.
        """
        self._source.fill(data)
        pieces = self._buffer.recv_buffer
        if len(pieces) > MAX_PIECES:
            # The library adds up all pieces at each call: a trickle would cost its square.
            self._buffer.recv_buffer = [b"".join(pieces)]
        while True:
            try:
                frame = self._buffer.recv_frame()
                self._check(frame)
            except _NeedData:
                self._source.fill(b"")
                return
            except WebSocketProtocolException as error:
                raise RemoteProtocolError(
                    f"the service broke the WebSocket protocol: {error}"
                ) from None
            yield frame

    def _check(self, frame: ABNF) -> None:
        if frame.mask_value:
            raise RemoteProtocolError(
                "the service masked a frame, which only clients do (RFC 6455 5.1)"
            )
        if frame.opcode >= ABNF.OPCODE_CLOSE:
            if not frame.fin:
                raise RemoteProtocolError("the service fragmented a control frame (RFC 6455 5.5)")
            return
        self._sequence.validate(frame)
        self._sequence.recving_frames = None if frame.fin else ABNF.OPCODE_BINARY


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


def encode_ping() -> bytearray:
    """A ping without payload: one with it corrupts the AWS C client's input.

    See docs/protocol.md section 4.
    """
    return _encode(ABNF.OPCODE_PING, b"")


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
    """A pong, asked for or not."""


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
            payload = frame.data
            assert isinstance(payload, bytes)
            if frame.opcode in (ABNF.OPCODE_BINARY, ABNF.OPCODE_CONT):
                yield None
                yield from self._decoder.iterate(payload)
            elif frame.opcode == ABNF.OPCODE_PING:
                yield PingArrived(payload)
            elif frame.opcode == ABNF.OPCODE_PONG:
                yield PongArrived()
            elif frame.opcode == ABNF.OPCODE_CLOSE:
                yield CloseArrived()
            else:
                raise RemoteProtocolError(
                    "the service sent a text message (docs/protocol.md section 1)"
                )
