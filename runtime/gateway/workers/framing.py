"""Messages between a gateway and its worker processes, as bytes: a length, then JSON.

Owns the form and its bounds. Pure: it reads and writes no socket. The two ends are of one version,
for the gateway starts its workers itself; whatever does not follow the form is a bug, and ends the
connection.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

__all__ = ["MAX_FRAME_BYTES", "FrameError", "MessageDecoder", "encode_frame"]

MAX_FRAME_BYTES: Final = 16_777_216
"""Of one message; a report on tunnels is cut into several."""
_LENGTH: Final = struct.Struct(">I")


class FrameError(Exception):
    """What came is not a message."""


def encode_frame(message: dict[str, Any]) -> bytes:
    """A message as bytes.

    Raises:
        FrameError: it is too long.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a message has {len(body)} bytes; at most {MAX_FRAME_BYTES} are possible")
    return _LENGTH.pack(len(body)) + body


class MessageDecoder:
    """Makes messages of bytes, however they are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take bytes; returns the messages that are whole.

        Raises:
            FrameError: a length is beyond the limit, or a body is no JSON object.
        """
        self._buffer += data
        found = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a message of {length} bytes is announced")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            found.append(_parse(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return found


def _parse(body: bytearray) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise FrameError("a message is no JSON") from None
    if not isinstance(found, dict):
        raise FrameError("a message is no JSON object")
    return found
