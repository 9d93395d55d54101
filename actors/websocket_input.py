"""What the service sends, read as a tunnel understands it (PROTOCOL.md section 1).

Owns the WebSocket frame and the tunnel frame that are not complete yet. Tunnel frames may lie in
WebSocket messages in any way, so the two are read one behind the other. Pure: it knows no socket
and no actor, and answers nothing; what follows from an arrival is WebSocketActor's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from websocket import ABNF

from tunnelfleet.proto import FrameDecoder, Message, RemoteProtocolError

from .websocket_frames import FrameReader

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Arrival", "CloseArrived", "PingArrived", "PongArrived", "WebSocketInput"]


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
                raise RemoteProtocolError("the service sent a text message (PROTOCOL.md section 1)")
