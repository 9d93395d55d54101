"""Every error that the send path tells apart (docs/protocol.md section 5), and what got lost."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.client_bench import LIMITS, ClientBench, ClientPair
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import (
    ConfigError,
    ConnectionIdUnknown,
    ConnectionIdUnusable,
    ConnectionLost,
    ConnectionStarted,
    Message,
    MessageReceived,
    Mode,
    NoActiveStream,
    NotConnected,
    PayloadTooLarge,
    ProtocolVersion,
    SecureTunnel,
    SendMessageComplete,
    SendQueueFull,
    ServiceIdUnknown,
    ServiceWithoutStream,
    SessionReset,
    StreamOpened,
    StreamStarted,
    StreamStopped,
    TunnelClosed,
    TunnelEvent,
    VersionMismatch,
    WrongMode,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

V1, V2, V3 = ProtocolVersion


def started(pair: ClientPair) -> None:
    pair.source.send_stream_start("A").result(WAIT_SECONDS)
    pair.at_destination.wait(StreamStarted)


def two_connections(pair: ClientPair) -> None:
    started(pair)
    pair.source.send_connection_start("A").result(WAIT_SECONDS)
    pair.at_destination.wait(ConnectionStarted)


def ended(pair: ClientPair) -> None:
    started(pair)
    pair.source.send_stream_reset("A").result(WAIT_SECONDS)
    pair.at_destination.wait(StreamStopped)


class Row(NamedTuple):
    name: str
    error: type[Exception]
    send: Callable[[ClientPair], Future[Any]]
    before: Callable[[ClientPair], None] = started
    version: ProtocolVersion = V3
    says: str = ""


ROWS = [
    Row(
        "payload too large",
        PayloadTooLarge,
        lambda p: p.source.send_message(Message(bytes(64_513), "A")),
        says="64512",
    ),
    Row(
        "destination starts a stream",
        WrongMode,
        lambda p: p.destination.send_stream_start("A"),
        says="destination",
    ),
    Row(
        "destination starts a connection",
        WrongMode,
        lambda p: p.destination.send_connection_start("A"),
    ),
    Row(
        "no active stream at all",
        NoActiveStream,
        lambda p: p.source.send_message(Message(b"x", "A")),
        lambda _p: None,
    ),
    Row(
        "no active stream, connection start",
        NoActiveStream,
        lambda p: p.source.send_connection_start("A"),
        lambda _p: None,
    ),
    Row(
        "no active stream any more",
        NoActiveStream,
        lambda p: p.destination.send_message(Message(b"x", "A")),
        ended,
    ),
    Row(
        "service id unknown",
        ServiceIdUnknown,
        lambda p: p.source.send_message(Message(b"x", "C")),
        says="A, B",
    ),
    Row("start of an unknown service", ServiceIdUnknown, lambda p: p.source.send_stream_start("C")),
    Row(
        "no service named, two there are",
        ServiceIdUnknown,
        lambda p: p.source.send_message(Message(b"x")),
    ),
    Row(
        "service without a stream",
        ServiceWithoutStream,
        lambda p: p.source.send_message(Message(b"x", "B")),
        says="'B'",
    ),
    Row(
        "connection of a service without a stream",
        ServiceWithoutStream,
        lambda p: p.source.send_connection_start("B"),
    ),
    Row(
        "reset of a service without a stream",
        ServiceWithoutStream,
        lambda p: p.source.send_stream_reset("B"),
    ),
    Row(
        "connection id unknown",
        ConnectionIdUnknown,
        lambda p: p.source.send_message(Message(b"x", "A", 2)),
        says="2",
    ),
    Row(
        "reset of an unknown connection",
        ConnectionIdUnknown,
        lambda p: p.destination.send_connection_reset("A", 5),
    ),
    Row(
        "connection id in use",
        ConnectionIdUnusable,
        lambda p: p.source.send_connection_start("A", 1),
    ),
    Row(
        "connection id out of range",
        ConnectionIdUnusable,
        lambda p: p.source.send_connection_start("A", 0),
    ),
    Row(
        "V2 has no connection ids",
        VersionMismatch,
        lambda p: p.source.send_message(Message(b"x", "A", 2)),
        version=V2,
    ),
    Row(
        "V2 has no connection ids, other end",
        VersionMismatch,
        lambda p: p.destination.send_message(Message(b"x", "A", 2)),
        version=V2,
    ),
    Row(
        "V2 has no second connection",
        VersionMismatch,
        lambda p: p.source.send_connection_start("A"),
        version=V2,
    ),
    Row(
        "V3 with several connections needs an id",
        VersionMismatch,
        lambda p: p.source.send_message(Message(b"x", "A")),
        two_connections,
        says="connection_id",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_error_is_precise(bench: ClientBench, row: Row) -> None:
    pair = bench.pair(["A", "B"], source={"version": row.version})
    row.before(pair)
    error = row.send(pair).exception(WAIT_SECONDS)
    assert type(error) is row.error
    assert row.says in str(error)
    # The callback has the same, and the tunnel goes on.
    sender = pair.at_destination if "destination" in row.name else None
    heard = [sender] if sender else [pair.at_source, pair.at_destination]
    eventually(lambda: any(e.error is error for h in heard for e in h.of(SendMessageComplete)))
    pair.source.send_stream_start("A").result(WAIT_SECONDS)
    pair.source.send_message(Message(b"goes on", "A")).result(WAIT_SECONDS)
    received = pair.at_destination.wait(MessageReceived)
    assert received[-1].message.payload == b"goes on"


class TestV1:
    def test_it_cannot_start_one_of_several_services(self, bench: ClientBench) -> None:
        pair = bench.pair(["A", "B"], source={"version": V1})
        error = pair.source.send_stream_start("A").exception(WAIT_SECONDS)
        assert type(error) is VersionMismatch

    def test_it_knows_no_name_when_there_is_none(self, bench: ClientBench) -> None:
        pair = bench.pair([], source={"version": V1})
        pair.source.send_stream_start().result(WAIT_SECONDS)
        (event,) = pair.at_destination.wait(StreamStarted)
        assert event.service_id == ""
        pair.destination.send_message(Message(b"hi")).result(WAIT_SECONDS)
        (received,) = pair.at_source.wait(MessageReceived)
        assert received.message == Message(b"hi", "", 1)


class TestNotConnected:
    def test_not_started(self, bench: ClientBench) -> None:
        pair = bench.pair(start=False)
        with pytest.raises(TunnelClosed, match="start"):
            pair.source.send_message(Message(b"x"))

    def test_started_but_offline(self, bench: ClientBench) -> None:
        pair = bench.pair(start=False)
        bench.service.kill()
        pair.source.start()
        assert type(pair.source.send_message(Message(b"x")).exception(WAIT_SECONDS)) is NotConnected
        error = pair.source.send_stream_start("SSH").exception(WAIT_SECONDS)
        assert type(error) is NotConnected

    def test_stopped(self, bench: ClientBench) -> None:
        pair = bench.pair()
        pair.source.stop()
        with pytest.raises(TunnelClosed):
            pair.source.send_message(Message(b"x"))


class TestLost:
    def test_what_had_not_left_fails_and_is_not_dropped_silently(self, bench: ClientBench) -> None:
        pair = bench.pair(["A"], but=["on_message_received"])
        started(pair)
        bench.service.stall("tunnel", Mode.SOURCE)
        futures = [pair.source.send_message(Message(bytes(64_000), "A")) for _ in range(3)]
        sender = threading.Thread(
            target=lambda: futures.extend(
                pair.source.send_message(Message(bytes(64_000), "A")) for _ in range(200)
            )
        )
        sender.start()
        # The kernel takes some megabytes, then nothing: the sender has to wait.
        eventually(lambda: futures[-1].done() is False and len(futures) > 3)
        _wait_until_held(futures)
        bench.service.drop("tunnel", Mode.SOURCE)
        bench.service.resume_reading("tunnel", Mode.SOURCE)
        sender.join(WAIT_SECONDS)
        outcomes = [future.exception(WAIT_SECONDS) for future in futures]
        assert len(outcomes) == 203
        lost = [o for o in outcomes if isinstance(o, ConnectionLost)]
        assert lost
        # Each has one outcome, in order: written, lost with the connection, refused after it.
        kinds = [type(outcome) for outcome in outcomes]
        order = [type(None), ConnectionLost, NotConnected, NoActiveStream]
        assert set(kinds) <= set(order)
        assert kinds == sorted(kinds, key=order.index)
        told = pair.at_source.wait_until(
            lambda: len(pair.at_source.of(SendMessageComplete)) == 204, SendMessageComplete
        )
        assert [event.error for event in told[1:]] == outcomes

    def test_a_stream_that_the_peer_ends_takes_what_waits_with_it(self, bench: ClientBench) -> None:
        # More may wait than is handed to the WebSocket: the rest is in the queue.
        limits = replace(LIMITS, send_high_water_bytes=2_000_000)
        pair = bench.pair(["A"], but=["on_message_received"], source={"limits": limits})
        started(pair)
        bench.service.stall("tunnel", Mode.SOURCE)
        futures: list[Future[None]] = []
        sender = threading.Thread(
            target=lambda: futures.extend(
                pair.source.send_message(Message(bytes(64_000), "A")) for _ in range(200)
            )
        )
        sender.start()
        _wait_until_held(futures)
        pair.destination.send_stream_reset("A").result(WAIT_SECONDS)
        pair.at_source.wait(StreamStopped)
        bench.service.resume_reading("tunnel", Mode.SOURCE)
        sender.join(WAIT_SECONDS)
        kinds = {type(future.exception(WAIT_SECONDS)) for future in futures}
        assert kinds == {type(None), ServiceWithoutStream, NoActiveStream}

    def test_a_stop_sends_what_was_accepted(self, bench: ClientBench) -> None:
        pair = bench.pair(["A"])
        started(pair)
        futures = [pair.source.send_message(Message(bytes(10_000), "A")) for _ in range(20)]
        pair.source.stop().result(WAIT_SECONDS)
        assert [future.exception(0) for future in futures] == [None] * 20
        received = pair.at_destination.wait(MessageReceived, 20)
        assert sum(len(event.message.payload) for event in received) == 200_000

    def test_what_cannot_be_sent_in_time_fails_at_the_stop(self, bench: ClientBench) -> None:
        limits = replace(LIMITS, stop_timeout_seconds=0.5)
        pair = bench.pair(["A"], source={"limits": limits})
        started(pair)
        bench.service.stall("tunnel", Mode.SOURCE)
        futures: list[Future[None]] = []
        with pytest.raises(SendQueueFull):  # noqa: PT012
            while True:
                futures.append(
                    pair.source.send_message(Message(bytes(64_000), "A"), timeout_seconds=1.0)
                )
        pair.source.stop().result(WAIT_SECONDS)
        kinds = [type(future.exception(0)) for future in futures]
        assert set(kinds) <= {type(None), TunnelClosed, ConnectionLost}
        assert kinds[-1] is not type(None)
        assert pair.at_source.names()[-1] == "Stopped"


class TestSockets:
    def test_streams_of_sockets_are_not_for_the_api(self, bench: ClientBench) -> None:
        pair = bench.pair(["A", "B"], source={"services": {"B": "127.0.0.1:0"}})
        error = pair.source.send_stream_start("B").exception(WAIT_SECONDS)
        assert type(error) is ConfigError
        assert "socket" in str(error)


def _wait_until_held(futures: list[Future[None]]) -> None:
    """Wait until no more are accepted: the count stands still."""
    seen = [-1]

    def stands_still() -> bool:
        former, seen[0] = seen[0], len(futures)
        pause.wait(0.2)
        return 0 < former == len(futures)

    pause = threading.Event()
    eventually(stands_still)


def test_an_answer_to_a_former_connection_reaches_no_later_one_of_its_id() -> None:
    asked, may_answer = threading.Event(), threading.Event()
    answers: list[Future[None]] = []
    opened: list[TunnelEvent] = []

    def answer(tunnel: SecureTunnel, event: MessageReceived) -> None:
        if event.message.payload == b"old":
            asked.set()
            assert may_answer.wait(WAIT_SECONDS)
            answers.append(tunnel.send_message(Message(b"late", "A", 1)))

    with ClientBench(on_event=opened.append) as bench:
        pair = bench.pair(["A"], destination={"on_message_received": answer})
        started(pair)
        pair.source.send_message(Message(b"old", "A", 1)).result(WAIT_SECONDS)
        assert asked.wait(WAIT_SECONDS)
        # While the callback is at it, the session is reset, and another stream has the same ids.
        bench.service.session_reset(pair.name)
        pair.at_source.wait(SessionReset)
        pair.source.send_stream_start("A").result(WAIT_SECONDS)
        # Two streams, each told by both ends.
        eventually(lambda: sum(isinstance(each, StreamOpened) for each in opened) == 4)
        may_answer.set()
        eventually(lambda: len(answers) == 1)
        assert isinstance(answers[0].exception(WAIT_SECONDS), ConnectionIdUnknown)
        pair.at_destination.wait(StreamStarted, 2)
        pair.destination.send_message(Message(b"right", "A", 1)).result(WAIT_SECONDS)
        pair.at_source.wait(MessageReceived)
        assert [each.message.payload for each in pair.at_source.of(MessageReceived)] == [b"right"]
