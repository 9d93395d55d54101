"""A service that floods a tunnel with tiny frames has its turn, and no more than that."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.frames import frame
from tests.support.scripted_server import BINARY, CONT, PING, PONG, Peer, ScriptedServer
from tests.support.tracing import is_traced
from tests.support.transcripts import to_message
from tests.support.turns import measured_turns
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import Limits, TunnelConfig
from tunnelfleet.proto import Mode, encode_frame
from tunnelfleet.runtime import TunnelRuntime

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

LESS = 10 if is_traced() else 1
"""Traced, a flood takes several times as long, and it has to show less: there is no bound then."""
FLOOD_BYTES = 260_000 // LESS
ANNOUNCE = frame(BINARY, encode_frame(to_message("SERVICE_IDS SSH")))
START = "STREAM_START SSH {}/1"


def wire(*texts: str) -> bytes:
    return b"".join(encode_frame(to_message(text)) for text in texts)


def repeated(data: bytes) -> bytes:
    return data * (FLOOD_BYTES // len(data))


def packed(data: bytes) -> bytes:
    """Many tunnel messages in few WebSocket messages, as large as they may be."""
    return repeated(frame(BINARY, data * (131_000 // LESS // len(data))))


FLOODS: dict[str, Callable[[], bytes]] = {
    "empty pings": lambda: repeated(frame(PING)),
    "pongs": lambda: repeated(frame(PONG)),
    "empty frames": lambda: repeated(frame(BINARY)),
    "empty fragments": lambda: frame(BINARY, fin=False) + repeated(frame(CONT, fin=False)),
    "messages in fragments of a byte": lambda: repeated(
        b"".join(
            frame(CONT if at else BINARY, byte, fin=at == len(wire("DATA SSH 1/1")) - 1)
            for at, byte in enumerate(
                wire("DATA SSH 1/1")[at : at + 1] for at in range(len(wire("DATA SSH 1/1")))
            )
        )
    ),
    "DATA of a byte": lambda: repeated(frame(BINARY, wire("DATA SSH 1/1 x"))),
    "DATA of a byte, packed": lambda: packed(wire("DATA SSH 1/1 x")),
    "resets of nothing, packed": lambda: packed(wire("CONNECTION_RESET SSH 1/9")),
    "STREAM_START": lambda: b"".join(
        frame(BINARY, wire(START.format(number))) for number in range(2, 12_000 // LESS)
    ),
    "STREAM_START, packed": lambda: packed(
        wire(*[START.format(number) for number in range(2, 1_500 // LESS)])
    ),
    "CONNECTION_START": lambda: b"".join(
        frame(BINARY, wire(f"CONNECTION_START SSH 1/{number}"))
        for number in range(2, 12_000 // LESS)
    ),
}


def runtime_of(server: ScriptedServer, **settings: Any) -> tuple[TunnelRuntime, TunnelConfig]:
    config = TunnelConfig(
        name="press-4",
        mode=Mode.DESTINATION,
        endpoint=server.endpoint,
        access_token="t",
        services={"SSH": TcpAddress("127.0.0.1", 1)},
        limits=Limits(ping_interval_seconds=600.0),
        **settings,
    )
    return TunnelRuntime(), config


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_no_flood_makes_a_long_turn(
    serve: Callable[..., ScriptedServer],
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    monkeypatch: pytest.MonkeyPatch,
    flood: Callable[[], bytes],
    secure: bool,
) -> None:
    """And nothing of it is forgotten: the last message, behind the flood, arrives."""
    data = flood()

    def script(peer: Peer) -> None:
        # A busy machine needs longer for a flood than a peer waits for a byte otherwise.
        peer.sock.settimeout(6 * WAIT_SECONDS)
        peer.upgrade()
        peer.send(ANNOUNCE + frame(BINARY, wire("STREAM_START SSH 1/1")))
        reader = threading.Thread(target=peer.wait_closed)
        reader.start()
        tail = frame(CONT) if data.endswith(frame(CONT, fin=False)) else b""
        peer.send(data + tail + frame(BINARY, wire("SESSION_RESET")))
        reader.join()

    server = serve(script, tls=tls[0] if secure else None)
    runtime, config = runtime_of(server, ssl_context=tls[1] if secure else None)
    with measured_turns(monkeypatch) as turns, runtime:
        tunnel = runtime.open_tunnel(config)
        runtime.wait_until(lambda: bool(tunnel.stats.session_resets), 6 * WAIT_SECONDS)
        assert tunnel.stats.session_resets == 1, tunnel.status()
    turns.check()


@contextlib.contextmanager
def some_taken(peer: Peer) -> Iterator[None]:
    """Take a little of what has come, once a second, past TLS.

    Where its buffer is full, the kernel throws away acknowledgements that stand behind what it has
    no room for. So it does not hear how much the client has read, and sends nothing more until the
    client sends again what was lost, later and later.
    """
    done = threading.Event()

    def take() -> None:
        while not done.wait(1.0):
            with contextlib.suppress(BlockingIOError):
                os.read(peer.sock.fileno(), 65_536)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_replies_that_pile_up_make_no_ping_dearer(
    serve: Callable[..., ScriptedServer],
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    monkeypatch: pytest.MonkeyPatch,
    secure: bool,
) -> None:
    """A service reads hardly any of 1,900 replies, and pings: a ping looked through all of them."""
    replies, release = 1_900, threading.Event()
    data = repeated(frame(PING))

    def script(peer: Peer) -> None:
        peer.sock.settimeout(6 * WAIT_SECONDS)
        peer.upgrade()
        starts = [frame(BINARY, wire(START.format(number))) for number in range(1, replies)]
        with some_taken(peer):
            peer.send(ANNOUNCE + b"".join(starts) + data + frame(BINARY, wire("SESSION_RESET")))
            # An end before all of it is read would be a reset, which loses what is unread.
            release.wait(6 * WAIT_SECONDS)

    server = serve(script, tls=tls[0] if secure else None, receive_buffer_bytes=4_096)
    runtime, config = runtime_of(server, ssl_context=tls[1] if secure else None)
    with measured_turns(monkeypatch) as turns, runtime:
        tunnel = runtime.open_tunnel(config)
        try:
            runtime.wait_until(lambda: bool(tunnel.stats.session_resets), 6 * WAIT_SECONDS)
            assert tunnel.stats.session_resets == 1, tunnel.status()
        finally:
            release.set()
    turns.check()
