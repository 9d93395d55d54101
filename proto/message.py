"""Messages of a tunnel and their protobuf form (docs/protocol.md section 2).

Owns the translation between `Message` and bytes, so that the generated code is seen nowhere else.
Knows no frames (`framing`), and does not judge whether a message is allowed where it is.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from .compat import tunnel_pb2
from .errors import LocalProtocolError, RemoteProtocolError

MAX_PAYLOAD_BYTES = 64_512
"""The largest payload of one message."""


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
