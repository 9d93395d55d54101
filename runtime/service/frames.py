"""Tunnel frames as the service sees them: kept as they were sent, and judged.

Owns splitting a client's bytes into frames and the rule of who may send what (PROTOCOL.md
section 2). Pure; must not know connections or tunnels.
"""

from __future__ import annotations

from typing import Final

from tunnelfleet.proto import (
    MAX_PAYLOAD_BYTES,
    Message,
    MessageType,
    Mode,
    RemoteProtocolError,
)

_PREFIX_BYTES: Final = 2


class FrameSplitter:
    """Splits a client's byte stream into tunnel frames and keeps their bytes as they were sent.

    Unlike ``FrameDecoder`` it returns the frames themselves, since the service relays them
    unchanged. Bounded: it holds at most one partial frame (65,537 bytes).
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """Bytes of a frame that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray) -> list[bytes]:
        """Return the frames that are complete now, each with its 2-byte length."""
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        position, available = 0, len(buffer)
        with memoryview(buffer) as view:
            while available - position >= _PREFIX_BYTES:
                end = position + _PREFIX_BYTES + (buffer[position] << 8 | buffer[position + 1])
                if end > available:
                    break
                frames.append(bytes(view[position:end]))
                position = end
        del buffer[:position]
        return frames


_BOTH: Final = frozenset(Mode)
_SOURCE: Final = frozenset({Mode.SOURCE})
_SENDERS: Final[dict[int, frozenset[Mode]]] = {
    MessageType.DATA: _BOTH,
    MessageType.STREAM_START: _SOURCE,
    MessageType.STREAM_RESET: _BOTH,
    MessageType.CONNECTION_START: _SOURCE,
    MessageType.CONNECTION_RESET: _BOTH,
}


def check_message(message: Message, sender: Mode) -> bool:
    """Say whether a client's message is to be relayed; False: skip it.

    Raises:
        RemoteProtocolError: its sender may not send it, or it cannot be (PROTOCOL.md section 2).
    """
    senders = _SENDERS.get(message.type)
    if senders is None:
        return _check_unknown(message)
    if sender not in senders:
        raise RemoteProtocolError(f"a {sender} sent {_name(message)}")
    if len(message.payload) > MAX_PAYLOAD_BYTES:
        raise RemoteProtocolError(f"payload of {len(message.payload)} bytes")
    if message.type is MessageType.STREAM_START and message.stream_id == 0:
        raise RemoteProtocolError("STREAM_START with stream id 0")
    return True


def _check_unknown(message: Message) -> bool:
    if message.ignorable and message.type not in _SERVICE_ONLY:
        return False
    raise RemoteProtocolError(f"a client sent {_name(message)}")


_SERVICE_ONLY: Final = frozenset({MessageType.SERVICE_IDS, MessageType.SESSION_RESET})


def _name(message: Message) -> str:
    if isinstance(message.type, MessageType):
        return message.type.name
    return f"a message of unknown type {message.type}"
