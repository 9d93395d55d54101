"""StreamActor between a recorder in the place of TunnelActor and fake SocketActors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import settle, watcher_of
from tests.support.fakes import SSH_ADDRESS, Recorder
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.kernel import ExitReason
from tunnelfleet.actors.local.stream_actor import LocalEnd, StreamActor
from tunnelfleet.actors.tunnel.messages import (
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
from tunnelfleet.proto import End

if TYPE_CHECKING:
    from tests.support.actors import Log
    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.actors.transport.connector import Connector

KEY = ConnectionKey("SSH", 3, 1, 9)
SECOND = ConnectionKey("SSH", 3, 2, 10)


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

    def __init__(self, dispatcher: Dispatcher, connector: Connector) -> None:
        self.sockets: list[SocketStandIn] = []
        stand_in: Any = type("StandIn", (SocketStandIn,), {"made": self.sockets})
        self.dispatcher = dispatcher
        self.tunnel = Recorder.start(dispatcher=dispatcher)
        self.to_tunnel: Log = self.tunnel.ask(lambda actor: actor.log)
        self.local_end = LocalEnd(SSH_ADDRESS, "127.0.0.2", Limits(), connector)
        self.ref = StreamActor.start(
            self.tunnel, self.local_end, stand_in.start, dispatcher=dispatcher
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
def stream(dispatcher: Dispatcher, connector: Connector) -> Stream:
    return Stream(dispatcher, connector)


def test_a_connection_gets_a_socket_of_its_own(stream: Stream) -> None:
    accepted: Any = object()
    stream.tell(OpenLocal(KEY, None), OpenLocal(SECOND, accepted))
    first, second = stream.sockets
    assert first.arguments == (
        KEY,
        stream.ref,
        stream.tunnel,
        stream.local_end.limits,
        stream.local_end.lookups,
    )
    assert first.named == {"sock": None, "address": SSH_ADDRESS, "local_bind": "127.0.0.2"}
    assert second.arguments[0] == SECOND
    assert second.named["sock"] is accepted


@pytest.mark.parametrize("is_orderly", [True, False])
def test_what_sockets_read_is_handed_on_and_so_is_how_they_ended(
    stream: Stream, is_orderly: bool
) -> None:
    stream.tell(OpenLocal(KEY, None), OpenLocal(SECOND, None))
    stream.tell(LocalDataRead(SECOND, b"hello"), LocalReadEnded(SECOND, "closed", is_orderly))
    assert stream.to_tunnel.items == [
        SendData(SECOND, b"hello"),
        ConnectionEnded(SECOND, "closed", is_orderly, gone=False),
    ]


def test_what_arrives_goes_to_the_right_socket(stream: Stream) -> None:
    stream.tell(OpenLocal(KEY, None), OpenLocal(SECOND, None))
    stream.tell(
        DeliverTo(2, b"hello"),
        RemoteEndedFor(KEY, End.CUT, "cut"),
        RemoteEndedFor(SECOND, End.ORDERLY, "closed"),
    )
    first, second = stream.sockets
    assert first.log.items == [RemoteEnded(End.CUT, "cut")]
    assert second.log.items == [Deliver(b"hello"), RemoteEnded(End.ORDERLY, "closed")]


def test_what_arrives_for_an_unknown_connection_is_nobody_s(stream: Stream) -> None:
    unknown = KEY._replace(connection_id=5)
    stream.tell(OpenLocal(KEY, None), DeliverTo(5, b"hello"))
    stream.tell(RemoteEndedFor(unknown, End.CUT, "cut"))
    assert stream.sockets[0].log.items == []
    assert stream.ref.is_alive()


def test_an_id_that_is_used_again_leads_to_the_newest_socket(stream: Stream) -> None:
    """The one before still writes out what it has, and its end takes nothing from the new one."""
    newest = KEY._replace(serial=11)
    stream.tell(OpenLocal(KEY, None), OpenLocal(newest, None), DeliverTo(1, b"hello"))
    old, new = stream.sockets
    assert (old.log.items, new.log.items) == ([], [Deliver(b"hello")])
    stream.end_socket(0)
    assert stream.to_tunnel.items == [ConnectionEnded(KEY, "", True, gone=True)]
    stream.tell(DeliverTo(1, b" again"), RemoteEndedFor(newest, End.ORDERLY, "closed"))
    assert new.log.items[1:] == [Deliver(b" again"), RemoteEnded(End.ORDERLY, "closed")]


def test_a_socket_whose_id_was_used_again_can_still_be_cut(stream: Stream) -> None:
    """As when too many of them are slow to end."""
    stream.tell(OpenLocal(KEY, None), OpenLocal(KEY._replace(serial=11), None))
    stream.tell(RemoteEndedFor(KEY, End.CUT, "too many"))
    old, new = stream.sockets
    assert (old.log.items, new.log.items) == ([RemoteEnded(End.CUT, "too many")], [])


def test_the_end_of_a_socket_is_told_with_the_reason_it_gave(stream: Stream) -> None:
    stream.tell(OpenLocal(KEY, None), LocalReadEnded(KEY, "closed by the peer", True))
    stream.end_socket(0)
    assert stream.to_tunnel.items[-1] == ConnectionEnded(KEY, "closed by the peer", True, gone=True)
    stream.tell(DeliverTo(1, b"late"))
    assert stream.ref.is_alive(), "a stream of V3 stays without connections"


def test_a_socket_that_crashes_ends_its_own_connection(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    stream.tell(OpenLocal(KEY, None), OpenLocal(SECOND, None))
    stream.end_socket(0, ExitReason.failed(ZeroDivisionError("oops")))
    (ended,) = stream.to_tunnel.items
    assert ended.key == KEY
    assert ended.gone
    assert not ended.is_orderly, "the far application must see a cut"
    assert ended.reason.startswith("its actor failed")
    assert "oops" in ended.reason
    stream.tell(DeliverTo(2, b"alive"))
    assert stream.sockets[1].log.items == [Deliver(b"alive")]


def test_a_stopping_tunnel_reaches_every_socket(stream: Stream) -> None:
    stream.tell(OpenLocal(KEY, None), OpenLocal(SECOND, None), StopReadingLocal())
    assert [socket.log.items for socket in stream.sockets] == [[StopReadingLocal()]] * 2


def test_a_stopped_stream_ends_after_its_last_socket(stream: Stream) -> None:
    """TunnelActor has told each connection how it ended; the sockets still write what they have."""
    stream.tell(OpenLocal(KEY, None), OpenLocal(SECOND, None), StopStream(None))
    assert [socket.log.items for socket in stream.sockets] == [[], []]
    stream.end_socket(0)
    assert stream.ref.is_alive()
    stream.end_socket(1)
    assert str(stream.ended.wait(1)[0].reason) == "normal"


def test_a_stopped_stream_waits_for_the_sockets_of_ids_that_were_used_again(
    stream: Stream,
) -> None:
    stream.tell(OpenLocal(KEY, None), OpenLocal(KEY._replace(serial=11), None), StopStream(None))
    stream.end_socket(1)
    assert stream.ref.is_alive(), "the old socket still writes"
    stream.end_socket(0)
    stream.ended.wait(1)


def test_a_stopped_stream_without_sockets_ends_at_once(stream: Stream) -> None:
    stream.tell(StopStream(None))
    stream.ended.wait(1)
