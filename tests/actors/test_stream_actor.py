"""StreamActor between a recorder in the place of TunnelActor and fake SocketActors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from tests.actors.fakes import SSH_ADDRESS, Recorder, settle
from tests.actors.kernel.helpers import watcher_of
from tunnelfleet.actors import stream_actor
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.kernel import ExitReason
from tunnelfleet.actors.messages import (
    ConnectionEnded,
    ConnectionKey,
    Deliver,
    DeliverTo,
    LocalDataRead,
    LocalReadEnded,
    OpenLocal,
    RemoteEnded,
    RemoteEndedFor,
    SendData,
    StopReadingLocal,
    StopStream,
)
from tunnelfleet.actors.stream_actor import LocalEnd, StreamActor

if TYPE_CHECKING:
    from tests.actors.kernel.helpers import Log
    from tunnelfleet.actors.connector import Connector
    from tunnelfleet.actors.kernel import Dispatcher

KEY = ConnectionKey("SSH", 3, 1, 9)


class SocketStandIn(Recorder):
    """Records how it was started and what it is told."""

    made: list[SocketStandIn]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__()
        self.arguments = arguments
        self.named = named
        self.made.append(self)


class Stream:
    """A StreamActor with id 3 of SSH, and what its tunnel was told."""

    def __init__(
        self, dispatcher: Dispatcher, connector: Connector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.sockets: list[SocketStandIn] = []
        stand_in = type("StandIn", (SocketStandIn,), {"made": self.sockets})
        monkeypatch.setattr(stream_actor, "SocketActor", stand_in)
        self.dispatcher = dispatcher
        self.tunnel = Recorder.start(dispatcher=dispatcher)
        self.to_tunnel: Log = self.tunnel.ask(lambda actor: actor.log)
        self.local_end = LocalEnd(SSH_ADDRESS, "127.0.0.2", Limits(), connector)
        self.ref = StreamActor.start(
            "SSH", 3, self.tunnel, self.local_end, 9, dispatcher=dispatcher
        )
        self.ended = watcher_of(self.ref, dispatcher)

    def tell(self, *messages: Any) -> None:
        for message in messages:
            self.ref.tell(message)
        settle(self.dispatcher)

    def end_socket(self, index: int, reason: ExitReason | None = None) -> None:
        ref = self.sockets[index].actor_ref
        ref.tell(lambda actor: actor.exit(*([reason] if reason else [])))
        settle(self.dispatcher)


@pytest.fixture
def stream(dispatcher: Dispatcher, connector: Connector, monkeypatch: pytest.MonkeyPatch) -> Stream:
    return Stream(dispatcher, connector, monkeypatch)


def test_a_connection_gets_a_socket_of_its_own(stream: Stream) -> None:
    accepted: Any = object()
    stream.tell(OpenLocal(1, None), OpenLocal(2, accepted))
    first, second = stream.sockets
    assert first.arguments == (
        KEY,
        stream.ref,
        stream.tunnel,
        stream.local_end.limits,
        stream.local_end.connector,
    )
    assert first.named == {"sock": None, "address": SSH_ADDRESS, "local_bind": "127.0.0.2"}
    assert second.arguments[0] == KEY._replace(connection_id=2)
    assert second.named["sock"] is accepted


def test_what_sockets_read_is_stamped_with_the_ids(stream: Stream) -> None:
    stream.tell(OpenLocal(1, None), OpenLocal(2, None))
    stream.tell(LocalDataRead(2, b"hello"), LocalReadEnded(2, "closed"))
    key = KEY._replace(connection_id=2)
    assert stream.to_tunnel.items == [
        SendData(key, b"hello"),
        ConnectionEnded(key, "closed", gone=False),
    ]


def test_what_arrives_goes_to_the_right_socket(stream: Stream) -> None:
    stream.tell(OpenLocal(1, None), OpenLocal(2, None))
    stream.tell(
        DeliverTo(2, b"hello"), RemoteEndedFor(1, abort=True), RemoteEndedFor(2, abort=False)
    )
    first, second = stream.sockets
    assert first.log.items == [RemoteEnded(abort=True)]
    assert second.log.items == [Deliver(b"hello"), RemoteEnded(abort=False)]


def test_what_arrives_for_an_unknown_connection_is_nobody_s(stream: Stream) -> None:
    stream.tell(OpenLocal(1, None), DeliverTo(5, b"hello"), RemoteEndedFor(5, abort=False))
    assert stream.sockets[0].log.items == []
    assert stream.ref.is_alive()


def test_the_end_of_a_socket_is_told_with_the_reason_it_gave(stream: Stream) -> None:
    stream.tell(OpenLocal(1, None), LocalReadEnded(1, "closed by the peer"))
    stream.end_socket(0)
    assert stream.to_tunnel.items[-1] == ConnectionEnded(KEY, "closed by the peer", gone=True)
    stream.tell(DeliverTo(1, b"late"))
    assert stream.ref.is_alive(), "a stream of V3 stays without connections"


def test_a_socket_that_crashes_ends_its_own_connection(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    stream.tell(OpenLocal(1, None), OpenLocal(2, None))
    stream.end_socket(0, ExitReason.failed(ZeroDivisionError("oops")))
    (ended,) = stream.to_tunnel.items
    assert ended.key == KEY
    assert ended.gone
    assert ended.reason.startswith("its actor failed")
    assert "oops" in ended.reason
    stream.tell(DeliverTo(2, b"alive"))
    assert stream.sockets[1].log.items == [Deliver(b"alive")]


def test_a_stopping_tunnel_reaches_every_socket(stream: Stream) -> None:
    stream.tell(OpenLocal(1, None), OpenLocal(2, None), StopReadingLocal())
    assert [socket.log.items for socket in stream.sockets] == [[StopReadingLocal()]] * 2


@pytest.mark.parametrize("abort", [True, False])
def test_a_stopped_stream_ends_after_its_last_socket(stream: Stream, abort: bool) -> None:
    stream.tell(OpenLocal(1, None), OpenLocal(2, None), StopStream(abort=abort))
    assert [socket.log.items for socket in stream.sockets] == [[RemoteEnded(abort)]] * 2
    stream.end_socket(0)
    assert stream.ref.is_alive()
    stream.end_socket(1)
    assert str(stream.ended.wait(1)[0].reason) == "normal"


def test_a_stopped_stream_without_sockets_ends_at_once(stream: Stream) -> None:
    stream.tell(StopStream(abort=False))
    stream.ended.wait(1)
