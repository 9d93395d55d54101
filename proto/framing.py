"""Tunnel frames: a 2-byte big-endian length, then one message (docs/protocol.md section 2).

Owns the byte stream between the WebSocket and the messages: parsing survives any split of its
input. Knows no WebSocket, and does not judge whether a message is allowed where it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from .errors import LocalProtocolError, PayloadTooLarge, RemoteProtocolError
from .message import Message, data_around, decode_message, encode_message

MAX_PAYLOAD_BYTES = 64_512
"""The largest payload of one message."""
MAX_FRAME_BYTES = 65_535
"""The largest message in its protobuf form: what the length prefix can say."""
MAX_WEBSOCKET_PAYLOAD_BYTES = 131_076
"""The largest payload of one WebSocket frame, each way (docs/protocol.md section 1)."""

_PREFIX_BYTES = 2


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
    return len(body).to_bytes(_PREFIX_BYTES, "big") + body


def frame_around(message: Message) -> tuple[bytes, bytes]:
    """Return what the frame of a DATA has before its payload, and what behind it.

    With the payload in between that is `encode_frame(message)`, byte for byte, for whoever puts all
    of it into a buffer of its own.

    Raises:
        PayloadTooLarge: its payload is above `MAX_PAYLOAD_BYTES`.
        LocalProtocolError: it does not fit a frame for another reason.
    """
    payload_bytes = len(message.payload)
    if payload_bytes > MAX_PAYLOAD_BYTES:
        raise PayloadTooLarge(payload_bytes, MAX_PAYLOAD_BYTES)
    before, behind = data_around(message)
    size = len(before) + payload_bytes + len(behind)
    if size > MAX_FRAME_BYTES:
        raise _frame_too_large(size)
    return size.to_bytes(_PREFIX_BYTES, "big") + before, behind


def _frame_too_large(size: int) -> LocalProtocolError:
    return LocalProtocolError(
        f"a message of {size} bytes is above the limit of {MAX_FRAME_BYTES}: "
        "its service ids are too long"
    )


class FrameDecoder:
    """Turns the bytes of one WebSocket connection into messages.

    Use a new one for every connection: a partial frame dies with its connection. It holds at most
    one partial frame, whatever it is fed. After an error it raises on every call.

    Args:
        strict: refuse fields that are not in the schema, as the service does.
    """

    __slots__ = ("_failure", "_partial", "_strict")

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._partial = bytearray()
        self._failure = ""

    @property
    def buffered_bytes(self) -> int:
        """How much of an incomplete frame is held."""
        return len(self._partial)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Take the payload of a WebSocket message, or a part of it; return what that completes.

        Raises:
            RemoteProtocolError: a frame is not a message or its payload is too large. Messages that
                came before it in `data` are lost, as all streams of this connection are.
        """
        return list(self.iterate(data))

    def iterate(self, data: bytes | bytearray | memoryview) -> Iterator[Message]:
        """Do as `feed` does, one message at a time, so that a caller may pause in between.

        The iterator has to be used up before the next call.

        Raises:
            RemoteProtocolError: as `feed`, but what came before it has been yielded.
        """
        if self._failure:
            raise RemoteProtocolError(self._failure)
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted_bytes():
                return
            data = bytes(self._partial)
        offset, size = 0, len(data)
        try:
            while size - offset >= _PREFIX_BYTES:
                start = offset + _PREFIX_BYTES
                stop = start + (data[offset] << 8 | data[offset + 1])
                if stop > size:
                    break
                yield self._decode(data[start:stop])
                offset = stop
        except RemoteProtocolError as error:
            self._failure = str(error)
            self._partial = bytearray()
            raise
        # A new bytearray frees the memory of one that has grown.
        self._partial = bytearray(data[offset:])

    def _wanted_bytes(self) -> int:
        if len(self._partial) < _PREFIX_BYTES:
            return _PREFIX_BYTES
        return _PREFIX_BYTES + (self._partial[0] << 8 | self._partial[1])

    def _decode(self, body: bytes | bytearray | memoryview) -> Message:
        message = decode_message(body, strict=self._strict)
        if len(message.payload) > MAX_PAYLOAD_BYTES:
            raise RemoteProtocolError(
                f"the peer sent a payload of {len(message.payload)} bytes, "
                f"above the limit of {MAX_PAYLOAD_BYTES}"
            )
        return message
