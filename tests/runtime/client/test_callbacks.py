"""Each callback: when it is called, with what, and in which order (docs/protocol.md section 5)."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.client_bench import LIMITS, ClientBench, ClientPair, Transcript
from tests.support.faulty_server import FaultyPeer, ScriptedService
from tests.support.rig import receive_exactly, receive_rest
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import Message as WireMessage
from tunnelfleet.proto import MessageType as WireType
from tunnelfleet.runtime import (
    AbnormalEnd,
    ConnectionFailure,
    ConnectionLost,
    ConnectionReset,
    ConnectionShutdown,
    ConnectionStarted,
    ConnectionSuccess,
    HandshakeError,
    InputEnded,
    LocalProtocolError,
    Message,
    MessageReceived,
    MessageType,
    Mode,
    ProtocolVersion,
    SecureTunnel,
    SendMessageComplete,
    SessionReset,
    Stopped,
    StreamStarted,
    StreamStopped,
    TcpAddress,
    TunnelClosed,
    TunnelState,
)

if TYPE_CHECKING:
    from collections.abc import Callable

V1, V2, V3 = ProtocolVersion


def start_stream(bench: ClientBench, pair: ClientPair) -> None:
    pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
    pair.at_destination.wait(StreamStarted)


def start_and_send(bench: ClientBench, pair: ClientPair) -> None:
    start_stream(bench, pair)
    pair.source.send_message(Message(b"hello", "SSH")).result(WAIT_SECONDS)
    pair.at_destination.wait(MessageReceived)


def restart_stream(bench: ClientBench, pair: ClientPair) -> None:
    start_stream(bench, pair)
    pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
    pair.at_destination.wait(StreamStarted, 2)


def source_ends_connection(bench: ClientBench, pair: ClientPair) -> None:
    start_stream(bench, pair)
    pair.source.send_connection_reset("SSH").result(WAIT_SECONDS)


def source_ends_stream(bench: ClientBench, pair: ClientPair) -> None:
    start_stream(bench, pair)
    pair.source.send_stream_reset("SSH").result(WAIT_SECONDS)


def destination_ends_stream(bench: ClientBench, pair: ClientPair) -> None:
    start_stream(bench, pair)
    pair.destination.send_stream_reset("SSH").result(WAIT_SECONDS)


def destination_ends_connection(bench: ClientBench, pair: ClientPair) -> None:
    start_stream(bench, pair)
    pair.destination.send_connection_reset("SSH").result(WAIT_SECONDS)


def second_connection(bench: ClientBench, pair: ClientPair) -> None:
    start_stream(bench, pair)
    pair.source.send_connection_start("SSH").result(WAIT_SECONDS)
    pair.at_destination.wait(ConnectionStarted)
    pair.source.send_connection_reset("SSH", 2).result(WAIT_SECONDS)


def session_reset(bench: ClientBench, pair: ClientPair) -> None:
    start_stream(bench, pair)
    bench.service.session_reset(pair.name)


def session_reset_without_streams(bench: ClientBench, pair: ClientPair) -> None:
    bench.service.session_reset(pair.name)


def lose_source(bench: ClientBench, pair: ClientPair) -> None:
    start_stream(bench, pair)
    bench.service.drop(pair.name, Mode.SOURCE)


def send_end(kind: MessageType) -> str:
    return f"SendMessageComplete {kind.name}"


STARTED = ["ConnectionSuccess"]
STREAM = send_end(MessageType.STREAM_START)


class Row(NamedTuple):
    """What happens, and which callbacks the two ends get for it, in order."""

    name: str
    version: ProtocolVersion
    act: Callable[[ClientBench, ClientPair], None]
    at_source: list[str]
    at_destination: list[str]


ROWS = [
    Row("nothing", V3, lambda _bench, _pair: None, [], []),
    *(
        Row(f"stream started V{v:d}", v, start_stream, [STREAM], ["StreamStarted"])
        for v in ProtocolVersion
    ),
    *(
        Row(
            f"message V{v:d}",
            v,
            start_and_send,
            [STREAM, send_end(MessageType.DATA)],
            ["StreamStarted", "MessageReceived"],
        )
        for v in ProtocolVersion
    ),
    *(
        Row(
            f"stream replaced V{v:d}",
            v,
            restart_stream,
            [STREAM, "StreamStopped", STREAM],
            ["StreamStarted", "StreamStopped", "StreamStarted"],
        )
        for v in ProtocolVersion
    ),
    *(
        Row(
            f"source resets stream V{v:d}",
            v,
            source_ends_stream,
            [STREAM, "StreamStopped", send_end(MessageType.STREAM_RESET)],
            ["StreamStarted", "StreamStopped"],
        )
        for v in ProtocolVersion
    ),
    *(
        Row(
            f"destination resets stream V{v:d}",
            v,
            destination_ends_stream,
            [STREAM, "StreamStopped"],
            ["StreamStarted", "StreamStopped", send_end(MessageType.STREAM_RESET)],
        )
        for v in ProtocolVersion
    ),
    Row(
        "source resets connection V3",
        V3,
        source_ends_connection,
        [STREAM, send_end(MessageType.CONNECTION_RESET)],
        ["StreamStarted", "ConnectionReset"],
    ),
    *(
        Row(
            f"source resets connection V{v:d}",
            v,
            source_ends_connection,
            # Behind the reset that the other side sends back once its callbacks have returned.
            [STREAM, send_end(MessageType.CONNECTION_RESET), "StreamStopped"],
            ["StreamStarted", "StreamStopped"],
        )
        for v in (V1, V2)
    ),
    Row(
        "destination resets connection V3",
        V3,
        destination_ends_connection,
        [STREAM, "ConnectionReset"],
        ["StreamStarted", send_end(MessageType.CONNECTION_RESET)],
    ),
    Row(
        "one more connection",
        V3,
        second_connection,
        [STREAM, send_end(MessageType.CONNECTION_START), send_end(MessageType.CONNECTION_RESET)],
        ["StreamStarted", "ConnectionStarted", "ConnectionReset"],
    ),
    Row(
        "session reset",
        V3,
        session_reset,
        [STREAM, "StreamStopped", "SessionReset"],
        ["StreamStarted", "StreamStopped", "SessionReset"],
    ),
    Row(
        "session reset without streams",
        V3,
        session_reset_without_streams,
        ["SessionReset"],
        ["SessionReset"],
    ),
    Row(
        "connection lost",
        V3,
        lose_source,
        [STREAM, "StreamStopped", "ConnectionShutdown", "ConnectionSuccess"],
        ["StreamStarted", "StreamStopped"],
    ),
]


def described(events: list[Any]) -> list[str]:
    return [
        send_end(event.message_type)
        if isinstance(event, SendMessageComplete)
        else type(event).__name__
        for event in events
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_callbacks_come_in_this_order(bench: ClientBench, row: Row) -> None:
    pair = bench.pair(source={"version": row.version})
    row.act(bench, pair)
    for heard, expected in (
        (pair.at_source, [*STARTED, *row.at_source]),
        (pair.at_destination, [*STARTED, *row.at_destination]),
    ):
        eventually(
            lambda heard=heard, expected=expected: len(heard.all()) >= len(expected),  # type: ignore[misc]
            f"{expected}, not {described(heard.all())}",
        )
    for end in (pair.source, pair.destination):
        end.stop().result(WAIT_SECONDS)
    at_source = described(pair.at_source.all())
    at_destination = described(pair.at_destination.all())
    # What the end of a tunnel adds: streams, the connection, and last and once, the tunnel.
    for told, expected in ((at_source, row.at_source), (at_destination, row.at_destination)):
        assert told[: len(expected) + 1] == [*STARTED, *expected]
        rest = told[len(expected) + 1 :]
        assert rest[-2:] == ["ConnectionShutdown", "Stopped"]
        assert set(rest[:-2]) <= {"StreamStopped", "ConnectionReset"}


class TestConnectionSuccess:
    @pytest.mark.parametrize("services", [[], ["A"], ["A", "B", "C"]], ids=len)
    def test_it_carries_the_services(self, bench: ClientBench, services: list[str]) -> None:
        pair = bench.pair(services)
        for heard in (pair.at_source, pair.at_destination):
            (event,) = heard.wait(ConnectionSuccess)
            assert event.service_ids == tuple(services)
            assert event.channel_id

    def test_who_hears_of_it_finds_the_tunnel_connected(self, bench: ClientBench) -> None:
        states: list[TunnelState] = []
        for number in range(10):
            bench.pair(
                name=f"t{number}",
                source={"on_connection_success": lambda t, _e: states.append(t.status().state)},
            )
        eventually(lambda: len(states) == 10)
        assert states == [TunnelState.CONNECTED] * 10

    def test_it_comes_with_the_services_not_with_the_upgrade(self, bench: ClientBench) -> None:
        may_announce = threading.Event()

        def script(peer: FaultyPeer) -> None:
            peer.upgrade()
            may_announce.wait(WAIT_SECONDS)
            peer.announce("A")
            peer.wait_closed()

        heard = Transcript()
        with ScriptedService(script) as service:
            client = SecureTunnel(
                "token", "source", service.endpoint, runtime=bench.runtime, **heard.callbacks()
            )
            started = client.start()
            eventually(lambda: client.status().channel_id == "scripted", "upgraded")
            assert heard.names() == []
            assert not started.done()
            may_announce.set()
            assert started.result(WAIT_SECONDS) == ("A",)
            heard.wait(ConnectionSuccess)
            client.stop().result(WAIT_SECONDS)


class TestConnectionFailure:
    def test_a_failure_is_followed_by_another_try(self, bench: ClientBench) -> None:
        tokens = bench.service.open_tunnel("tunnel", ["A"])
        bench.service.refuse_next("tunnel", 503, count=2)
        pair_heard = bench.pair(["B"], name="other", start=False).at_source
        client = bench.client("source", tokens.source_token, **pair_heard.callbacks())
        assert client.start().result(WAIT_SECONDS) == ("A",)
        pair_heard.wait(ConnectionSuccess)
        assert pair_heard.names() == ["ConnectionFailure", "ConnectionFailure", "ConnectionSuccess"]
        for event in pair_heard.of(ConnectionFailure):
            assert isinstance(event.error, HandshakeError)
            assert event.error.status == 503
            assert event.error.retryable

    def test_a_refusal_is_final_until_the_token_is_replaced(self, bench: ClientBench) -> None:
        pair = bench.pair(["A"], start=False)
        bench.service.rotate("tunnel", Mode.SOURCE)
        started = pair.source.start()
        with pytest.raises(HandshakeError) as caught:
            started.result(WAIT_SECONDS)
        assert caught.value.status == 400 or caught.value.status == 403
        assert pair.tokens.source_token not in str(caught.value)
        (event,) = pair.at_source.wait(ConnectionFailure)
        assert event.error is caught.value
        pair.source.replace_token(bench.service.tokens("tunnel").source_token)
        pair.at_source.wait(ConnectionSuccess)

    def test_nobody_listens(self, bench: ClientBench) -> None:
        pair = bench.pair(["A"], start=False)
        bench.service.kill()
        pair.source.start()
        (event, *_) = pair.at_source.wait(ConnectionFailure, 2)
        assert isinstance(event.error, (HandshakeError, ConnectionLost))
        bench.service.start()
        pair.at_source.wait(ConnectionSuccess)


class TestConnectionShutdown:
    def test_a_lost_connection_has_its_error(self, bench: ClientBench) -> None:
        pair = bench.pair()
        bench.service.drop("tunnel", Mode.SOURCE)
        (event,) = pair.at_source.wait(ConnectionShutdown)
        assert isinstance(event.error, ConnectionLost)
        pair.at_source.wait(ConnectionSuccess, 2)

    def test_a_stop_has_none(self, bench: ClientBench) -> None:
        pair = bench.pair()
        pair.source.stop().result(WAIT_SECONDS)
        (event,) = pair.at_source.of(ConnectionShutdown)
        assert event.error is None

    def test_a_protocol_error_of_the_peer_has_its_text(self, bench: ClientBench) -> None:
        pair = bench.pair()
        wrong = WireMessage(WireType.STREAM_START, 1, service_id="SSH", connection_id=1)
        bench.service.send_message("tunnel", Mode.SOURCE, wrong)
        (event,) = pair.at_source.wait(ConnectionShutdown)
        assert "STREAM_START" in str(event.error)


class TestMessages:
    @pytest.mark.parametrize("size_bytes", [0, 1, 64_512])
    def test_one_message_is_one_message(self, bench: ClientBench, size_bytes: int) -> None:
        pair = bench.pair()
        start_stream(bench, pair)
        payload = bytes(index % 251 for index in range(size_bytes))
        for _ in range(3):
            pair.source.send_message(Message(payload, "SSH")).result(WAIT_SECONDS)
        received = pair.at_destination.wait(MessageReceived, 3)
        assert [event.message for event in received] == [Message(payload, "SSH", 1)] * 3

    def test_it_is_not_split_when_payloads_are_to_be_small(self, bench: ClientBench) -> None:
        small = replace(LIMITS, data_payload_bytes=1_000)
        pair = bench.pair(source={"limits": small})
        start_stream(bench, pair)
        pair.source.send_message(Message(bytes(50_000), "SSH")).result(WAIT_SECONDS)
        (event,) = pair.at_destination.wait(MessageReceived)
        assert len(event.message.payload) == 50_000
        pair.source.send_bytes(bytes(2_500), "SSH").result(WAIT_SECONDS)
        sizes = [len(e.message.payload) for e in pair.at_destination.wait(MessageReceived, 4)]
        assert sizes == [50_000, 1_000, 1_000, 500]

    def test_both_ways_on_two_connections_and_two_services(self, bench: ClientBench) -> None:
        pair = bench.pair(["A", "B"])
        for service in ("A", "B"):
            pair.source.send_stream_start(service).result(WAIT_SECONDS)
        assert pair.source.send_connection_start("A").result(WAIT_SECONDS) == 2
        pair.at_destination.wait(ConnectionStarted)
        pair.at_destination.wait(StreamStarted, 2)
        ids = [("A", 1), ("A", 2), ("B", 1)]
        for service, connection in ids:
            text = f"{service}{connection}".encode()
            pair.source.send_message(Message(text, service, connection))
            pair.destination.send_message(Message(text, service, connection))
        for heard in (pair.at_source, pair.at_destination):
            received = {event.message for event in heard.wait(MessageReceived, 3)}
            assert received == {Message(f"{s}{c}".encode(), s, c) for s, c in ids}

    def test_complete_says_what_was_sent(self, bench: ClientBench) -> None:
        pair = bench.pair()
        start_stream(bench, pair)
        pair.source.send_message(Message(b"12345")).result(WAIT_SECONDS)
        events = pair.at_source.wait(SendMessageComplete, 2)
        assert [
            (e.message_type, e.service_id, e.connection_id, e.payload_bytes, e.error)
            for e in events
        ] == [
            (MessageType.STREAM_START, "SSH", 1, 0, None),
            (MessageType.DATA, "SSH", 1, 5, None),
        ]

    def test_a_failure_is_told_too(self, bench: ClientBench) -> None:
        pair = bench.pair()
        future = pair.source.send_message(Message(b"12345"))
        (event,) = pair.at_source.wait(SendMessageComplete)
        assert event.error is future.exception(WAIT_SECONDS)
        assert event.error is not None


class TestStreams:
    def test_a_destination_is_told_ids(self, bench: ClientBench) -> None:
        pair = bench.pair(["A", "B"])
        assert pair.source.send_stream_start("B").result(WAIT_SECONDS) == 1
        assert pair.source.send_connection_start("B").result(WAIT_SECONDS) == 2
        assert pair.source.send_connection_start("B", 7).result(WAIT_SECONDS) == 7
        (stream,) = pair.at_destination.wait(StreamStarted)
        connections = pair.at_destination.wait(ConnectionStarted, 2)
        assert (stream.service_id, stream.connection_id, stream.error) == ("B", 1, None)
        assert [(c.service_id, c.connection_id) for c in connections] == [("B", 2), ("B", 7)]
        pair.source.send_connection_reset("B", 2).result(WAIT_SECONDS)
        (reset,) = pair.at_destination.wait(ConnectionReset)
        assert (reset.service_id, reset.connection_id, reset.error) == ("B", 2, None)

    def test_what_cannot_be_taken_has_an_error(self, bench: ClientBench) -> None:
        pair = bench.pair(destination={"limits": replace(LIMITS, max_connections=1)})
        start_stream(bench, pair)
        pair.source.send_connection_start("SSH").result(WAIT_SECONDS)
        (event,) = pair.at_destination.wait(ConnectionStarted)
        assert event.error is not None
        assert event.connection_id == 2
        (reset,) = pair.at_source.wait(ConnectionReset)
        assert reset.connection_id == 2

    def test_what_was_sent_before_the_end_comes_before_the_end(self, bench: ClientBench) -> None:
        pair = bench.pair()
        start_stream(bench, pair)
        pair.source.send_bytes(bytes(3_000_000), "SSH")
        pair.source.send_connection_reset("SSH").result(WAIT_SECONDS)
        pair.at_destination.wait(ConnectionReset)
        received = pair.at_destination.of(MessageReceived)
        assert sum(len(event.message.payload) for event in received) == 3_000_000
        assert pair.at_destination.names()[-1] == "ConnectionReset"

    def test_nothing_is_left_of_connections_that_have_ended(self, bench: ClientBench) -> None:
        pair = bench.pair()
        start_stream(bench, pair)
        ids = []
        for round_ in range(1, 6):
            ids.append(pair.source.send_connection_start("SSH").result(WAIT_SECONDS))
            pair.at_destination.wait(ConnectionStarted, round_)
            end = (pair.source, pair.destination)[round_ % 2]
            end.send_connection_reset("SSH", ids[-1]).result(WAIT_SECONDS)
        assert ids == [2, 3, 4, 5, 6]
        for end in (pair.source, pair.destination):
            eventually(lambda end=end: end.status().connections_active == 1)  # type: ignore[misc]
        assert [event.error for event in pair.at_destination.of(ConnectionStarted)] == [None] * 5


each_version = pytest.mark.parametrize(
    "version", list(ProtocolVersion), ids=lambda version: f"V{version:d}"
)


def with_port(version: ProtocolVersion) -> dict[str, Any]:
    """Options of a source whose service is a port, which `dial` connects to."""
    return {"version": version, "name": "operator", "services": {"SSH": "127.0.0.1:0"}}


def dial(bench: ClientBench) -> socket.socket:
    address = bench.runtime.tunnel("operator").wait_listening("SSH", WAIT_SECONDS)
    assert isinstance(address, TcpAddress)
    return socket.create_connection((address.host, address.port), timeout=WAIT_SECONDS)


class TestEnds:
    """What a user is told of how a connection ended (docs/protocol.md section 3a)."""

    @each_version
    def test_an_application_that_half_closes_gets_what_the_last_callback_sends(
        self, bench: ClientBench, version: ProtocolVersion
    ) -> None:
        """`nc -N` at the other end: its end is told without an error, and answered behind that."""

        def answer(tunnel: SecureTunnel, event: ConnectionReset | StreamStopped) -> None:
            heard(tunnel, event)
            tunnel.send_message(Message(b"the answer", "SSH"))

        kind = ConnectionReset if version is V3 else StreamStopped
        name = "on_connection_reset" if version is V3 else "on_stream_stopped"
        heard = Transcript()
        pair = bench.pair(source=with_port(version), destination={name: answer})
        with dial(bench) as application:
            application.sendall(b"the question")
            application.shutdown(socket.SHUT_WR)
            assert receive_rest(application) == b"the answer"
        ended: Any
        (ended,) = heard.wait(kind)
        assert ended.error is None
        for end in (pair.source, pair.destination):
            eventually(lambda end=end: end.status().connections_active == 0)  # type: ignore[misc]
        assert len(heard.all()) == 1

    @each_version
    def test_with_half_close_the_user_says_when_it_has_sent_all(
        self, bench: ClientBench, version: ProtocolVersion
    ) -> None:
        pair = bench.pair(source=with_port(version), destination={"half_close": True})
        with dial(bench) as application:
            application.sendall(b"the question")
            application.shutdown(socket.SHUT_WR)
            (ended,) = pair.at_destination.wait(InputEnded)
            assert (ended.service_id, ended.connection_id) == ("SSH", 1)
            for part in (b"the ", b"answer"):
                pair.destination.send_message(Message(part, "SSH")).result(WAIT_SECONDS)
            assert receive_exactly(application, 10) == b"the answer"
            assert pair.destination.status().connections_active == 1
            pair.destination.send_connection_reset("SSH").result(WAIT_SECONDS)
            assert receive_rest(application) == b""
        for end in (pair.source, pair.destination):
            eventually(lambda end=end: end.status().connections_active == 0)  # type: ignore[misc]
        assert not pair.at_destination.of(ConnectionReset)

    @each_version
    @pytest.mark.parametrize("half_close", [True, False])
    def test_without_marks_an_end_is_one_of_both_directions_and_has_no_error(
        self, bench: ClientBench, version: ProtocolVersion, half_close: bool
    ) -> None:
        options = {"marks": False, "half_close": half_close}
        pair = bench.pair(source=with_port(version), destination=options)
        kind = ConnectionReset if version is V3 else StreamStopped
        with dial(bench) as application:
            application.sendall(b"the question")
            application.shutdown(socket.SHUT_WR)
            (ended,) = pair.at_destination.wait(kind)
            assert ended.error is None  # type: ignore[attr-defined]
            late = pair.destination.send_message(Message(b"late", "SSH"))
            assert isinstance(late.exception(WAIT_SECONDS), LocalProtocolError)
        assert not pair.at_destination.of(InputEnded)

    @each_version
    def test_an_application_that_breaks_off_is_an_abnormal_end(
        self, bench: ClientBench, version: ProtocolVersion
    ) -> None:
        pair = bench.pair(source=with_port(version), destination={"half_close": True})
        kind = ConnectionReset if version is V3 else StreamStopped
        with dial(bench) as application:
            application.sendall(b"12 bytes")
            pair.at_destination.wait(MessageReceived)
            application.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        (ended,) = pair.at_destination.wait(kind)
        assert isinstance(ended.error, AbnormalEnd)  # type: ignore[attr-defined]
        assert not pair.at_destination.of(InputEnded)

    @each_version
    def test_a_client_that_has_ended_a_connection_takes_nothing_more(
        self, bench: ClientBench, version: ProtocolVersion
    ) -> None:
        """Who sends to it is told so."""
        pair = bench.pair(source={"version": version}, destination={"half_close": True})
        start_stream(bench, pair)
        pair.source.send_connection_reset("SSH").result(WAIT_SECONDS)
        pair.at_destination.wait(InputEnded)
        pair.destination.send_message(Message(b"for nobody", "SSH")).result(WAIT_SECONDS)
        kind = ConnectionReset if version is V3 else StreamStopped
        (ended,) = pair.at_destination.wait(kind)
        assert isinstance(ended.error, AbnormalEnd)  # type: ignore[attr-defined]
        assert not pair.at_source.of(MessageReceived)

    @each_version
    def test_a_stop_of_the_other_side_is_an_abnormal_end(
        self, bench: ClientBench, version: ProtocolVersion
    ) -> None:
        """It was stopped before its user had said that this was all."""
        pair = bench.pair(source={"version": version})
        start_stream(bench, pair)
        sent = pair.source.send_message(Message(b"last words", "SSH"))
        pair.source.stop().result(WAIT_SECONDS)
        sent.result(WAIT_SECONDS)
        kind = ConnectionReset if version is V3 else StreamStopped
        (event,) = pair.at_destination.wait(kind)
        assert isinstance(event.error, AbnormalEnd)  # type: ignore[attr-defined]
        (received,) = pair.at_destination.of(MessageReceived)
        assert received.message.payload == b"last words", "it came before"

    @each_version
    def test_a_stop_of_this_side_is_told_as_one(
        self, bench: ClientBench, version: ProtocolVersion
    ) -> None:
        """The other side may have had more to send: an end without an error would be a lie."""
        pair = bench.pair(source={"version": version})
        start_stream(bench, pair)
        pair.destination.stop().result(WAIT_SECONDS)
        (event,) = pair.at_destination.wait(StreamStopped)
        assert isinstance(event.error, TunnelClosed)
        last = pair.at_destination.names()[-3:]
        assert last == ["StreamStopped", "ConnectionShutdown", "Stopped"]

    @each_version
    def test_a_stop_behind_the_end_of_all_connections_has_no_error(
        self, bench: ClientBench, version: ProtocolVersion
    ) -> None:
        pair = bench.pair(source={"version": version})
        start_stream(bench, pair)
        pair.source.send_connection_reset("SSH").result(WAIT_SECONDS)
        kind = ConnectionReset if version is V3 else StreamStopped
        pair.at_destination.wait(kind)
        eventually(lambda: pair.destination.status().connections_active == 0)
        pair.destination.stop().result(WAIT_SECONDS)
        (event,) = pair.at_destination.wait(StreamStopped)
        assert event.error is None

    def test_a_stream_that_is_reset_is_an_abnormal_end_there_and_none_here(
        self, bench: ClientBench
    ) -> None:
        pair = bench.pair()
        start_stream(bench, pair)
        pair.source.send_stream_reset("SSH").result(WAIT_SECONDS)
        (there,) = pair.at_destination.wait(StreamStopped)
        (here,) = pair.at_source.wait(StreamStopped)
        assert isinstance(there.error, AbnormalEnd)
        assert here.error is None

    def test_a_lost_connection_is_an_abnormal_end_on_both_sides(self, bench: ClientBench) -> None:
        pair = bench.pair()
        start_stream(bench, pair)
        bench.service.drop(pair.name, Mode.SOURCE)
        for heard in (pair.at_source, pair.at_destination):
            (event,) = heard.wait(StreamStopped)
            assert isinstance(event.error, AbnormalEnd)
            assert str(event.error)
        assert not pair.at_destination.of(ConnectionReset), "told once, by stream"


class TestStopped:
    def test_last_and_once_whatever_stops_it(self, bench: ClientBench) -> None:
        pair = bench.pair()
        start_stream(bench, pair)
        first, second = pair.source.stop(), pair.source.stop()
        first.result(WAIT_SECONDS)
        second.result(WAIT_SECONDS)
        pair.source.stop().result(WAIT_SECONDS)
        bench.runtime.stop()
        pair.at_destination.wait(Stopped)
        for heard in (pair.at_source, pair.at_destination):
            assert heard.names()[-1] == "Stopped"
            assert len(heard.of(Stopped)) == 1

    def test_a_client_that_never_connected(self, bench: ClientBench) -> None:
        pair = bench.pair(start=False)
        bench.service.kill()
        started = pair.source.start()
        pair.at_source.wait(ConnectionFailure)
        pair.source.stop().result(WAIT_SECONDS)
        assert pair.at_source.names()[-1] == "Stopped"
        assert "ConnectionShutdown" not in pair.at_source.names()
        with pytest.raises(TunnelClosed):
            started.result(WAIT_SECONDS)

    def test_it_can_be_started_again(self, bench: ClientBench) -> None:
        pair = bench.pair()
        for _ in range(2):
            pair.source.stop().result(WAIT_SECONDS)
            assert pair.source.start().result(WAIT_SECONDS) == ("SSH",)
        start_stream(bench, pair)
        pair.source.stop().result(WAIT_SECONDS)
        assert len(pair.at_source.of(Stopped)) == 3


def test_a_stream_and_session_end_once(bench: ClientBench) -> None:
    pair = bench.pair()
    start_stream(bench, pair)
    bench.service.session_reset("tunnel")
    pair.at_source.wait(SessionReset)
    pair.source.stop().result(WAIT_SECONDS)
    assert len(pair.at_source.of(StreamStopped)) == 1
