"""Frames, and the byte stream that they make (docs/protocol.md section 2).

A frame is a 2-byte big-endian length, then one message. Owns how messages become frames and frames
messages again, in any split, and bursts: DATA that follow each other on a connection have the same
bytes but for payload and sizes, so one is parsed, and the others are compared with it. Pure; knows
no WebSocket.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from .errors import LocalProtocolError, PayloadTooLarge, RemoteProtocolError
from .message import (
    MAX_PAYLOAD_BYTES,
    Message,
    MessageType,
    decode_message,
    encode_message,
)

MAX_FRAME_BYTES = 65_535
"""The largest message in its protobuf form: what the length prefix can say."""
MAX_WEBSOCKET_PAYLOAD_BYTES = 131_076
"""The largest payload of one WebSocket frame, each way (docs/protocol.md section 1)."""

TUNNEL_PREFIX_BYTES = 2
"""The length in front of each message."""


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
    _, stream_id, ignorable, payload, service_id, _, connection_id = message
    return _around(len(payload), stream_id, ignorable, service_id, connection_id)


def data_head(like: Message, frame_bytes: int) -> bytes:
    """Return what a frame has before its payload, if it is a DATA that has so many bytes.

    Args:
        like: a DATA that differs from it in nothing but its payload.
        frame_bytes: its length, without the prefix that says so.

    Returns:
        The prefix and the fields; empty if no such DATA with a payload has that length.
    """
    before = _fields_before(like.stream_id, like.ignorable)
    behind = _fields_behind(like.service_id, like.connection_id)
    rest_bytes = frame_bytes - len(before) - len(behind)
    for header_bytes in _PAYLOAD_HEADER_BYTES:
        size = rest_bytes - header_bytes
        if 0 < size <= MAX_PAYLOAD_BYTES:
            header = _payload_header(size)
            if len(header) == header_bytes:
                return frame_bytes.to_bytes(TUNNEL_PREFIX_BYTES, "big") + before + header
    return b""


def _frame_too_large(size: int) -> LocalProtocolError:
    return LocalProtocolError(
        f"a message of {size} bytes is above the limit of {MAX_FRAME_BYTES}: "
        "its service ids are too long"
    )


PAYLOAD_TAG = b"\x22"
"""Field 4, with a length before it."""
_PAYLOAD_HEADER_BYTES = (2, 3, 4)
"""How long the tag and the length of a payload may be together."""
_KEPT = 1_024
"""For how many streams, connections and sizes the encoded fields are kept."""


@lru_cache(_KEPT)
def _around(
    payload_bytes: int, stream_id: int, ignorable: bool, service_id: str, connection_id: int
) -> tuple[bytes, bytes]:
    if payload_bytes > MAX_PAYLOAD_BYTES:
        raise PayloadTooLarge(payload_bytes, MAX_PAYLOAD_BYTES)
    before = _fields_before(stream_id, ignorable)
    if payload_bytes:
        before += _payload_header(payload_bytes)
    behind = _fields_behind(service_id, connection_id)
    size = len(before) + payload_bytes + len(behind)
    if size > MAX_FRAME_BYTES:
        raise _frame_too_large(size)
    return size.to_bytes(TUNNEL_PREFIX_BYTES, "big") + before, behind


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


class FrameSplitter:
    """Splits the byte stream of one WebSocket connection into tunnel frames.

    Use a new one for every connection: a partial frame dies with its connection. It holds at most
    one partial frame (65,536 bytes), whatever it is fed.
    """

    __slots__ = ("partial",)

    def __init__(self) -> None:
        self.partial = bytearray()
        """What has come of an incomplete frame."""

    @property
    def buffered_bytes(self) -> int:
        """How much of an incomplete frame is held."""
        return len(self.partial)

    def frames(self, data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
        """Yield each frame that `data` completes, with its length, as it was sent.

        They are views: of `data` where it came whole. The iterator has to be used up before the
        next call.
        """
        if self.partial:
            self.partial += data
            if len(self.partial) < self._wanted_bytes():
                return
            # A new bytearray frees the memory of one that has grown.
            data, self.partial = self.partial, bytearray()
        view, offset, size = memoryview(data), 0, len(data)
        while size - offset >= TUNNEL_PREFIX_BYTES:
            stop = offset + TUNNEL_PREFIX_BYTES + (view[offset] << 8 | view[offset + 1])
            if stop > size:
                break
            yield view[offset:stop]
            offset = stop
        if offset < size:
            self.partial = bytearray(view[offset:])

    def _wanted_bytes(self) -> int:
        if len(self.partial) < TUNNEL_PREFIX_BYTES:
            return TUNNEL_PREFIX_BYTES
        return TUNNEL_PREFIX_BYTES + (self.partial[0] << 8 | self.partial[1])


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


JOINED_BYTES = 4_096
"""DATA are joined up to this size, and looked for as joined in what is no larger.

Peers take several in one WebSocket message, but not large ones (docs/protocol.md section 4,
localproxy 5)."""
_KEPT_HEADS = 64
"""For so many lengths of frames what they begin with is kept."""
_NEVER = MAX_FRAME_BYTES * 2


class DataBurst(NamedTuple):
    """DATA of one connection in a row, each a message of its own.

    Args:
        message: the first.
        more: the payloads of the others, which differ from it in nothing else.
    """

    message: Message
    more: list[bytes]

    @property
    def payload_bytes(self) -> int:
        """The sizes of all payloads."""
        return len(self.message.payload) + sum(map(len, self.more))

    def messages(self) -> Iterator[Message]:
        """Yield each."""
        yield self.message
        for payload in self.more:
            yield self.message._replace(payload=payload)


def burst_parts(burst: DataBurst) -> list[bytes]:
    """Return the parts that joined are the frames of a burst: `encode_frame` of each message.

    Raises:
        LocalProtocolError: one does not fit a frame.
    """
    message = burst.message
    parts: list[bytes] = []
    before, size = b"", -1
    behind = frame_around(message)[1]
    for payload in (message.payload, *burst.more):
        if len(payload) != size:
            before, size = frame_around(message._replace(payload=payload))[0], len(payload)
        parts += (before, payload, behind)
    return parts


class _Familiar:
    """The DATA of one connection as bytes: what stands before each payload, and what behind it.

    Args:
        message: a DATA with a payload.
    """

    __slots__ = ("_behind", "_fields_after", "_fields_before", "_heads", "_like")

    def __init__(self, message: Message) -> None:
        self._like = message
        self._fields_before = message[:3]
        self._fields_after = message[4:]
        self._behind = frame_around(message)[1]
        self._heads: dict[bytes, tuple[bytes, int]] = {}

    def take(self, data: bytes) -> tuple[Message | DataBurst | None, int]:
        """Return those whose frames `data` begins with, and how long these are."""
        prefix = data[:TUNNEL_PREFIX_BYTES]
        head, size = self._heads.get(prefix) or self._add_head(prefix)
        if size == len(data) and data.startswith(head) and data.endswith(self._behind):
            # It is one message, as nearly always.
            payload = data[len(head) : size - len(self._behind)]
            return Message(*self._fields_before, payload, *self._fields_after), size
        return self._take_several(data)

    def _take_several(self, data: bytes) -> tuple[Message | DataBurst | None, int]:
        behind, behind_bytes, heads = self._behind, len(self._behind), self._heads
        payloads: list[bytes] = []
        offset, limit = 0, len(data)
        while offset < limit:
            prefix = data[offset : offset + TUNNEL_PREFIX_BYTES]
            head, size = heads.get(prefix) or self._add_head(prefix)
            stop = offset + size
            end = stop - behind_bytes
            if stop > limit or not (data.startswith(head, offset) and data.startswith(behind, end)):
                break
            payloads.append(data[offset + len(head) : end])
            offset = stop
        if not payloads:
            return None, 0
        message = Message(*self._fields_before, payloads[0], *self._fields_after)
        return DataBurst(message, payloads[1:]) if len(payloads) > 1 else message, offset

    def take_large(self, frame: memoryview) -> Message | None:
        """Return the message of a frame, whose payload alone is copied; None if it is another's."""
        prefix = bytes(frame[:TUNNEL_PREFIX_BYTES])
        head, size = self._heads.get(prefix) or self._add_head(prefix)
        end = size - len(self._behind)
        if size != len(frame) or frame[: len(head)] != head or frame[end:] != self._behind:
            return None
        return Message(*self._fields_before, bytes(frame[len(head) : end]), *self._fields_after)

    def _add_head(self, prefix: bytes) -> tuple[bytes, int]:
        """Return what a frame of that length begins with, and the length with the prefix."""
        size = int.from_bytes(prefix, "big")
        head = data_head(self._like, size) if len(prefix) == TUNNEL_PREFIX_BYTES else b""
        if len(self._heads) >= _KEPT_HEADS:
            self._heads.clear()
        # What is none of them is longer than all there is.
        found = head, TUNNEL_PREFIX_BYTES + size if head else _NEVER
        self._heads[prefix] = found
        return found


class MessageReader:
    """Turns the byte stream of one WebSocket connection into messages, and bursts of DATA.

    Use a new one for every connection: a partial frame dies with its connection. It holds at most
    one partial frame (65,536 bytes), whatever it is fed.

    Args:
        strict: refuse fields that are not in the schema, as the service does.
    """

    __slots__ = ("_familiar", "_last", "_splitter", "_strict", "_tried")

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._splitter = FrameSplitter()
        self._familiar: _Familiar | None = None
        self._last: tuple[object, ...] = ()
        """The fields of the last DATA that was parsed, but its payload."""
        self._tried: tuple[object, ...] = ()
        """The same of the last one whose bytes were looked at."""

    def alone(self, data: bytes) -> Message | DataBurst | None:
        """What the payload of a small WebSocket message is, if one message or one burst.

        None else: then nothing was taken, and `data` has to be read.

        Raises:
            RemoteProtocolError: it is a frame, and not a message.
        """
        if self._splitter.partial:
            return None
        if self._familiar is not None:
            item, size = self._familiar.take(data)
            if size == len(data):
                return item
        frame_bytes = TUNNEL_PREFIX_BYTES + int.from_bytes(data[:TUNNEL_PREFIX_BYTES], "big")
        return self._parse(memoryview(data)) if frame_bytes == len(data) else None

    def read(self, data: memoryview) -> Iterator[tuple[Message | DataBurst, memoryview]]:
        """Yield each message or burst that `data` completes, with its frames as they were sent.

        The frames are a view: of `data` where they came whole. The iterator has to be used up
        before the next call.

        Raises:
            RemoteProtocolError: a frame is not a message or its payload is too large.
        """
        familiar = self._familiar
        if familiar is not None and len(data) <= JOINED_BYTES and not self._splitter.partial:
            item, size = familiar.take(bytes(data))
            if item is not None:
                yield item, data[:size]
                if size == len(data):
                    return
                data = data[size:]
        for frame in self._splitter.frames(data):
            yield self._parse(frame), frame

    def _parse(self, frame: memoryview) -> Message:
        if self._familiar is not None and len(frame) > JOINED_BYTES:
            # The library would copy the payload twice.
            found = self._familiar.take_large(frame)
            if found is not None:
                return found
        message = decode_message(frame[TUNNEL_PREFIX_BYTES:], strict=self._strict)
        if message.payload and message.type is MessageType.DATA:
            fields = (*message[:3], *message[4:])
            if fields != self._last:
                self._last = fields
            elif fields != self._tried:
                # The second in a row: more are to be expected.
                self._tried = fields
                self._familiar = _familiar(message, frame)
        return message


def _familiar(message: Message, frame: memoryview) -> _Familiar | None:
    """Remember the bytes of a DATA, if they are those that this side would send."""
    before, behind = frame_around(message)
    is_usual = frame.tobytes() == b"".join((before, message.payload, behind))
    return _Familiar(message) if is_usual else None
