"""What arrives on a WebSocket, at a client and at a service (actors/transport/codec.py)."""

from __future__ import annotations

from tests.fuzz.harness import Harness, Source, clock_of, cut, is_line
from tunnelfleet.actors.transport.codec import (
    FrameReader,
    Opcode,
    PingArrived,
    ReceivedPiece,
    Role,
    WebSocketInput,
    encode,
    encode_close,
    encode_ping,
    encode_tunnel_message,
)
from tunnelfleet.proto import FrameSplitter, Message, MessageType, RemoteProtocolError

MAX_SHOWN = 400
MOST_HELD_BYTES = 139
MOST_CONTROL_BYTES = 125
RECEIVED = frozenset(Opcode) - {Opcode.TEXT}


def run(data: bytes) -> None:
    source = Source(data)
    role, sizes = source.choose([Role.SERVICE, Role.CLIENT]), source.take(3)
    wire = source.rest()
    whole, error = read(role, [wire])
    split, split_error = read(role, cut(wire, sizes))
    assert error == split_error
    assert joined(whole) == joined(split)
    if role is Role.SERVICE:
        as_client(wire, sizes)
    else:
        as_service(wire, sizes)


def read(role: Role, pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], str]:
    """Take the frames apart; return them, and the text of the error that ended it."""
    reader = FrameReader(role)
    found: list[tuple[int, bytes]] = []
    clock = clock_of(pieces)
    for piece in pieces:
        count = 0
        try:
            with clock:
                for opcode, payload in reader.feed(piece):
                    count += 1
                    check(ReceivedPiece(opcode, payload))
                    found.append((opcode, bytes(payload)))
        except RemoteProtocolError as error:
            assert is_line(str(error), MAX_SHOWN)
            return found, str(error)
        assert count <= (len(piece) + MOST_HELD_BYTES) // 2 + 1
        assert len(reader._partial) <= MOST_HELD_BYTES
    return found, ""


def check(piece: ReceivedPiece) -> None:
    assert piece.opcode in RECEIVED
    if piece.opcode >= Opcode.CLOSE:
        assert len(piece.data) <= MOST_CONTROL_BYTES


def joined(pieces: list[tuple[int, bytes]]) -> tuple[bytes, list[tuple[int, bytes]]]:
    """The bytes of the tunnel, and the control frames: how a frame was cut does not count."""
    data = b"".join(payload for opcode, payload in pieces if opcode < Opcode.CLOSE)
    return data, [each for each in pieces if each[0] >= Opcode.CLOSE]


def as_client(wire: bytes, sizes: bytes) -> None:
    """What the client's side makes of it is the same however it is cut."""
    found, cut_found = arrivals([wire]), arrivals(cut(wire, sizes))
    assert found == cut_found


def arrivals(pieces: list[bytes]) -> list[object]:
    """What arrived, and the error at the end of it."""
    taken = WebSocketInput()
    found: list[object] = []
    clock = clock_of(pieces)
    for piece in pieces:
        try:
            with clock:
                for each in taken.feed(piece):
                    # None is a frame that completes nothing; how many there are depends on the cut.
                    found += [] if each is None else [each]
        except RemoteProtocolError as error:
            return [*found, str(error)]
    assert all(
        len(each.payload) <= MOST_CONTROL_BYTES for each in found if isinstance(each, PingArrived)
    )
    return found


def as_service(wire: bytes, sizes: bytes) -> None:
    """What the service relays is the same however it is cut."""
    assert relayed([wire]) == relayed(cut(wire, sizes))


def relayed(pieces: list[bytes]) -> list[bytes]:
    reader, splitter = FrameReader(Role.CLIENT), FrameSplitter()
    frames: list[bytes] = []
    for piece in pieces:
        try:
            for opcode, payload in reader.feed(piece):
                if opcode < Opcode.CLOSE:
                    frames += map(bytes, splitter.frames(payload))
        except RemoteProtocolError:
            break
    return frames


HELLO = Message(MessageType.DATA, 1, payload=b"hello", service_id="SSH", connection_id=1)


def seed(role: Role) -> bytes:
    return bytes(
        encode_tunnel_message(HELLO, role)
        + encode_ping(b"1234", role)
        + encode(role, Opcode.PONG)
        + encode(role, Opcode.BINARY, b"\0")
        + encode(role, Opcode.BINARY, b"x" * 300)
        + encode_close(role)
    )


HARNESS = Harness(
    run=run,
    covers=["actors/transport/codec.py"],
    seeds=[
        b"\0\1\2\3" + seed(Role.SERVICE),
        b"\1\1\2\3" + seed(Role.CLIENT),
        b"\0\7\1\1\x02\1\0\x80\0\x89\0\x88\2\3\xe8",
        b"\1\7\1\1\x82\xff\0\0\0\0\0\2\0\0abcd",
    ],
    words=[b"\x82\x7e", b"\x82\xff", b"\x88\x02\x03\xe8", b"\x89\x80", b"\x02\x01", b"\x80\x00"],
    max_bytes=1_024,
)
