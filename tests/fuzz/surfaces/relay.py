"""What two clients send through the tunneling service (runtime/service/relay.py, rules.py)."""

from __future__ import annotations

from typing import Any

from tests.fuzz.harness import TURNS, Harness, Source, is_line
from tunnelfleet.actors.transport.codec import WebSocketInput
from tunnelfleet.proto import (
    DataBurst,
    Message,
    MessageReader,
    MessageType,
    Mode,
    RemoteProtocolError,
)
from tunnelfleet.proto.framing import encode_frame
from tunnelfleet.runtime.service.events import ServiceEvent
from tunnelfleet.runtime.service.relay import RelayedTunnel
from tunnelfleet.runtime.service.rules import MAX_CONNECTIONS_REMEMBERED, MAX_STREAMS

SERVICES = ("SSH", "HTTP")
NAMES = (*SERVICES, "", "ssh", "\N{SNOWMAN}\n", "x" * 200)
OTHER = {Mode.SOURCE: Mode.DESTINATION, Mode.DESTINATION: Mode.SOURCE}
MAX_SHOWN = 500
FOR_SOURCES = frozenset(MessageType) - {MessageType.STREAM_START, MessageType.CONNECTION_START}


class Ear:
    """A client's connection: what is written to it is read as a client does."""

    def __init__(self) -> None:
        self._input = WebSocketInput()
        self.heard: list[Message] = []
        self.is_full = False
        self.buffered_bytes = 0

    def write(self, data: bytes) -> None:
        for each in self._input.feed(bytes(data)):
            if isinstance(each, DataBurst):
                self.heard += each.messages()
            elif isinstance(each, Message):
                self.heard.append(each)

    def hold(self, _reason: object) -> None: ...

    def release(self, _reason: object) -> None: ...

    def abort(self, _reason: str) -> None: ...


class Peer:
    """A client."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.channel_id = "channel"
        self.wire = Ear()
        self.reader = MessageReader(strict=True)


class Service:
    """A tunnel, and who is connected to it."""

    def __init__(self) -> None:
        loop: Any = None
        self.events: list[ServiceEvent] = []
        self.tunnel = RelayedTunnel("press-4", SERVICES, loop, self.events.append)
        self.peers: dict[Mode, Peer] = {}

    def attach(self, mode: Mode) -> None:
        peer: Any = Peer(mode)
        self.peers[mode] = peer
        with TURNS:
            self.tunnel.attach(peer)
        (first,) = peer.wire.heard
        assert first.available_service_ids == SERVICES

    def detach(self, mode: Mode) -> None:
        peer: Any = self.peers.pop(mode, None)
        if peer is None:
            return
        left = self.peers.get(OTHER[mode])
        before = 0 if left is None else len(left.wire.heard)
        with TURNS:
            self.tunnel.detach(peer, "gone")
        assert len(self.tunnel._streams) == 0
        if left is not None:
            told = left.wire.heard[before:]
            assert all(each.type is MessageType.STREAM_RESET for each in told)

    def send(self, mode: Mode, data: bytes) -> None:
        sender: Any = self.peers.get(mode)
        if sender is None:
            return
        try:
            arrived = [*sender.reader.read(memoryview(data))]
            with TURNS:
                self.tunnel.relay(sender, arrived)
        except RemoteProtocolError as error:
            assert is_line(str(error), MAX_SHOWN)
            self.detach(mode)

    def check(self) -> None:
        active = self.tunnel._streams._active
        assert len(active) <= MAX_STREAMS
        assert all(len(e.connection_ids) <= MAX_CONNECTIONS_REMEMBERED for e in active.values())
        assert set(active) <= {*SERVICES, ""}
        source = self.peers.get(Mode.SOURCE)
        if source is not None:
            # What only a source may say is never said to one.
            assert {each.type for each in source.wire.heard} <= FOR_SOURCES
        for each in self.events:
            assert is_line(each.detail, MAX_SHOWN)
        self.events.clear()


def run(data: bytes) -> None:
    source = Source(data)
    service = Service()
    for step in source:
        mode = step.choose([Mode.SOURCE, Mode.DESTINATION])
        action = step.byte() % 8
        if action == 0:
            service.detach(mode)
            service.attach(mode)
        elif action == 1:
            service.detach(mode)
        elif action == 2:
            service.send(mode, step.take(step.byte() % 32))
        else:
            service.send(mode, encode_frame(message(step)))
        service.check()


def message(source: Source) -> Message:
    kind = source.choose([*MessageType, 9])
    ignorable, with_connection = source.flag(), source.flag()
    return Message(
        kind,
        source.number() & 0x7FFF_FFFF,
        ignorable,
        source.take(source.byte() % 4),
        source.choose(NAMES),
        (),
        source.number() if with_connection else 0,
    )


BOTH = bytes((0, 0, 1, 0))
START = bytes((0, 3, 2, 1, 1, 1, 0, 0, 1))
DATA = bytes((1, 3, 1, 0, 1, 1, 1, 65, 0, 1))
HARNESS = Harness(
    run=run,
    covers=["runtime/service/relay.py", "runtime/service/rules.py"],
    seeds=[
        BOTH + START + DATA,
        BOTH + START + bytes((1, 3, 1, 1, 1, 1, 0, 0, 1)) + bytes((1, 1)),
        BOTH + START + bytes((1, 3, 3, 1, 0, 1, 0, 0)) + bytes((0, 1)),
        bytes((0, 0)) + START,
        BOTH + bytes((0, 3, 2, 0, 0, 1, 0, 2)) + bytes((0, 2, 4, 0, 2, 8, 1)),
        BOTH + bytes((0, 3, 5, 0, 0, 0, 0, 0)) + bytes((1, 3, 8, 1, 0, 0, 0, 0)),
    ],
    max_bytes=512,
)
