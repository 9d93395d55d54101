"""Properties of the session: against simple models, between two sessions, and under garbage."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proto.wire import SESSION_RESET, V2, V3, T, destination, service_ids, source
from tunnelfleet.proto import (
    MAX_FRAME_BYTES,
    ConnectionReset,
    ConnectionStarted,
    DataReceived,
    DropReason,
    Event,
    FrameDecoder,
    LocalProtocolError,
    Message,
    MessageDropped,
    MessageType,
    Mode,
    ProtocolVersion,
    RemoteProtocolError,
    Reply,
    Session,
    StopCause,
    StreamStarted,
    StreamStopped,
    encode_frame,
)

SERVICES = ("SSH", "HTTP", "VNC")
services = st.sampled_from(SERVICES)
few = st.integers(1, 3)


# A V3 destination against a model: any interleaving of services, streams and connections


class DestinationModel:
    """What PROTOCOL.md section 3 says of a V3 destination, said once more and simply."""

    def __init__(self) -> None:
        self.active: dict[str, tuple[int, list[int]]] = {}
        """service id -> (stream id, open connections)"""
        self.ending: dict[str, list[int]] = {}
        """service id -> connections that the peer has ended and this side has not"""

    def expect(self, message: Message) -> list[Event]:
        service, stream, connection = message.service_id, message.stream_id, message.connection_id
        current, connections = self.active.get(service, (0, []))
        if message.type is T.STREAM_START:
            stopped = self.stopped(service, current, connections, StopCause.REPLACED)
            self.active[service] = (stream, [connection])
            return [*stopped, StreamStarted(service, stream, connection, V3)]
        if stream != current:
            return [MessageDropped(message.type, DropReason.STALE_STREAM)]
        if message.type is T.STREAM_RESET:
            del self.active[service]
            return self.stopped(service, current, connections, StopCause.PEER_RESET)
        return self.expect_of_connection(message, connections)

    def expect_of_connection(self, message: Message, connections: list[int]) -> list[Event]:
        service, stream, connection = message.service_id, message.stream_id, message.connection_id
        ending = self.ending.setdefault(service, [])
        over = ConnectionReset(service, stream, connection)
        match message.type, connection in connections:
            case T.DATA, True:
                return [DataReceived(service, stream, connection, message.payload)]
            case T.DATA, False:
                return [MessageDropped(message.type, DropReason.UNKNOWN_CONNECTION)]
            case T.CONNECTION_RESET, True:
                connections.remove(connection)
                ending.append(connection)
                return [over]
            case T.CONNECTION_RESET, False if connection in ending:
                ending.remove(connection)
                return [over]
            case T.CONNECTION_RESET, False:
                return [MessageDropped(message.type, DropReason.DUPLICATE_RESET)]
        if connection not in connections and connection not in ending:
            connections.append(connection)
            return [ConnectionStarted(service, stream, connection)]
        (connections if connection in connections else ending).remove(connection)
        reset = Message(T.CONNECTION_RESET, stream, service_id=service, connection_id=connection)
        return [Reply(reset), over, MessageDropped(message.type, DropReason.DUPLICATE_CONNECTION)]

    def stopped(
        self, service: str, stream: int, connections: list[int], cause: StopCause
    ) -> list[Event]:
        ended = tuple(sorted([*connections, *self.ending.pop(service, [])]))
        return [StreamStopped(service, stream, ended, cause)] if stream else []


stream_messages = st.builds(
    Message,
    type=st.sampled_from(
        [T.DATA, T.STREAM_START, T.STREAM_RESET, T.CONNECTION_START, T.CONNECTION_RESET]
    ),
    stream_id=few,
    ignorable=st.just(False),
    payload=st.binary(max_size=4),
    service_id=services,
    available_service_ids=st.just(()),
    connection_id=few,
)


@given(st.lists(stream_messages, max_size=60))
def test_destination_does_what_the_model_says(messages: list[Message]) -> None:
    session, model = destination(SERVICES), DestinationModel()
    session.receive(Message(T.STREAM_START, 1, service_id="SSH", connection_id=1))
    model.expect(Message(T.STREAM_START, 1, service_id="SSH", connection_id=1))
    for message in messages:
        assert session.receive(message) == model.expect(message)
    assert {
        service: (view.stream_id, view.connection_ids)
        for service, view in session.active_streams().items()
    } == {
        service: (stream, frozenset(connections))
        for service, (stream, connections) in model.active.items()
    }


# Two sessions, each other's peer, with messages on their way between them


@dataclass
class Peer:
    session: Session
    inbox: deque[Message] = field(default_factory=deque)
    sent: dict[tuple[str, int, int], bytes] = field(default_factory=dict)
    """By connection, all that was sent, in order."""
    received: dict[tuple[str, int, int], bytes] = field(default_factory=dict)
    ended: set[tuple[str, int, int]] = field(default_factory=set)
    """Connections whose end by the other side was reported."""

    def open_connections(self) -> set[tuple[str, int, int]]:
        return {
            (service, view.stream_id, connection)
            for service, view in self.session.active_streams().items()
            for connection in view.connection_ids
        }


class Tunnel:
    """A source, a destination, and the wire, which keeps what was sent until told to deliver it."""

    def __init__(self, version: ProtocolVersion) -> None:
        self.peers = {
            Mode.SOURCE: Peer(source(version, SERVICES)),
            Mode.DESTINATION: Peer(destination(SERVICES)),
        }

    def other(self, mode: Mode) -> Peer:
        return self.peers[Mode.DESTINATION if mode is Mode.SOURCE else Mode.SOURCE]

    def open(self, service: str) -> None:
        opened = self.peers[Mode.SOURCE].session.open_connection(service)
        self.peers[Mode.DESTINATION].inbox.extend(opened.messages)

    def send(self, mode: Mode, service: str, connection: int, payload: bytes) -> None:
        peer = self.peers[mode]
        try:
            message = peer.session.data(service, connection, payload)
        except LocalProtocolError:
            return
        key = (service, message.stream_id, connection)
        peer.sent[key] = peer.sent.get(key, b"") + payload
        self.other(mode).inbox.append(message)

    def reset_connection(self, mode: Mode, service: str, connection: int) -> None:
        messages, _ = self.peers[mode].session.reset_connection(service, connection)
        self.other(mode).inbox.extend(messages)

    def forget(self, mode: Mode, service: str, stream: int, connection: int) -> None:
        self.peers[mode].session.forget_connection(service, stream, connection)

    def reset_stream(self, mode: Mode, service: str) -> None:
        messages, _ = self.peers[mode].session.reset_stream(service)
        self.other(mode).inbox.extend(messages)

    def deliver(self, mode: Mode, count: int) -> None:
        peer = self.peers[mode]
        for _ in range(min(count, len(peer.inbox))):
            for event in peer.session.receive(peer.inbox.popleft()):
                assert not isinstance(event, Reply)
                if isinstance(event, DataReceived):
                    key = (event.service_id, event.stream_id, event.connection_id)
                    peer.received[key] = peer.received.get(key, b"") + event.payload
                    assert key not in peer.ended
                elif isinstance(event, ConnectionReset):
                    key = (event.service_id, event.stream_id, event.connection_id)
                    assert key not in peer.ended
                    peer.ended.add(key)
        self.check_order(mode)

    def check_order(self, mode: Mode) -> None:
        sent = self.other(mode).sent
        for key, received in self.peers[mode].received.items():
            assert sent[key].startswith(received)

    def settle(self) -> None:
        """Deliver everything. Then both sides agree on what is open, and none of it is missing."""
        while any(peer.inbox for peer in self.peers.values()):
            for mode, peer in self.peers.items():
                self.deliver(mode, len(peer.inbox))
        opens = [peer.open_connections() for peer in self.peers.values()]
        assert opens[0] == opens[1]
        for mode, peer in self.peers.items():
            for key in opens[0]:
                assert peer.received.get(key, b"") == self.other(mode).sent.get(key, b"")

    def reset_session(self) -> None:
        self.settle()
        for peer in self.peers.values():
            peer.session.receive(SESSION_RESET)

    def reconnect(self) -> None:
        for peer in self.peers.values():
            peer.inbox.clear()
            peer.session.disconnected()
            peer.session.connected()
            peer.session.receive(service_ids(*SERVICES))


modes = st.sampled_from(list(Mode))
operations = st.one_of(
    st.tuples(st.just("open"), services),
    st.tuples(st.just("send"), modes, services, few, st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("send"), modes, services, few, st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("deliver"), modes, st.integers(1, 6)),
    st.tuples(st.just("reset_connection"), modes, services, few),
    st.tuples(st.just("forget"), modes, services, few, few),
    st.tuples(st.just("reset_stream"), modes, services),
    st.tuples(st.just("settle")),
    st.tuples(st.just("reset_session")),
    st.tuples(st.just("reconnect")),
)


@pytest.mark.parametrize("version", [V2, V3])
@given(st.lists(operations, max_size=60))
def test_two_sessions_agree_whatever_crosses_on_the_wire(
    version: ProtocolVersion, steps: list[tuple[str, *tuple[object, ...]]]
) -> None:
    tunnel = Tunnel(version)
    stream_ids: dict[str, int] = {}
    for name, *arguments in steps:
        getattr(tunnel, name)(*arguments)
        for service, view in tunnel.peers[Mode.SOURCE].session.active_streams().items():
            assert view.stream_id >= stream_ids.get(service, 1)
            stream_ids[service] = view.stream_id
    tunnel.settle()


@pytest.mark.parametrize("version", [V2, V3])
@given(st.lists(operations, max_size=40))
def test_nothing_is_lost_at_an_ordinary_end(
    version: ProtocolVersion, steps: list[tuple[str, *tuple[object, ...]]]
) -> None:
    """Whatever the order, all that both sides sent before their ends arrives."""
    tunnel = Tunnel(version)
    for service in SERVICES:
        tunnel.open(service)
    for name, *arguments in steps:
        # The rest ends more than one connection, or ends one for good.
        if name in ("send", "deliver", "reset_connection", "settle"):
            getattr(tunnel, name)(*arguments)
    tunnel.settle()
    for mode, peer in tunnel.peers.items():
        assert peer.received == tunnel.other(mode).sent


# Garbage

any_service = st.sampled_from(["", *SERVICES, "FTP"])
any_id = st.sampled_from([-1, 0, 1, 2, 3, 2**31 - 1])
garbage = st.builds(
    Message,
    type=st.sampled_from(MessageType) | st.just(99),
    stream_id=any_id,
    ignorable=st.booleans(),
    payload=st.binary(max_size=4),
    service_id=any_service,
    available_service_ids=st.lists(any_service, max_size=3).map(tuple),
    connection_id=any_id.map(abs),
)


def state(session: Session) -> object:
    return session.version, session.service_ids, session.active_streams()


@given(
    modes,
    st.none() | st.sampled_from(ProtocolVersion),
    st.sampled_from([None, (), ("SSH",), SERVICES]),
    st.lists(garbage, max_size=60),
)
def test_garbage_raises_remote_protocol_errors_that_change_nothing(
    mode: Mode,
    version: ProtocolVersion | None,
    announced: tuple[str, ...] | None,
    messages: list[Message],
) -> None:
    session = Session(mode, version)
    if announced is not None:
        session.receive(service_ids(*announced))
    if mode is Mode.SOURCE and announced and session.version is not ProtocolVersion.V1:
        session.open_connection(announced[0])
    for message in messages:
        before = state(session)
        try:
            events = session.receive(message)
        except RemoteProtocolError:
            assert state(session) == before
        else:
            assert events
            for event in events:
                if isinstance(event, Reply):
                    encode_frame(event.message)


@given(
    modes,
    st.sampled_from(ProtocolVersion),
    st.lists(st.tuples(st.integers(0, 5), any_service, any_id), max_size=60),
)
def test_commands_raise_local_protocol_errors_that_change_nothing(
    mode: Mode, version: ProtocolVersion, commands: list[tuple[int, str, int]]
) -> None:
    session = Session(mode, version)
    session.receive(service_ids("SSH"))
    for number, service, connection in commands:
        before = state(session)
        try:
            match number:
                case 0:
                    session.open_connection(service)
                case 1:
                    session.start_stream(service)
                case 2:
                    session.start_connection(service, connection)
                case 3:
                    session.data(service, connection, b"x")
                case 4:
                    session.reset_connection(service, connection)
                case 5:
                    session.reset_stream(service)
        except LocalProtocolError:
            assert state(session) == before
        assert len(session.active_streams()) <= 1


@given(modes, st.lists(st.binary(max_size=100) | garbage, max_size=30))
def test_garbage_on_the_byte_stream(mode: Mode, pieces: list[bytes | Message]) -> None:
    decoder, session = FrameDecoder(), Session(mode)
    try:
        for piece in [service_ids("SSH"), *pieces]:
            stream = piece if isinstance(piece, bytes) else encode_frame(piece)
            for message in decoder.feed(stream):
                session.receive(message)
            assert decoder.buffered_bytes <= 2 + MAX_FRAME_BYTES
    except RemoteProtocolError:
        session.disconnected()
    assert len(session.active_streams()) <= 1
