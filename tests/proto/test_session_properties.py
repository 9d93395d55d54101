"""Properties of the session: against simple models, between two sessions, and under garbage."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wire import SESSION_RESET, V2, V3, T, destination, service_ids, source
from tunnelfleet.proto import (
    MAX_FRAME_BYTES,
    Answer,
    ConnectionReset,
    ConnectionStarted,
    DataReceived,
    DropReason,
    End,
    Event,
    FrameDecoder,
    LocalProtocolError,
    Message,
    MessageDropped,
    MessageType,
    Mode,
    ProtocolVersion,
    RemoteProtocolError,
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
    """What docs/protocol.md sections 3 and 3a say of a V3 destination, said once more and
    simply."""

    def __init__(self, *, marks: bool) -> None:
        self.marks = marks
        self.active: dict[str, tuple[int, bool, dict[int, bool]]] = {}
        """service id -> (stream id, agreed, connections: whether the peer still sends)"""

    def expect(self, message: Message) -> list[Event]:
        service, stream, connection = message.service_id, message.stream_id, message.connection_id
        current, agreed, connections = self.active.get(service, (0, False, {}))
        if message.type is T.STREAM_START:
            events = self.stopped(service, StopCause.REPLACED)
            agreed = self.marks and message.ignorable
            self.active[service] = (stream, agreed, {connection: True})
            if agreed:
                events.append(Answer(message._replace(type=T.DATA, payload=b"")))
            return [*events, StreamStarted(service, stream, connection, V3)]
        if stream != current:
            return [MessageDropped(message.type, DropReason.STALE_STREAM)]
        if message.type is T.STREAM_RESET:
            return self.stopped(service, StopCause.PEER_RESET, End.CUT if agreed else End.BOTH)
        if message.type is T.CONNECTION_RESET:
            return self.expect_reset(message, connections, agreed=agreed)
        if message.type is T.DATA:
            if connections.get(connection):
                return [DataReceived(service, stream, connection, message.payload)]
            return [MessageDropped(message.type, DropReason.UNKNOWN_CONNECTION)]
        if connection not in connections:
            connections[connection] = True
            return [ConnectionStarted(service, stream, connection)]
        del connections[connection]
        reset = Message(T.CONNECTION_RESET, stream, service_id=service, connection_id=connection)
        over = ConnectionReset(service, stream, connection, End.CUT if agreed else End.BOTH)
        return [Answer(reset), over, MessageDropped(message.type, DropReason.DUPLICATE_CONNECTION)]

    def expect_reset(
        self, message: Message, connections: dict[int, bool], *, agreed: bool
    ) -> list[Event]:
        service, stream, connection = message.service_id, message.stream_id, message.connection_id
        is_orderly = agreed and message.ignorable
        still_sends = connections.get(connection)
        if still_sends is None or (is_orderly and not still_sends):
            return [MessageDropped(message.type, DropReason.DUPLICATE_RESET)]
        if is_orderly:
            connections[connection] = False
            return [ConnectionReset(service, stream, connection, End.ORDERLY)]
        del connections[connection]
        end = End.CUT if agreed else End.BOTH
        return [ConnectionReset(service, stream, connection, end)]

    def stopped(self, service: str, cause: StopCause, end: End = End.CUT) -> list[Event]:
        if service not in self.active:
            return []
        stream, _, connections = self.active.pop(service)
        return [StreamStopped(service, stream, tuple(sorted(connections)), cause, end)]


stream_messages = st.builds(
    Message,
    type=st.sampled_from(
        [T.DATA, T.STREAM_START, T.STREAM_RESET, T.CONNECTION_START, T.CONNECTION_RESET]
    ),
    stream_id=few,
    ignorable=st.booleans(),
    payload=st.binary(max_size=4),
    service_id=services,
    available_service_ids=st.just(()),
    connection_id=few,
)


@pytest.mark.parametrize("marks", [True, False])
@given(st.lists(stream_messages, max_size=60))
def test_destination_does_what_the_model_says(marks: bool, messages: list[Message]) -> None:
    session, model = destination(SERVICES, marks=marks), DestinationModel(marks=marks)
    first = Message(T.STREAM_START, 1, service_id="SSH", connection_id=1)
    for message in [first, *messages]:
        assert session.receive(message) == model.expect(message)
    assert {
        service: (view.stream_id, view.connection_ids)
        for service, view in session.active_streams().items()
    } == {
        service: (stream, frozenset(each for each, sends in connections.items() if sends))
        for service, (stream, _, connections) in model.active.items()
    }


# Two sessions, each other's peer, with messages on their way between them


Key = tuple[str, int, int]


@dataclass
class FarEnd:
    session: Session
    inbox: deque[Message] = field(default_factory=deque)
    sent: dict[Key, bytes] = field(default_factory=dict)
    """By connection, all that was sent, in order."""
    received: dict[Key, bytes] = field(default_factory=dict)
    ends: dict[Key, list[End]] = field(default_factory=dict)
    """By connection, the ends by the other side that were reported."""
    orderly: set[Key] = field(default_factory=set)
    """Connections that this side has ended after all its bytes."""

    def open_connections(self) -> set[Key]:
        return {
            (service, view.stream_id, connection)
            for service, view in self.session.active_streams().items()
            for connection in view.connection_ids
        }


class Tunnel:
    """A source, a destination, and the wire, which keeps what was sent until told to deliver it."""

    def __init__(self, version: ProtocolVersion, marks: tuple[bool, bool]) -> None:
        self.peers = {
            Mode.SOURCE: FarEnd(source(version, SERVICES, marks=marks[0])),
            Mode.DESTINATION: FarEnd(destination(SERVICES, marks=marks[1])),
        }

    def other(self, mode: Mode) -> FarEnd:
        return self.peers[Mode.DESTINATION if mode is Mode.SOURCE else Mode.SOURCE]

    def stream_id(self, mode: Mode, service: str) -> int:
        view = self.peers[mode].session.active_streams().get(service)
        return 0 if view is None else view.stream_id

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

    def end(self, mode: Mode, service: str, connection: int) -> None:
        key = (service, self.stream_id(mode, service), connection)
        messages, _ = self.peers[mode].session.reset_connection(service, connection)
        if messages:
            self.peers[mode].orderly.add(key)
        self.other(mode).inbox.extend(messages)

    def abort(self, mode: Mode, service: str, connection: int) -> None:
        key = (service, self.stream_id(mode, service), connection)
        messages, _ = self.peers[mode].session.reset_connection(
            service, connection, is_orderly=False
        )
        self.peers[mode].orderly.discard(key)
        self.other(mode).inbox.extend(messages)

    def leave(self, mode: Mode, service: str, stream: int, connection: int) -> None:
        self.peers[mode].session.leave_connection(service, stream, connection)

    def hello_overdue(self, service: str) -> None:
        peer = self.peers[Mode.SOURCE]
        stream_id = self.stream_id(Mode.SOURCE, service)
        self.take(Mode.SOURCE, peer.session.hello_overdue(service, stream_id))

    def reset_stream(self, mode: Mode, service: str) -> None:
        messages, _ = self.peers[mode].session.reset_stream(service)
        self.other(mode).inbox.extend(messages)

    def deliver(self, mode: Mode, count: int) -> None:
        peer = self.peers[mode]
        for _ in range(min(count, len(peer.inbox))):
            self.take(mode, peer.session.receive(peer.inbox.popleft()))
        self.check_order(mode)

    def take(self, mode: Mode, events: list[Event]) -> None:
        peer = self.peers[mode]
        for event in events:
            if isinstance(event, Answer):
                self.other(mode).inbox.append(event.message)
            elif isinstance(event, DataReceived):
                key = (event.service_id, event.stream_id, event.connection_id)
                peer.received[key] = peer.received.get(key, b"") + event.payload
                assert key not in peer.ends
            elif isinstance(event, ConnectionReset):
                key = (event.service_id, event.stream_id, event.connection_id)
                ends = peer.ends.setdefault(key, [])
                # Once in good order, and that may still be followed by a cut; no other way twice.
                assert ends in ([], [End.ORDERLY])
                assert not ends or event.end is End.CUT
                ends.append(event.end)

    def check_order(self, mode: Mode) -> None:
        sent = self.other(mode).sent
        for key, received in self.peers[mode].received.items():
            assert sent[key].startswith(received)

    def check_ends(self) -> None:
        """An end that was reported as orderly was one, and nothing is missing before it."""
        for mode, peer in self.peers.items():
            other = self.other(mode)
            for key, ends in peer.ends.items():
                if ends == [End.ORDERLY]:
                    assert peer.received.get(key, b"") == other.sent.get(key, b"")

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
        self.check_ends()

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
    st.tuples(st.just("end"), modes, services, few),
    st.tuples(st.just("abort"), modes, services, few),
    st.tuples(st.just("leave"), modes, services, few, few),
    st.tuples(st.just("hello_overdue"), services),
    st.tuples(st.just("reset_stream"), modes, services),
    st.tuples(st.just("settle")),
    st.tuples(st.just("reset_session")),
    st.tuples(st.just("reconnect")),
)
who_marks = pytest.mark.parametrize(
    "marks", [(True, True), (True, False), (False, True), (False, False)], ids=str
)


@who_marks
@pytest.mark.parametrize("version", [V2, V3])
@given(st.lists(operations, max_size=60))
def test_two_sessions_agree_whatever_crosses_on_the_wire(
    marks: tuple[bool, bool],
    version: ProtocolVersion,
    steps: list[tuple[str, *tuple[object, ...]]],
) -> None:
    tunnel = Tunnel(version, marks)
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
    tunnel = Tunnel(version, (True, True))
    for service in SERVICES:
        tunnel.open(service)
    for name, *arguments in steps:
        # The rest ends more than one connection, or ends one for good.
        if name in ("send", "deliver", "end", "settle"):
            getattr(tunnel, name)(*arguments)
    tunnel.settle()
    for mode, peer in tunnel.peers.items():
        assert peer.received == tunnel.other(mode).sent
        assert all(ends == [End.ORDERLY] for ends in peer.ends.values())


@pytest.mark.parametrize("version", [V2, V3])
@given(st.lists(operations, max_size=40))
def test_both_ends_agree_on_whether_a_connection_was_cut(
    version: ProtocolVersion, steps: list[tuple[str, *tuple[object, ...]]]
) -> None:
    """What one side aborted never looks finished on the other."""
    tunnel = Tunnel(version, (True, True))
    for service in SERVICES:
        tunnel.open(service)
    aborted: set[tuple[Mode, Key]] = set()
    for name, *arguments in steps:
        if name == "abort":
            mode, name_of_service, connection = arguments
            assert isinstance(mode, Mode)
            key = (str(name_of_service), 1, int(str(connection)))
            if tunnel.peers[mode].session.is_known(*key):
                aborted.add((mode, key))
        if name in ("send", "deliver", "end", "abort", "settle"):
            getattr(tunnel, name)(*arguments)
    tunnel.settle()
    for mode, key in aborted:
        other = Mode.DESTINATION if mode is Mode.SOURCE else Mode.SOURCE
        was_told = End.CUT in tunnel.peers[other].ends.get(key, [])
        # Where both sent all they had before, nothing was cut.
        was_whole = tunnel.peers[other].ends.get(key) == [End.ORDERLY] and not tunnel.peers[
            other
        ].session.is_known(*key)
        assert was_told or (other, key) in aborted or was_whole


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
            for event in events:
                if isinstance(event, Answer):
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
