"""How a tunnel ends in good order, and what a new token does.

The marks of a transcript are in `tests.actors.transcripts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.actors.fakes import CLIENT_TOKEN, is_reset
from tests.actors.rig import source
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.kernel import NORMAL
from tunnelfleet.actors.messages import (
    Drain,
    Quiesced,
    ReplaceToken,
)
from tunnelfleet.actors.stats import TunnelState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.actors.rig import TunnelRig

    MakeRig = Callable[..., TunnelRig]


# -- a new token


def test_a_replaced_token_ends_the_present_connection_and_the_next_starts_at_once(
    rig: MakeRig,
) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.tell(ReplaceToken("new", CLIENT_TOKEN))
    assert tunnel.sent() == ["abandon token_replaced"]
    tunnel.lose("token_replaced", "its token was replaced")
    assert tunnel.supervised.items == ["restart websocket"]
    assert tunnel.stats.state is not TunnelState.BACKOFF
    tunnel.connect()
    assert tunnel.stats.reconnects == {"token_replaced": 1}


def test_a_token_replaced_in_backoff_is_tried_at_once(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.lose()
    tunnel.tell(ReplaceToken("new", None))
    assert tunnel.supervised.items == ["restart websocket"]


def test_a_token_replaced_while_the_old_one_is_being_refused_is_not_lost(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.attempt()
    tunnel.tell(ReplaceToken("new", None))
    assert tunnel.sent() == ["abandon token_replaced"]
    tunnel.refuse()
    assert tunnel.supervised.items == ["restart websocket"]


# -- drain


def test_a_drained_tunnel_finishes_what_runs_and_stops(rig: MakeRig) -> None:
    tunnel = source(rig)
    tunnel.accept("SSH")
    tunnel.sent(), tunnel.seen()
    tunnel.tell(Drain())
    assert tunnel.stats.state is TunnelState.DRAINING
    assert tunnel.seen() == ["listener SSH pauses"]
    assert tunnel.supervised.items == ["stop listener SSH"]
    assert is_reset(tunnel.accept("SSH"))
    tunnel.play("""
        :: SSH/1/1 reads last words
        >> DATA SSH 1/1 last words
        :: SSH/1/1 ends
        >> CONNECTION_RESET SSH 1/1
        << CONNECTION_RESET SSH 1/1
        == SSH/1/1 sees the end
        :: SSH/1/1 is gone
        >> close
    """)
    tunnel.end_websocket(NORMAL)
    assert (tunnel.stats.state, tunnel.stats.reason) == (TunnelState.STOPPED, "drained")


def test_a_drain_ends_although_the_peer_never_resets(rig: MakeRig) -> None:
    tunnel = source(rig)
    tunnel.accept("SSH")
    tunnel.sent(), tunnel.seen()
    tunnel.tell(Drain())
    assert tunnel.seen() == ["listener SSH pauses"]
    tunnel.play("""
        :: SSH/1/1 ends
        >> CONNECTION_RESET SSH 1/1
        :: SSH/1/1 is gone
        >> CONNECTION_RESET SSH 1/1
        >> close
    """)


def test_a_draining_destination_refuses_new_connections(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.seen()
    tunnel.tell(Drain())
    tunnel.play("""
        << CONNECTION_START SSH 1/2
        >> CONNECTION_RESET SSH 1/2
        << STREAM_START HTTP 1/1
        >> CONNECTION_RESET HTTP 1/1
    """)


def test_an_idle_tunnel_is_drained_at_once(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.tell(Drain())
    assert tunnel.sent() == ["close"]
    tunnel.tell(Drain())
    assert tunnel.sent() == [], "twice is once"


@pytest.mark.parametrize("when", ["before", "connecting", "backoff", "refused"])
def test_a_tunnel_without_a_connection_is_drained_at_once(rig: MakeRig, when: str) -> None:
    tunnel = rig()
    if when != "before":
        tunnel.attempt()
    if when == "backoff":
        tunnel.lose()
    if when == "refused":
        tunnel.refuse()
    tunnel.tell(Drain())
    assert tunnel.stats.state is TunnelState.STOPPED
    assert "stop websocket" in tunnel.supervised.items, "it must not connect again"


def test_a_connection_lost_while_draining_is_not_made_again(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.tell(Drain())
    tunnel.lose()
    assert tunnel.stats.state is TunnelState.STOPPED
    assert "stop websocket" in tunnel.supervised.items


def test_the_last_reset_leaves_before_the_close(rig: MakeRig) -> None:
    """The application is gone, its bytes and its end still wait for the bandwidth."""
    tunnel = source(rig, bandwidth_bytes_per_second=50_000.0)
    tunnel.accept("SSH")
    tunnel.tell(Drain())
    tunnel.receive("CONNECTION_RESET SSH 1/1")
    tunnel.app_does("SSH/1/1", lambda app: (app.read(b"x" * 3_000), app.end(), app.exit()))
    items = tunnel.wire.wait_for(lambda items: "close" in items)
    assert items[-2:] == ["CONNECTION_RESET SSH 1/1", "close"]


# -- stop


def test_a_stopping_tunnel_sends_what_was_read_then_the_resets_then_closes(rig: MakeRig) -> None:
    tunnel = source(rig, limits=Limits(wire_window_bytes=10, data_payload_bytes=10))
    tunnel.writes = False
    tunnel.accept("SSH")
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 20))
    tunnel.sent(), tunnel.seen()
    answers = tunnel.quiesce()
    assert tunnel.stats.state is TunnelState.DRAINING
    assert tunnel.seen() == ["listener SSH pauses", "SSH/1/1 stops reading"]
    tunnel.app_does("SSH/1/1", lambda app: app.end("tunnel stopped"))
    sent = []
    while "close" not in sent:
        tunnel.write()
        sent += tunnel.sent()
        assert len(sent) < 10
    assert sent == ["DATA SSH 1/1 xxxxxxxxxx"] * 2 + ["CONNECTION_RESET SSH 1/1", "close"]
    assert answers.items == [], "not before the connection has ended"
    tunnel.end_websocket(NORMAL)
    assert answers.items == [Quiesced()]


def test_a_stop_does_not_wait_longer_than_told(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.writes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    assert tunnel.quiesce(0.05).wait() == [Quiesced()]


@pytest.mark.parametrize("when", ["before", "connecting", "backoff", "refused"])
def test_a_tunnel_without_a_connection_stops_at_once(rig: MakeRig, when: str) -> None:
    tunnel = rig()
    if when != "before":
        tunnel.attempt()
    if when == "backoff":
        tunnel.lose()
    if when == "refused":
        tunnel.refuse()
    assert tunnel.quiesce().items == [Quiesced()]


def test_a_connection_lost_while_stopping_ends_the_wait(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    answers = tunnel.quiesce()
    tunnel.lose()
    assert answers.items == [Quiesced()]
    tunnel.attempt()
    assert tunnel.stats.state is TunnelState.DRAINING, "no backoff, no connecting any more"


def test_no_connection_is_taken_while_stopping(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.quiesce()
    tunnel.sent()
    tunnel.receive("CONNECTION_START SSH 1/2")
    assert tunnel.sent() == ["CONNECTION_RESET SSH 1/2"]


def test_a_second_request_to_stop_joins_the_first(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.quiesce()
    tunnel.quiesce()
    tunnel.app_does("SSH/1/1", lambda app: app.end())
    assert tunnel.sent() == ["CONNECTION_RESET SSH 1/1", "close"]
