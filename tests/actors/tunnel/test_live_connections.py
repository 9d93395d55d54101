"""What a tunnel tells of its connections: the table of the open ones, and the events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support.tunnel_rig import source_rig
from tunnelfleet.actors import events
from tunnelfleet.actors.tunnel.messages import Accepted

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.tunnel_rig import TunnelRig

    MakeRig = Callable[..., TunnelRig]


def test_an_open_connection_is_in_the_table_with_its_bytes(rig: MakeRig) -> None:
    before = time.time()
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 abcde")
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"xyz"))
    (live,) = tunnel.stats.connections.values()
    assert (live.service_id, live.stream_id, live.connection_id) == ("SSH", 1, 1)
    assert (live.sent_bytes, live.received_bytes) == (3, 5)
    assert before <= live.opened_at <= time.time()
    services = tunnel.context.config.services
    assert services is not None
    assert live.peer == str(services["SSH"])
    (opened,) = tunnel.events_of(events.ConnectionOpened)
    assert (opened.serial, opened.peer, opened.channel_id) == (
        live.serial,
        live.peer,
        "channel-1",
    )


def test_the_end_of_a_connection_says_all_that_is_known_of_it(rig: MakeRig) -> None:
    tunnel = source_rig(rig)
    theirs = tunnel.accept("SSH")
    ours = theirs.dup()
    tunnel.kept.append(ours)
    tunnel.tell(Accepted("HTTP", ours, "192.0.2.7:4711", "alice"))
    tunnel.app_does("HTTP/1/1", lambda app: app.read(b"x" * 700))
    tunnel.receive("DATA HTTP 1/1 <300>")
    tunnel.app_does("HTTP/1/1", lambda app: app.end())
    tunnel.receive("CONNECTION_RESET HTTP 1/1")
    (opened,) = (e for e in tunnel.events_of(events.ConnectionOpened) if e.service_id == "HTTP")
    (closed,) = tunnel.events_of(events.ConnectionClosed)
    assert (closed.peer, closed.user) == ("192.0.2.7:4711", "alice")
    assert (closed.sent_bytes, closed.received_bytes) == (700, 300)
    assert (closed.serial, closed.opened_at) == (opened.serial, opened.opened_at)
    assert (closed.ended_by, closed.channel_id) == ("local", "channel-1")
    assert [live.service_id for live in tunnel.stats.connections.values()] == ["SSH"]


def test_a_lost_link_ends_what_is_in_the_table(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "CONNECTION_START SSH 1/2")
    tunnel.lose()
    closed = tunnel.events_of(events.ConnectionClosed)
    assert sorted(event.connection_id for event in closed) == [1, 2]
    assert {event.ended_by for event in closed} == {"disconnected"}
    assert tunnel.stats.connections == {}


def test_a_crash_of_the_tunnels_actor_ends_them_too(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 abcde")
    tunnel.crash(tunnel.tunnel)
    (closed,) = tunnel.events_of(events.ConnectionClosed)
    assert (closed.ended_by, closed.received_bytes) == ("actor_ended", 5)
    assert "AttributeError" in closed.reason
    assert tunnel.stats.connections == {}
