"""WebSocket frames of a service that goes wrong, and floods of frames.

What RFC 6455 and docs/protocol.md section 1 forbid costs the connection, which is made again; what
they allow is taken in any form; and what a flood asks for waits in bounded memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.content import MIB
from tests.support.faulty_server import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RESERVED_BIT,
    TEXT,
    ScriptedService,
    frame_head,
    websocket_frame,
)
from tests.support.memory import rss_bytes
from tests.support.waiting import WAIT_SECONDS, eventually
from tests.support.witness import (
    QUICKLY_BACK,
    open_alone,
    reasons_of,
    undisturbed,
)
from tunnelfleet.proto import Message, MessageType, encode_frame
from tunnelfleet.runtime import Mode
from tunnelfleet.runtime import TunnelState as State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.faulty_server import FaultyPeer
    from tests.support.rig import Rig

pytestmark = pytest.mark.usefixtures("streams_from_1")

T = MessageType
STALE_DATA = Message(T.DATA, 9, payload=b"x" * 99, service_id="SSH", connection_id=1)


class TestScriptedFrames:
    """WebSocket frames that only a service without a WebSocket library sends."""

    BAD = {
        "a masked frame": websocket_frame(BINARY, b"", masked=True),
        "a reserved bit": websocket_frame(BINARY, b"", first_bits=FIN | RESERVED_BIT),
        "an unknown opcode": websocket_frame(3, b""),
        "a text message in pieces": websocket_frame(TEXT, b"a", first_bits=0),
        "a continuation of nothing": websocket_frame(CONTINUATION, b""),
        "a start within a message": websocket_frame(BINARY, b"", first_bits=0)
        + websocket_frame(BINARY, b""),
        "a ping in pieces": websocket_frame(PING, b"", first_bits=0),
        "a long ping": websocket_frame(PING, bytes(126)),
        "a length of 2 ** 63": frame_head(BINARY, 2**63 - 1),
        "a length of 2 ** 64 - 1": frame_head(BINARY, 2**64 - 1),
    }

    def lost_after(self, rig: Rig, send: Callable[[FaultyPeer], None]) -> str:
        """What a source says of the connection on which that was sent; the next one is kept."""

        def badly(peer: FaultyPeer) -> None:
            peer.upgrade()
            send(peer)
            peer.wait_closed()

        def well(peer: FaultyPeer) -> None:
            peer.upgrade()
            peer.announce("SSH")
            peer.wait_closed()

        with ScriptedService(badly, well) as service:
            limits = replace(QUICKLY_BACK, announce_timeout_seconds=1.0)
            tunnel = open_alone(rig, service.endpoint, limits=limits)
            eventually(lambda: tunnel.status().connect_attempts >= 2, "a second attempt")
            tunnel.wait_for(State.CONNECTED, WAIT_SECONDS)
            reason = reasons_of(rig, tunnel)[-1]
            rig.runtime.close_tunnel(tunnel.name)
        return reason

    def test_bad_frames(self, plain_rig: Rig) -> None:
        with undisturbed(plain_rig) as witness:
            for what, frames in self.BAD.items():

                def send(peer: FaultyPeer, frames: bytes = frames) -> None:
                    peer.announce("SSH")
                    peer.send(frames)

                reason = self.lost_after(plain_rig, send)
                assert reason.startswith("the service "), (what, reason)
                witness.check()

    def test_no_service_ids(self, plain_rig: Rig) -> None:
        with undisturbed(plain_rig):
            reason = self.lost_after(plain_rig, lambda _peer: None)
        assert "no SERVICE_IDS within 1 s" in reason

    def test_data_before_service_ids(self, plain_rig: Rig) -> None:
        with undisturbed(plain_rig):
            reason = self.lost_after(plain_rig, lambda peer: peer.message(STALE_DATA))
        assert "before the services were announced" in reason

    def test_good_frames_in_any_form(self, plain_rig: Rig) -> None:
        """Fragments, control frames between them, an unasked pong, a frame over two messages."""
        stale = encode_frame(STALE_DATA)

        def script(peer: FaultyPeer) -> None:
            peer.upgrade()
            ids = encode_frame(Message(T.SERVICE_IDS, available_service_ids=("SSH",)))
            peer.send(websocket_frame(BINARY, ids[:3], first_bits=0))
            peer.send(websocket_frame(PING, b"between"))
            peer.send(websocket_frame(CONTINUATION, b"", first_bits=0))
            peer.send(websocket_frame(CONTINUATION, ids[3:] + stale + stale[:5]))
            peer.send(websocket_frame(PONG, b"unasked"))
            for byte in stale[5:]:
                peer.send(websocket_frame(BINARY, bytes([byte])))
            peer.wait_closed()

        with ScriptedService(script) as service:
            tunnel = open_alone(plain_rig, service.endpoint)
            tunnel.wait_for(State.CONNECTED, WAIT_SECONDS)
            eventually(lambda: tunnel.stats.dropped_messages == {"stale_stream": 2}, "both")
            assert tunnel.status().connect_attempts == 1

    def test_a_close_with_a_status(self, plain_rig: Rig) -> None:
        frame = websocket_frame(CLOSE, (1001).to_bytes(2, "big") + b"going away")

        def send(peer: FaultyPeer) -> None:
            peer.announce("SSH")
            peer.send(frame)

        with undisturbed(plain_rig):
            assert "closed the WebSocket" in self.lost_after(plain_rig, send)


class TestFloods:
    """A peer that asks for answers and reads none: what waits for it stays bounded."""

    def flooded(self, rig: Rig, mode: Mode, frames: bytes, limit_bytes: int) -> tuple[int, int]:
        """Bytes that were taken of a flood, and by how much this process grew."""
        taken: list[int] = []

        def script(peer: FaultyPeer) -> None:
            peer.upgrade()
            peer.announce("SSH")
            taken.append(peer.flood(frames, limit_bytes))

        with ScriptedService(script, lambda peer: peer.wait_closed()) as service:
            before_bytes = rss_bytes()
            open_alone(rig, service.endpoint, mode=mode)
            eventually(lambda: bool(taken), "the end of the flood", WAIT_SECONDS)
            return taken[0], rss_bytes() - before_bytes

    def test_of_starts_that_are_each_answered(self, plain_rig: Rig) -> None:
        start = Message(T.STREAM_START, 1, service_id="GHOST" * 20, connection_id=1)
        frames = websocket_frame(BINARY, encode_frame(start) * 500)
        with undisturbed(plain_rig):
            taken, growth = self.flooded(plain_rig, Mode.DESTINATION, frames, 40 * MIB)
        assert taken < 24 * MIB, "reading went on while the answers piled up"
        assert growth < 16 * MIB

    def test_of_pings(self, plain_rig: Rig) -> None:
        frames = websocket_frame(PING, bytes(125)) * 500
        with undisturbed(plain_rig):
            _taken, growth = self.flooded(plain_rig, Mode.SOURCE, frames, 32 * MIB)
        assert growth < 16 * MIB
