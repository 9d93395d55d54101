"""WebSocket frames in both directions and for both roles: a tunnel's client, and its service.

Owns the byte form of what either side sends, and takes apart what the other one has sent, piece by
piece: neither a large frame nor a message of ten thousand fragments is ever held. Pure: it knows no
socket, and of tunnels only their messages. RFC 6455 section 5; docs/protocol.md section 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import Enum, IntEnum
from struct import Struct
from typing import NamedTuple, TypeAlias

from tunnelfleet.proto import (
    MAX_WEBSOCKET_PAYLOAD_BYTES,
    DataBurst,
    Message,
    MessageReader,
    MessageType,
    RemoteProtocolError,
    burst_parts,
    encode_frame,
    frame_around,
)

from .compat import mask


class Role(Enum):
    """One of the two sides of a WebSocket; a client masks what it sends, a service does not."""

    CLIENT = "client"
    SERVICE = "service"


class Opcode(IntEnum):
    """What kind of frame it is (RFC 6455 section 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


# As plain names: Python 3.11 takes six times as long to look up the member of an enum.
_SERVICE, _CLIENT, _DATA = Role.SERVICE, Role.CLIENT, MessageType.DATA
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = (each.value for each in Opcode)
_OPCODES = frozenset(each.value for each in Opcode)


_MOST_BYTES = MAX_WEBSOCKET_PAYLOAD_BYTES
_MOST_CONTROL_BYTES = 125
_SHORT_HEADER_BYTES = 2
_KEY_BYTES = 4
_FIN = 0x80
_RESERVED = 0x70
_OPCODE = 0x0F
_MASKED = 0x80
_MEDIUM = 126
"""Sizes from here on have a form of two bytes, which this number announces."""
_LARGE = 65_536
"""Sizes from here on have a form of eight bytes."""
_FORM_BYTES = {_MEDIUM: 2, _MEDIUM + 1: 8}
"""What the size in the second byte says of the bytes that hold the size instead."""
_WHOLE_BINARY = _FIN | _BINARY
"""The first byte of nearly all frames."""
_FIRST_CONTROL = _CLOSE
"""Opcodes from here on are control frames; those before it carry the tunnel's bytes."""
_PACK_SHORT = Struct("!BB").pack
_PACK_MEDIUM = Struct("!BBH").pack
_PACK_LARGE = Struct("!BBQ").pack


# -- reading


class ReceivedPiece(NamedTuple):
    """A piece of a data frame's payload, or a control frame's whole payload.

    Attributes:
        opcode: of its frame.
        data: a view of what was read, which lives as long as that does; unmasked, a copy of it.
    """

    opcode: int
    data: memoryview


class FrameReader:
    """Turns received bytes into the payloads of WebSocket frames.

    Bounded: it holds at most one header or one control frame that is not whole (139 bytes).

    Args:
        sender: whose frames they are.
    """

    __slots__ = (
        "_inside",
        "_key",
        "_last_bytes",
        "_left_bytes",
        "_mask_bit",
        "_opcode",
        "_partial",
        "_sender",
    )

    def __init__(self, sender: Role) -> None:
        self._sender = sender
        self._mask_bit = _MASKED if sender is _CLIENT else 0
        self._partial = b""
        self._left_bytes = 0
        """How much of the present data frame's payload has still to come."""
        self._last_bytes = 0
        """The size of the last frame that began."""
        self._opcode = 0
        self._key = b""
        """Of the present frame, turned so that its first byte is for the next byte."""
        self._inside = False
        """A message has begun, and its last frame has not come."""

    def wanted_bytes(self, usual_bytes: int) -> int:
        """How much to read at once: so many bytes, or where frames are large, to the end of one.

        The next frame is taken to be as large as the last, as those of a copy are: one that comes
        whole needs not be put together.
        """
        expected_bytes = self._left_bytes or self._last_bytes
        return expected_bytes if expected_bytes > usual_bytes // 2 else usual_bytes

    def alone(self, data: bytes) -> bytes | None:
        """The payload, if `data` is one small binary message, whole and nothing else.

        None else: then nothing was taken, and `data` has to be fed.
        """
        start = _SHORT_HEADER_BYTES + (_KEY_BYTES if self._mask_bit else 0)
        size = len(data) - start
        if not (0 < size < _MEDIUM and data[1] == self._mask_bit | size):
            return None
        if data[0] != _WHOLE_BINARY or self._partial or self._left_bytes or self._inside:
            return None
        self._last_bytes = len(data)
        if not self._mask_bit:
            return data[start:]
        plain = bytearray(data[start:])
        mask(data[_SHORT_HEADER_BYTES:start], plain)
        return bytes(plain)

    def feed(self, data: bytes) -> Iterator[ReceivedPiece]:
        """Yield what `data` has of each frame, which may be split anyhow; each frame at least once.

        Raises:
            RemoteProtocolError: on anything RFC 6455 or docs/protocol.md section 1 forbids.
        """
        if self._partial:
            data, self._partial = self._partial + data, b""
        view, offset, size = memoryview(data), 0, len(data)
        while offset < size:
            if not self._left_bytes:
                start = self._take_header(data, offset)
                if not start:
                    self._partial = data[offset:]
                    return
                offset = start
            stop = min(offset + self._left_bytes, size)
            payload = view[offset:stop]
            self._left_bytes -= stop - offset
            if self._mask_bit:
                payload = self._unmasked(payload)
            # A header alone says nothing yet; an empty frame does.
            if payload or not self._left_bytes:
                yield ReceivedPiece(self._opcode, payload)
            offset = stop

    def _take_header(self, data: bytes, offset: int) -> int:
        """Take the header of the frame at `offset`; return where its payload starts.

        0: more bytes are needed, of a control frame all.
        """
        start, length = _place_of_payload(data, offset)
        if not start:
            return 0
        first, second = data[offset], data[offset + 1]
        opcode = first & _OPCODE
        is_usual = first == _WHOLE_BINARY and not self._inside and length <= _MOST_BYTES
        if not is_usual or second & _MASKED != self._mask_bit:
            self._check(first, second, length)
        if self._mask_bit:
            start += _KEY_BYTES
            self._key = data[start - _KEY_BYTES : start]
        is_control = opcode >= _FIRST_CONTROL
        if start + (length if is_control else 0) > len(data):
            return 0
        if opcode == _CLOSE:
            self._check_close(data[start : start + length])
        if not is_control:
            self._inside = not first & _FIN
        self._opcode, self._left_bytes = opcode, length
        self._last_bytes = start - offset + length
        return start

    def _check(self, first: int, second: int, length: int) -> None:
        """Refuse a frame by its header, before a byte of its payload is kept."""
        if second & _MASKED != self._mask_bit:
            what = "masked a frame" if second & _MASKED else "did not mask a frame"
            raise self._broken(f"{what}: only clients do, and all their frames (RFC 6455 5.1)")
        opcode, is_control = first & _OPCODE, first & _OPCODE >= _FIRST_CONTROL
        limit = _MOST_CONTROL_BYTES if is_control else _MOST_BYTES
        if length > limit:
            raise self._broken(
                f"sent a WebSocket frame of {length} bytes; at most {limit} are allowed "
                "(docs/protocol.md section 1)"
            )
        if is_control and not first & _FIN:
            raise self._broken("fragmented a control frame (RFC 6455 5.5)")
        if opcode == _TEXT:
            raise self._broken("sent a text message (docs/protocol.md section 1)")
        if first & _RESERVED or opcode not in _OPCODES:
            raise self._broken(f"sent a frame that begins with {first:#04x} (RFC 6455 5.2)")
        if not is_control and (opcode == _CONTINUATION) is not self._inside:
            raise self._broken("began a message inside another, or went on with none (5.4)")

    def _check_close(self, payload: bytes) -> None:
        """Refuse a CLOSE with half a status, or with one that nobody may send."""
        if not payload:
            return
        # It takes 2 MB and 10 ms, and most tunnels get a CLOSE without a status, or none.
        from websocket import ABNF, WebSocketProtocolException  # noqa: PLC0415

        plain = bytearray(payload)
        if self._mask_bit:
            mask(self._key, plain)
        close = ABNF(1, 0, 0, 0, _CLOSE, 0, bytes(plain))
        try:
            close.validate(skip_utf8_validation=True)
        except WebSocketProtocolException as error:
            raise self._broken(f"sent a CLOSE that is none: {error}") from None

    def _broken(self, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"the {self._sender.value} {what}")

    def _unmasked(self, payload: memoryview) -> memoryview:
        """A piece of the present frame's payload, unmasked; what follows goes on with its key."""
        plain = bytearray(payload)
        mask(self._key, plain)
        turn = len(plain) % _KEY_BYTES
        self._key = self._key[turn:] + self._key[:turn]
        return memoryview(plain)


def _place_of_payload(data: bytes, offset: int) -> tuple[int, int]:
    """Where the payload (with a key: the key) of the frame at `offset` starts, and its length.

    0 as the place: more bytes are needed to say.
    """
    start = offset + _SHORT_HEADER_BYTES
    if start > len(data):
        return 0, 0
    length = data[offset + 1] & ~_MASKED
    if length >= _MEDIUM:
        form_bytes = _FORM_BYTES[length]
        start += form_bytes
        if start > len(data):
            return 0, 0
        length = int.from_bytes(data[start - form_bytes : start], "big")
    return start, length


class PingArrived(NamedTuple):
    """A ping, which is due a pong with the same payload (RFC 6455 5.5.3)."""

    payload: bytes


class PongArrived(NamedTuple):
    """A pong, asked for or not, with the payload of its ping."""

    payload: bytes


class CloseArrived(NamedTuple):
    """A CLOSE; its status code and reason say nothing that is defined for tunnels."""


Arrival: TypeAlias = Message | DataBurst | PingArrived | PongArrived | CloseArrived


class WebSocketInput:
    """Turns what a service sends on one connection, in any split, into what arrived with it.

    Attributes:
        reader: takes the frames apart, and knows how much to read at once.
    """

    __slots__ = ("_messages", "reader")

    def __init__(self) -> None:
        self.reader = FrameReader(_SERVICE)
        self._messages = MessageReader()

    def alone(self, data: bytes) -> Message | DataBurst | None:
        """What `data` is, if that is one small WebSocket message with whole frames of the tunnel.

        None else: then nothing was taken, and `data` has to be fed.

        Raises:
            RemoteProtocolError: it is no message of the tunnel.
        """
        payload = self.reader.alone(data)
        return None if payload is None else self._messages.alone(payload)

    def feed(self, data: bytes) -> Iterator[Arrival | None]:
        """Yield what `data` completes, in order, and None for a frame that was read before it.

        Frames may be empty, or hold a byte each: whoever has a budget counts what is yielded, rests
        when it is spent, and goes on with the same iterator, which has to be used up before the
        next call.

        Raises:
            RemoteProtocolError: the service broke the protocol; what came before it was yielded.
        """
        for opcode, payload in self.reader.feed(data):
            if opcode < _FIRST_CONTROL:
                yield None
                for arrival, _frames in self._messages.read(payload):
                    yield arrival
            elif opcode == _PING:
                yield PingArrived(bytes(payload))
            elif opcode == _PONG:
                yield PongArrived(bytes(payload))
            else:
                yield CloseArrived()


# -- writing


def frame_header(opcode: int, size_bytes: int, role: Role) -> bytes:
    """The header of an unfragmented frame; of a client without the key, which follows it."""
    first, mask_bit = _FIN | opcode, _MASKED if role is _CLIENT else 0
    if size_bytes < _MEDIUM:
        return _PACK_SHORT(first, mask_bit | size_bytes)
    if size_bytes < _LARGE:
        return _PACK_MEDIUM(first, mask_bit | _MEDIUM, size_bytes)
    return _PACK_LARGE(first, mask_bit | _MEDIUM + 1, size_bytes)


_KEPT_KEYS = 256
_SPLIT_KEYS = Struct(f"{_KEY_BYTES}s" * _KEPT_KEYS).unpack
_keys: list[bytes] = []
"""Masking keys that nobody has used yet: the kernel is asked for many at once, as it takes longer
than the rest of a small frame. A list, since two threads may take one at the same moment."""
os.register_at_fork(after_in_child=_keys.clear)


def _new_key() -> bytes:
    """A masking key, from the kernel's randomness (RFC 6455 section 5.3)."""
    try:
        return _keys.pop()
    except IndexError:
        fresh = os.urandom(_KEPT_KEYS * _KEY_BYTES)
        _keys.extend(
            fresh[at : at + _KEY_BYTES] for at in range(_KEY_BYTES, len(fresh), _KEY_BYTES)
        )
        return fresh[:_KEY_BYTES]


def encode(role: Role, opcode: int, *parts: bytes | memoryview) -> bytearray:
    """A whole frame, whose payload is put together of parts.

    All of it is one buffer, into which the parts are copied once, and masked in place. The header
    is masked with the rest, as masks work on whole buffers, and then written.
    """
    header = frame_header(opcode, sum(map(len, parts)), role)
    if role is _SERVICE:
        return bytearray().join((header, *parts))
    key = _new_key()
    start = len(header) + _KEY_BYTES
    frame = bytearray().join((header, key, *parts))
    # The first byte of the payload takes the first one of the key, wherever in the frame it is.
    turn = -start % _KEY_BYTES
    mask(key[turn:] + key[:turn], frame)
    frame[:start] = header + key
    return frame


def encode_tunnel_message(message: Message | DataBurst, role: Role = Role.CLIENT) -> bytearray:
    """A whole binary message that holds one message of the tunnel, or those of a burst.

    Raises:
        LocalProtocolError: one does not fit a frame.
    """
    if isinstance(message, DataBurst):
        return encode(role, _BINARY, *burst_parts(message))
    if message.type is not _DATA:
        return encode(role, _BINARY, encode_frame(message))
    before, behind = frame_around(message)
    return encode(role, _BINARY, before, message.payload, behind)


def encode_ping(payload: bytes = b"", role: Role = Role.CLIENT) -> bytearray:
    """A ping, whose answer has the same payload.

    A service sends it without: a payload corrupts the AWS C client's input. See docs/protocol.md
    section 4.
    """
    return encode(role, _PING, payload)


def encode_pong(payload: bytes | memoryview, role: Role = Role.CLIENT) -> bytearray:
    """The answer to a ping with that payload."""
    return encode(role, _PONG, payload)


def encode_close(role: Role = Role.CLIENT) -> bytearray:
    """A CLOSE without status code, which would corrupt the C client's input.

    See docs/protocol.md section 4.
    """
    return encode(role, _CLOSE)
