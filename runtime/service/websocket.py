"""RFC 6455 as a tunneling service needs it: server side, binary, no extensions.

Owns reading a client's WebSocket frames and building the service's own. Pure: bytes in,
items and bytes out; it must not know sockets, tunnels or time.

A tunnel is a byte stream (docs/protocol.md section 2), so payload bytes are handed on as they come:
neither a large frame nor a message of ten thousand fragments is ever held in memory. That,
the limit on a *frame's* payload (libraries limit a message's), and CLOSE frames without a
status code (docs/protocol.md section 4) are why this is not a library's reader.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from enum import IntEnum
from typing import Final, NamedTuple

from tunnelfleet.actors.transport.compat import mask as apply_mask
from tunnelfleet.proto import MAX_WEBSOCKET_PAYLOAD_BYTES, RemoteProtocolError

_ACCEPT_SUFFIX: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_MASK_BYTES: Final = 4
_MAX_CONTROL_BYTES: Final = 125
_LONG, _VERY_LONG = 126, 127
_SHORT_HEADER = struct.Struct("!BB")
_LONG_HEADER = struct.Struct("!BBH")
_VERY_LONG_HEADER = struct.Struct("!BBQ")


class Opcode(IntEnum):
    """Frame types of RFC 6455 section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


_OPCODES: Final = {int(code): code for code in Opcode}


class ReceivedPiece(NamedTuple):
    """A piece of what a client sent: tunnel bytes (BINARY) or a control frame, entire."""

    opcode: Opcode
    payload: bytes | bytearray


class WebSocketReader:
    """Splits a client's bytes into tunnel bytes and control frames, whatever the split.

    Bounded: it holds at most one frame header or control frame (139 bytes).
    """

    __slots__ = ("_buffer", "_in_message", "_left_bytes", "_mask")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left_bytes = 0
        self._mask = b""
        self._in_message = False

    def feed(self, data: bytes) -> list[ReceivedPiece]:
        """Return what is complete, in order.

        Raises:
            RemoteProtocolError: text, a frame above 131,076 bytes, no mask, reserved bits,
                unknown opcodes, broken fragmentation (docs/protocol.md section 1).
        """
        buffer = self._buffer
        buffer += data
        items: list[ReceivedPiece] = []
        position = 0
        while position < len(buffer):
            if self._left_bytes:
                position = self._take_payload(position, items)
                continue
            after = self._take_header(position, items)
            if after == position:
                break
            position = after
        del buffer[:position]
        return items

    def _take_payload(self, position: int, items: list[ReceivedPiece]) -> int:
        end = min(position + self._left_bytes, len(self._buffer))
        payload = self._buffer[position:end]
        apply_mask(self._mask, payload)
        taken = end - position
        self._left_bytes -= taken
        turn = taken % _MASK_BYTES
        self._mask = self._mask[turn:] + self._mask[:turn]
        items.append(ReceivedPiece(Opcode.BINARY, payload))
        return end

    def _take_header(self, position: int, items: list[ReceivedPiece]) -> int:
        """Take a frame's header, and the payload too of a control frame; 0 progress if partial."""
        buffer = self._buffer
        available = len(buffer) - position
        if available < _SHORT_HEADER.size:
            return position
        first, second = buffer[position], buffer[position + 1]
        opcode = self._check_first(first, second)
        length, header = self._length(position, second & ~_MASKED)
        if available < header + _MASK_BYTES:
            return position
        body = position + header + _MASK_BYTES
        mask = bytes(buffer[body - _MASK_BYTES : body])
        if opcode >= Opcode.CLOSE:
            return self._take_control(opcode, first, mask, position, body, length, items)
        self._check_fragment(opcode, first)
        if length > MAX_WEBSOCKET_PAYLOAD_BYTES:
            raise RemoteProtocolError(
                f"WebSocket frame of {length} bytes; at most {MAX_WEBSOCKET_PAYLOAD_BYTES}"
            )
        self._left_bytes, self._mask = length, mask
        return body

    def _length(self, position: int, short: int) -> tuple[int, int]:
        """Return (payload length, header size before the mask); a partial header is no error."""
        if short < _LONG:
            return short, _SHORT_HEADER.size
        header = _LONG_HEADER if short == _LONG else _VERY_LONG_HEADER
        if len(self._buffer) - position < header.size:
            return 0, header.size
        return int(header.unpack_from(self._buffer, position)[2]), header.size

    @staticmethod
    def _check_first(first: int, second: int) -> Opcode:
        opcode = _OPCODES.get(first & 0x0F)
        if opcode is None or first & _RESERVED:
            raise RemoteProtocolError(f"WebSocket frame with first byte {first:#04x}")
        if not second & _MASKED:
            raise RemoteProtocolError("unmasked WebSocket frame from a client")
        if opcode is Opcode.TEXT:
            raise RemoteProtocolError("text message; tunnels carry binary messages only")
        return opcode

    def _check_fragment(self, opcode: Opcode, first: int) -> None:
        if (opcode is Opcode.CONTINUATION) != self._in_message:
            raise RemoteProtocolError("broken fragmentation of a WebSocket message")
        self._in_message = not first & _FIN

    def _take_control(
        self,
        opcode: Opcode,
        first: int,
        mask: bytes,
        position: int,
        body: int,
        length: int,
        items: list[ReceivedPiece],
    ) -> int:
        if length > _MAX_CONTROL_BYTES or not first & _FIN:
            raise RemoteProtocolError(f"{opcode.name} frame too long or fragmented")
        if len(self._buffer) < body + length:
            return position
        payload = self._buffer[body : body + length]
        apply_mask(mask, payload)
        items.append(ReceivedPiece(opcode, payload))
        return body + length


def frame_header(opcode: Opcode, length_bytes: int) -> bytes:
    """Return the header of an unfragmented, unmasked frame with so long a payload."""
    first = _FIN | opcode
    if length_bytes < _LONG:
        return _SHORT_HEADER.pack(first, length_bytes)
    if length_bytes <= 0xFFFF:
        return _LONG_HEADER.pack(first, _LONG, length_bytes)
    return _VERY_LONG_HEADER.pack(first, _VERY_LONG, length_bytes)


def websocket_frame(opcode: Opcode, payload: bytes | bytearray) -> bytes:
    """Return one whole frame from the service."""
    return frame_header(opcode, len(payload)) + payload


def accept_key(client_key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` that answers a ``Sec-WebSocket-Key``."""
    digest = hashlib.sha1(client_key.encode("ascii") + _ACCEPT_SUFFIX, usedforsecurity=False)
    return base64.b64encode(digest.digest()).decode("ascii")
