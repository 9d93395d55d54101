"""WebSocket frames, built by RFC 6455 section 5.2 and by no code of the project."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import websocket

    from tunnelfleet.actors.transport.codec import ReceivedPiece

ZERO_MASK = bytes(4)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    mask: bytes = b"",
    rsv: int = 0,
    length_form: int | None = None,
) -> bytes:
    """A frame as RFC 6455 5.2 draws it; `length_form` forces a longer form of the length."""
    size = len(payload)
    form = length_form or (7 if size < 126 else 16 if size < 65_536 else 64)
    if form == 7:
        short, extended = size, b""
    elif form == 16:
        short, extended = 126, size.to_bytes(2, "big")
    else:
        short, extended = 127, size.to_bytes(8, "big")
    masked = (
        bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload)) if mask else payload
    )
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    return bytes([first, (0x80 if mask else 0) | short]) + extended + mask + masked


def masked(
    opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes = ZERO_MASK
) -> bytes:
    """A frame of a client. The mask is zero unless given, to spare a test the masking."""
    return frame(opcode, payload, fin=fin, mask=mask)


def data_of(frame: websocket.ABNF | ReceivedPiece) -> bytes:
    """The payload of a frame; websocket-client says that it may be text, which it never is here."""
    assert not isinstance(frame.data, str)
    return bytes(frame.data)
