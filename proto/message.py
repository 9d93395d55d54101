"""Messages of a tunnel and their bytes: protobuf in frames (docs/protocol.md section 2).

Owns the translation between `Message` and bytes, so that the generated code is seen nowhere else,
and the frames: a 2-byte big-endian length, then one message. Parsing survives any split of its
input. Knows no WebSocket, and does not judge whether a message is allowed where it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from . import tunnel_pb2
from .errors import LocalProtocolError, PayloadTooLarge, RemoteProtocolError
from .modes import ProtocolVersion

MAX_PAYLOAD_BYTES = 64_512
"""The largest payload of one message."""
MAX_FRAME_BYTES = 65_535
"""The largest message in its protobuf form: what the length prefix can say."""
MAX_WEBSOCKET_PAYLOAD_BYTES = 131_076
"""The largest payload of one WebSocket frame, each way (docs/protocol.md section 1)."""

TUNNEL_PREFIX_BYTES = 2
"""The length in front of each message."""


class MessageType(IntEnum):
    """What a message says, by its number on the wire."""

    UNKNOWN = 0
    DATA = 1
    STREAM_START = 2
    STREAM_RESET = 3
    SESSION_RESET = 4
    SERVICE_IDS = 5
    CONNECTION_START = 6
    CONNECTION_RESET = 7


class Message(NamedTuple):
    """One message. A field at its default is absent on the wire.

    A tuple, as one is made for every DATA in each direction.

    Args:
        type: what it says; a bare int if this side does not know the number.
        stream_id: the stream, never 0 where there is one.
        ignorable: whether a receiver that does not know the type may skip it.
        payload: the bytes of a DATA.
        service_id: the service, absent in V1.
        available_service_ids: the services of a SERVICE_IDS.
        connection_id: the connection, absent in V1 and V2.
    """

    type: MessageType | int
    stream_id: int = 0
    ignorable: bool = False
    payload: bytes = b""
    service_id: str = ""
    available_service_ids: tuple[str, ...] = ()
    connection_id: int = 0

    def __repr__(self) -> str:
        """Name the fields that are set. Of the payload only the length: it belongs to the user."""
        fields = [str(getattr(self.type, "name", self.type))]
        names = ("stream_id", "service_id", "connection_id", "available_service_ids")
        fields += [f"{name}={value!r}" for name in names if (value := getattr(self, name))]
        if self.payload:
            fields.append(f"payload=<{len(self.payload)} bytes>")
        if self.ignorable:
            fields.append("ignorable")
        return f"Message({', '.join(fields)})"


def shape_of(message: Message) -> ProtocolVersion:
    """Return the version that the ids of `message` speak (docs/protocol.md section 3)."""
    if message.connection_id:
        return ProtocolVersion.V3
    return ProtocolVersion.V2 if message.service_id else ProtocolVersion.V1


_WireMessage = tunnel_pb2.Message
_TYPES = tuple(MessageType)
_TYPE_COUNT = len(_TYPES)
_parse = _WireMessage.FromString


def encode_message(message: Message) -> bytes:
    """Return the protobuf form of `message`, without a length prefix.

    Raises:
        LocalProtocolError: a field does not fit its type on the wire.
    """
    type_, stream_id, ignorable, payload, service_id, available, connection_id = message
    try:
        # Absent fields are not even set: twice as fast as giving all of them to the constructor.
        wire = _WireMessage(
            type=type_,  # type: ignore[arg-type]  # proto3 enums are open: any number goes
            streamId=stream_id,
            payload=payload,
        )
        if service_id:
            wire.serviceId = service_id
        if connection_id:
            wire.connectionId = connection_id
        if available:
            wire.availableServiceIds.extend(available)
        if ignorable:
            wire.ignorable = True
    except ValueError as error:
        # The library's own text is not used, since it may quote the value.
        raise LocalProtocolError(
            "a message field is out of its range: stream ids are 32-bit signed, connection ids "
            "32-bit unsigned, service ids valid Unicode"
        ) from error
    return wire.SerializeToString()


def encode_frame(message: Message) -> bytes:
    """Return `message` as one frame.

    Raises:
        PayloadTooLarge: its payload is above `MAX_PAYLOAD_BYTES`.
        LocalProtocolError: it does not fit a frame for another reason.
    """
    if len(message.payload) > MAX_PAYLOAD_BYTES:
        raise PayloadTooLarge(len(message.payload), MAX_PAYLOAD_BYTES)
    body = encode_message(message)
    if len(body) > MAX_FRAME_BYTES:
        raise _frame_too_large(len(body))
    return len(body).to_bytes(TUNNEL_PREFIX_BYTES, "big") + body


def frame_around(message: Message) -> tuple[bytes, bytes]:
    """Return what the frame of a DATA has before its payload, and what behind it.

    With the payload in between that is `encode_frame(message)`, byte for byte; but the payload,
    which may be large, is not copied: whoever calls puts all of it into a buffer of its own.

    Raises:
        PayloadTooLarge: its payload is above `MAX_PAYLOAD_BYTES`.
        LocalProtocolError: it does not fit a frame for another reason.
    """
    payload_bytes = len(message.payload)
    if payload_bytes > MAX_PAYLOAD_BYTES:
        raise PayloadTooLarge(payload_bytes, MAX_PAYLOAD_BYTES)
    _, stream_id, ignorable, payload, service_id, _, connection_id = message
    before = _fields_before(stream_id, ignorable)
    if payload:
        before += _payload_header(payload_bytes)
    behind = _fields_behind(service_id, connection_id)
    size = len(before) + payload_bytes + len(behind)
    if size > MAX_FRAME_BYTES:
        raise _frame_too_large(size)
    return size.to_bytes(TUNNEL_PREFIX_BYTES, "big") + before, behind


def _frame_too_large(size: int) -> LocalProtocolError:
    return LocalProtocolError(
        f"a message of {size} bytes is above the limit of {MAX_FRAME_BYTES}: "
        "its service ids are too long"
    )


PAYLOAD_TAG = b"\x22"
"""Field 4, with a length before it."""
_KEPT = 1_024
"""For how many streams, connections and sizes the encoded fields are kept."""


@lru_cache(_KEPT)
def _fields_before(stream_id: int, ignorable: bool) -> bytes:
    return encode_message(Message(MessageType.DATA, stream_id, ignorable))


@lru_cache(_KEPT)
def _fields_behind(service_id: str, connection_id: int) -> bytes:
    number = Message(MessageType.UNKNOWN, service_id=service_id, connection_id=connection_id)
    return encode_message(number)


@lru_cache(_KEPT)
def _payload_header(size: int) -> bytes:
    """Return the tag, and the size as a varint: seven bits a byte, the low ones first."""
    header = bytearray(PAYLOAD_TAG)
    while size > 0x7F:
        header.append(size & 0x7F | 0x80)
        size >>= 7
    header.append(size)
    return bytes(header)


def decode_message(body: bytes | bytearray | memoryview, *, strict: bool = False) -> Message:
    """Return the message whose protobuf form is `body`.

    Args:
        body: one message, without a length prefix.
        strict: also refuse fields that are not in the schema. The service does that
            (docs/protocol.md section 2); a client lets them pass.

    Raises:
        RemoteProtocolError: `body` is not a message, or its payload is too large.
    """
    try:
        wire = _parse(body)  # type: ignore[arg-type]  # takes any buffer; its stub says bytes
    except DecodeError:
        raise RemoteProtocolError("the peer sent a frame that is not a tunnel message") from None
    if strict and len(UnknownFieldSet(wire)):
        raise RemoteProtocolError("the peer sent a message with a field that is not in the schema")
    number: int = wire.type
    payload = wire.payload
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise RemoteProtocolError(
            f"the peer sent a payload of {len(payload)} bytes, "
            f"above the limit of {MAX_PAYLOAD_BYTES}"
        )
    return Message(
        _TYPES[number] if 0 <= number < _TYPE_COUNT else number,
        wire.streamId,
        wire.ignorable,
        payload,
        wire.serviceId,
        tuple(wire.availableServiceIds) if number == MessageType.SERVICE_IDS else (),
        wire.connectionId,
    )


class FrameSplitter:
    """Splits the byte stream of one WebSocket connection into tunnel frames.

    Use a new one for every connection: a partial frame dies with its connection. It holds at most
    one partial frame (65,536 bytes), whatever it is fed.
    """

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """How much of an incomplete frame is held."""
        return len(self._partial)

    def frames(self, data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
        """Yield each frame that `data` completes, with its length, as it was sent.

        They are views: of `data` where it came whole. The iterator has to be used up before the
        next call.
        """
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted_bytes():
                return
            # A new bytearray frees the memory of one that has grown.
            data, self._partial = self._partial, bytearray()
        view, offset, size = memoryview(data), 0, len(data)
        while size - offset >= TUNNEL_PREFIX_BYTES:
            stop = offset + TUNNEL_PREFIX_BYTES + (view[offset] << 8 | view[offset + 1])
            if stop > size:
                break
            yield view[offset:stop]
            offset = stop
        if offset < size:
            self._partial = bytearray(view[offset:])

    def _wanted_bytes(self) -> int:
        if len(self._partial) < TUNNEL_PREFIX_BYTES:
            return TUNNEL_PREFIX_BYTES
        return TUNNEL_PREFIX_BYTES + (self._partial[0] << 8 | self._partial[1])


class FrameDecoder:
    """Turns the bytes of one WebSocket connection into messages.

    Use a new one for every connection. After an error it raises on every call.

    Args:
        strict: refuse fields that are not in the schema, as the service does.
    """

    __slots__ = ("_failure", "_splitter", "_strict")

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._splitter = FrameSplitter()
        self._failure = ""

    @property
    def buffered_bytes(self) -> int:
        """How much of an incomplete frame is held."""
        return self._splitter.buffered_bytes

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Take the payload of a WebSocket message, or a part of it; return what that completes.

        Raises:
            RemoteProtocolError: a frame is not a message or its payload is too large. Messages that
                came before it in `data` are lost, as all streams of this connection are.
        """
        if self._failure:
            raise RemoteProtocolError(self._failure)
        try:
            return [
                decode_message(frame[TUNNEL_PREFIX_BYTES:], strict=self._strict)
                for frame in self._splitter.frames(data)
            ]
        except RemoteProtocolError as error:
            self._failure = str(error)
            self._splitter = FrameSplitter()
            raise
