"""StreamActor between a recorder in the place of TunnelActor and fake SocketActors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import settle, watcher_of
from tests.support.fakes import SSH_ADDRESS, Recorder
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.kernel import ExitReason
from tunnelfleet.actors.local.applications import LocalEnd, StreamActor
from tunnelfleet.actors.tunnel.messages import (
    ConnectionKey,
    LocalClosed,
    OpenLocal,
    StopStream,
)

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


def test_the_end_of_a_socket_is_told(stream: Stream) -> None:
    stream.tell(OpenLocal(KEY, None))
    stream.end_socket(0)
    assert stream.to_tunnel.items == [LocalClosed(KEY, "", True)]
    assert stream.ref.is_alive(), "a stream of V3 stays without connections"


def test_an_id_that_is_used_again_has_two_sockets_and_two_ends(stream: Stream) -> None:
    """The one before still writes out what it has, and its end takes nothing from the new one."""
    newest = KEY._replace(serial=11)
    stream.tell(OpenLocal(KEY, None), OpenLocal(newest, None))
    stream.end_socket(0)
    assert stream.to_tunnel.items == [LocalClosed(KEY, "", True)]
    stream.end_socket(1)
    assert stream.to_tunnel.items[1:] == [LocalClosed(newest, "", True)]


def test_a_socket_that_crashes_ends_its_own_connection(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    stream.tell(OpenLocal(KEY, None), OpenLocal(SECOND, None))
    stream.end_socket(0, ExitReason.failed(ZeroDivisionError("oops")))
    (ended,) = stream.to_tunnel.items
    assert isinstance(ended, LocalClosed)
    assert ended.key == KEY
    assert not ended.is_orderly, "the far application must see a cut"
    assert ended.reason.startswith("its actor failed")
    assert "oops" in ended.reason
    assert stream.sockets[1].actor_ref.is_alive()


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


def test_a_stream_ends_with_its_tunnel_whatever_sockets_it_has(stream: Stream) -> None:
    stream.tell(OpenLocal(KEY, None))
    stream.tunnel.stop()
    assert str(stream.ended.wait(1)[0].reason) == "normal"


def test_a_stream_whose_tunnel_is_gone_when_it_starts_ends(
    dispatcher: Dispatcher, connector: Connector
) -> None:
    tunnel = Recorder.start(dispatcher=dispatcher)
    tunnel.stop()
    local_end = LocalEnd(SSH_ADDRESS, None, Limits(), connector)
    ref = StreamActor.start(tunnel, local_end, dispatcher=dispatcher)
    assert ref.actor_stopped.wait(WAIT_SECONDS)
