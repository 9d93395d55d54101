"""The life of a tunnel's WebSocket and of its listeners.

The marks of a transcript are in `tests.support.transcripts`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.tunnel_rig import source_rig
from tunnelfleet.actors import events
from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import ANY_SERVICE, Limits
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import NORMAL, ExitReason
from tunnelfleet.actors.tunnel.messages import (
    ChildQuarantined,
    ChildWaiting,
    ListenerBound,
    ReplaceToken,
    SocketsExhausted,
)
from tunnelfleet.proto import ConnectionLost, Mode, ProtocolVersion

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.tunnel_rig import TunnelRig

    MakeRig = Callable[..., TunnelRig]


# -- the connection


def test_service_ids_make_a_tunnel_connected(rig: MakeRig) -> None:
    tunnel = rig()
    assert tunnel.stats.state is TunnelState.CONNECTING
    tunnel.attempt()
    tunnel.establish()
    assert tunnel.stats.state is TunnelState.CONNECTING, "the upgrade is not enough"
    tunnel.receive("SERVICE_IDS SSH,HTTP")
    assert tunnel.stats.state is TunnelState.CONNECTED
    assert tunnel.stats.service_ids == ("SSH", "HTTP")
    assert tunnel.stats.channel_id == "channel-1"
    (announced,) = tunnel.events_of(events.ServiceIdsReceived)
    assert (announced.service_ids, announced.channel_id) == (("SSH", "HTTP"), "channel-1")


def test_services_that_cannot_be_carried_are_told(rig: MakeRig) -> None:
    tunnel = rig(Mode.SOURCE, services={ANY_SERVICE: TcpAddress("127.0.0.1", 0)})
    tunnel.attempt()
    tunnel.establish()
    tunnel.receive("SERVICE_IDS SSH,HTTP")
    (told,) = tunnel.events_of(events.ServicesMismatched)
    assert "SSH=..., HTTP=..." in told.problem
    assert tunnel.stats.reason == told.problem


def test_a_connection_that_announces_nothing_is_dropped(rig: MakeRig) -> None:
    tunnel = rig(limits=Limits(announce_timeout_seconds=0.05))
    tunnel.attempt()
    tunnel.establish()
    assert tunnel.wire.wait() == ["abandon announce_timeout"]


def test_the_announce_timeout_of_an_old_connection_does_not_hurt_the_new_one(rig: MakeRig) -> None:
    tunnel = rig(limits=Limits(announce_timeout_seconds=1.0))
    tunnel.attempt()
    tunnel.establish()
    tunnel.outlast(0.1)
    tunnel.lose()
    tunnel.attempt()
    established_at = time.monotonic()
    tunnel.establish()
    assert tunnel.wire.wait() == ["abandon announce_timeout"]
    assert time.monotonic() - established_at >= 0.99, "it has its own time"


def test_a_lost_connection_says_why_and_when_it_is_tried_again(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.lose("ping_timeout", "the service has not answered")
    assert tunnel.stats.state is TunnelState.BACKOFF
    assert tunnel.stats.reason == "the service has not answered; retry in 1.5 s"
    tunnel.attempt()
    assert tunnel.stats.state is TunnelState.CONNECTING
    assert tunnel.stats.reason == "the service has not answered"
    assert tunnel.stats.reconnects == {}
    tunnel.establish()
    tunnel.receive("SERVICE_IDS SSH,HTTP")
    assert (tunnel.stats.state, tunnel.stats.reason) == (TunnelState.CONNECTED, "")
    assert tunnel.stats.reconnects == {"ping_timeout": 1}
    assert tunnel.stats.connect_failures == {}


def test_a_failed_attempt_is_counted_as_that(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.attempt()
    tunnel.lose("http_503", "the service answered HTTP 503")
    assert tunnel.stats.connect_failures == {"http_503": 1}
    assert tunnel.stats.reason == "the service answered HTTP 503; retry in 1.5 s"
    tunnel.connect()
    assert tunnel.stats.reconnects == {}, "nothing was lost"


def test_a_connection_that_crashed_is_counted_as_crashed(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.end_websocket(ExitReason.failed(ZeroDivisionError("oops")))
    tunnel.connect()
    assert tunnel.stats.reconnects == {"crashed": 1}


def test_a_quarantined_connection_says_so(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.attempt()
    tunnel.tell(ChildQuarantined("websocket", ExitReason.failed(ConnectionLost("lost", "gone"))))
    assert tunnel.stats.state is TunnelState.QUARANTINED
    assert "gone" in tunnel.stats.reason


def test_other_children_do_not_change_the_state(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.tell(ChildWaiting("listener SSH", 1.0))
    tunnel.tell(ChildQuarantined("listener SSH", NORMAL))
    assert tunnel.stats.state is TunnelState.CONNECTED


# -- listeners


def test_a_source_listens_from_the_start_and_accepts_when_connected(rig: MakeRig) -> None:
    tunnel = rig(Mode.SOURCE)
    assert tunnel.seen() == ["listener SSH pauses"]
    assert tunnel.stats.listening == {"SSH": ("127.0.0.1:5555",)}
    tunnel.attempt()
    tunnel.establish()
    assert tunnel.seen() == []
    tunnel.receive("SERVICE_IDS SSH,HTTP")
    assert tunnel.seen() == ["listener SSH accepts"]
    tunnel.lose()
    assert tunnel.seen() == ["listener SSH pauses"]
    (opened,) = tunnel.events_of(events.ListenerOpened)
    assert (opened.service_id, str(opened.address)) == ("SSH", "127.0.0.1:5555")


def test_a_source_without_services_listens_for_each_announced_one_once(rig: MakeRig) -> None:
    tunnel = rig(Mode.SOURCE, services=None, bind_host="127.0.0.9")
    assert tunnel.listeners == {}
    tunnel.connect("SSH,HTTP")
    assert {s: str(a.address) for s, a in tunnel.listeners.items()} == {
        "SSH": "127.0.0.9:0",
        "HTTP": "127.0.0.9:0",
    }
    tunnel.lose()
    tunnel.connect("SSH,HTTP")
    assert len(tunnel.events_of(events.ListenerOpened)) == 2


def ids(prefix: str, count: int) -> str:
    return ",".join(f"{prefix}{number}" for number in range(count))


def test_services_that_are_no_longer_announced_are_not_listened_on(rig: MakeRig) -> None:
    tunnel = rig(Mode.SOURCE, services=None)
    tunnel.connect("SSH,HTTP")
    first = {service_id: actor.actor_ref for service_id, actor in tunnel.listeners.items()}
    tunnel.lose()
    tunnel.connect("SSH,VNC")
    assert set(tunnel.stats.listening) == {"SSH", "VNC"}
    assert first["SSH"].is_alive()
    assert not first["HTTP"].is_alive()
    (closed,) = tunnel.events_of(events.ListenerClosed)
    assert (closed.service_id, closed.reason) == ("HTTP", "")
    stopped = [item for item in tunnel.supervised.items if "listener" in str(item)]
    assert [item.split()[0] for item in stopped] == ["stop", "delete"]
    tunnel.lose()
    tunnel.connect("SSH,HTTP")
    assert set(tunnel.stats.listening) == {"SSH", "HTTP"}, "it is listened on anew"


def test_new_ids_on_every_connection_leave_no_listeners_behind(rig: MakeRig) -> None:
    tunnel = rig(Mode.SOURCE, services=None, limits=Limits(max_free_listeners=10))
    for number in range(8):
        tunnel.connect(ids(f"{number}-", 256))
        assert set(tunnel.stats.listening) == set(ids(f"{number}-", 10).split(","))
        tunnel.lose()
    children = tunnel.transport.ask(lambda transport: list(transport.children.values()))
    assert len([child_id for child_id in children if "listener" in child_id]) == 10
    assert len(tunnel.context.bound) <= 10


def test_more_services_than_it_may_listen_for_are_told_and_logged_once(
    rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    tunnel = rig(Mode.SOURCE, services=None, limits=Limits(max_free_listeners=2))
    text = "3 of 5 announced services are not listened on: max_free_listeners is 2"
    for _ in range(3):
        tunnel.connect(ids("S", 5))
        tunnel.lose()
    assert set(tunnel.stats.listening) == {"S0", "S1"}
    told = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert told == [f"tunnel press-4: {text}"]
    tunnel.connect(ids("S", 2))
    assert set(tunnel.stats.listening) == {"S0", "S1"}


def test_listeners_that_were_asked_for_stay_whatever_is_announced(rig: MakeRig) -> None:
    tunnel = rig(Mode.SOURCE)
    tunnel.connect("HTTP")
    assert set(tunnel.stats.listening) == {"SSH"}


def test_each_address_of_a_name_is_told(rig: MakeRig) -> None:
    tunnel = rig(Mode.SOURCE)
    listener = tunnel.listeners["SSH"].actor_ref
    four, six = TcpAddress("127.0.0.1", 5555), TcpAddress("::1", 5555)
    tunnel.tell(ListenerBound("SSH", listener, four, (six,)))
    assert tunnel.stats.listening == {"SSH": ("127.0.0.1:5555", "[::1]:5555")}
    opened = [str(event.address) for event in tunnel.events_of(events.ListenerOpened)]
    assert opened[-2:] == ["127.0.0.1:5555", "[::1]:5555"]


@pytest.mark.parametrize("operation", ["accept", "listen", "local_connect"])
def test_a_socket_that_the_system_does_not_give_is_counted(rig: MakeRig, operation: str) -> None:
    tunnel = rig()
    tunnel.tell(SocketsExhausted(operation))
    tunnel.tell(SocketsExhausted(operation))
    assert tunnel.stats.exhausted_operations == {operation: 2}
    assert tunnel.stats.last_event.startswith(operation)


def test_a_source_of_a_tunnel_without_services_listens_for_its_only_one(rig: MakeRig) -> None:
    tunnel = rig(Mode.SOURCE, services=None, version=ProtocolVersion.V1)
    tunnel.connect("")
    assert list(tunnel.listeners) == [ANY_SERVICE]
    tunnel.seen()
    tunnel.play("""
        :: - accepts
        == -/1/1 opens
        >> STREAM_START* - 1
    """)


def test_a_listener_that_ended_is_taken_from_the_list(rig: MakeRig) -> None:
    tunnel = source_rig(rig)
    listener = tunnel.listeners["SSH"].actor_ref
    tunnel.do(listener, lambda actor: actor.exit(ExitReason.failed(OSError("port is taken"))))
    assert tunnel.stats.listening == {}
    (closed,) = tunnel.events_of(events.ListenerClosed)
    assert closed.reason == "port is taken"
    assert tunnel.stats.last_event == "port is taken"


# -- refusal


def test_a_refused_tunnel_says_why_and_waits_for_a_token(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.attempt()
    tunnel.refuse()
    assert (tunnel.stats.state, tunnel.stats.reason) == (TunnelState.REFUSED, "HTTP 403")
    assert tunnel.stats.connect_failures == {"http_403": 1}
    assert tunnel.supervised.items == []
    tunnel.tell(ReplaceToken())
    assert tunnel.supervised.items == ["restart websocket"]
    tunnel.connect()
    assert tunnel.stats.state is TunnelState.CONNECTED
