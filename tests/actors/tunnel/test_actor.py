"""How a tunnel ends in good order, and what a new token does.

The marks of a transcript are in `tests.support.transcripts`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.support.sockets import is_closed
from tests.support.tunnel_rig import source_rig
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import NORMAL
from tunnelfleet.actors.tunnel.messages import Drain, Quiesced, ReplaceToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.tunnel_rig import TunnelRig

    MakeRig = Callable[..., TunnelRig]


# -- a new token


def test_a_replaced_token_ends_the_present_connection_and_the_next_starts_at_once(
    rig: MakeRig,
) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.tell(ReplaceToken())
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
    tunnel.tell(ReplaceToken())
    assert tunnel.supervised.items == ["restart websocket"]


def test_a_token_replaced_while_the_old_one_is_being_refused_is_not_lost(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.attempt()
    tunnel.tell(ReplaceToken())
    assert tunnel.sent() == ["abandon token_replaced"]
    tunnel.refuse()
    assert tunnel.supervised.items == ["restart websocket"]


# -- drain


def test_a_drained_tunnel_finishes_what_runs_and_stops(rig: MakeRig) -> None:
    tunnel = source_rig(rig)
    tunnel.accept("SSH")
    tunnel.sent(), tunnel.seen()
    tunnel.tell(Drain())
    assert tunnel.stats.state is TunnelState.DRAINING
    assert tunnel.seen() == ["listener SSH pauses"]
    assert tunnel.supervised.items == ["stop listener SSH"]
    assert is_closed(tunnel.accept("SSH"))
    tunnel.play("""
        << DATA* SSH 1/1
        :: SSH/1/1 reads last words
        >> DATA* SSH 1/1 last words
        :: SSH/1/1 ends
        >> CONNECTION_RESET* SSH 1/1
        << DATA* SSH 1/1 the answer
        == SSH/1/1 gets the answer
        << CONNECTION_RESET* SSH 1/1
        == SSH/1/1 sees the end
        == SSH/1/1 sees the end
        >> close
    """)
    tunnel.end_websocket(NORMAL)
    assert (tunnel.stats.state, tunnel.stats.reason) == (TunnelState.STOPPED, "drained")


def test_a_drain_waits_until_local_sockets_have_all_that_came(rig: MakeRig) -> None:
    tunnel = source_rig(rig)
    tunnel.takes = False
    tunnel.accept("SSH")
    tunnel.tell(Drain())
    tunnel.sent(), tunnel.seen()
    tunnel.play("""
        << DATA* SSH 1/1
        << DATA* SSH 1/1 much
        == SSH/1/1 gets much
        :: SSH/1/1 ends
        >> CONNECTION_RESET* SSH 1/1
        << CONNECTION_RESET* SSH 1/1
        == SSH/1/1 sees the end
        == SSH/1/1 sees the end
        :: SSH/1/1 takes 4
        :: SSH/1/1 is gone
        >> close
    """)


def test_a_drain_waits_for_no_reset_of_an_unmarked_peer(rig: MakeRig) -> None:
    """The C client does not answer a reset (docs/protocol.md section 4)."""
    tunnel = source_rig(rig, marks=False)
    tunnel.accept("SSH")
    tunnel.sent(), tunnel.seen()
    tunnel.tell(Drain())
    assert tunnel.seen() == ["listener SSH pauses"]
    tunnel.play("""
        :: SSH/1/1 ends
        >> CONNECTION_RESET SSH 1/1
        == SSH/1/1 is over
        >> close
    """)


def test_a_drain_waits_no_longer_than_for_the_hello(rig: MakeRig) -> None:
    tunnel = source_rig(rig, limits=Limits(hello_seconds=0.5))
    tunnel.accept("SSH")
    tunnel.tell(Drain())
    tunnel.app_does("SSH/1/1", lambda app: app.end())
    items = tunnel.wire.wait_for(lambda items: "close" in items)
    assert items[-3:] == ["STREAM_START* SSH 1/1", "CONNECTION_RESET* SSH 1/1", "close"]
    assert tunnel.seen()[-1] == "SSH/1/1 is over"


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


def test_the_random_numbers_of_the_application_are_its_own(rig: MakeRig) -> None:
    before = random.getstate()
    rig()
    assert random.getstate() == before


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
    tunnel = source_rig(rig, bandwidth_bytes_per_second=50_000.0)
    tunnel.accept("SSH")
    tunnel.tell(Drain())
    tunnel.receive("DATA* SSH 1/1", "CONNECTION_RESET* SSH 1/1")
    tunnel.app_does("SSH/1/1", lambda app: (app.read(b"x" * 3_000), app.end(), app.exit()))
    items = tunnel.wire.wait_for(lambda items: "close" in items)
    assert items[-2:] == ["CONNECTION_RESET* SSH 1/1", "close"]


# -- stop


def test_a_stopping_tunnel_sends_what_was_read_then_the_resets_then_closes(rig: MakeRig) -> None:
    tunnel = source_rig(rig, limits=Limits(wire_window_bytes=10, data_payload_bytes=10))
    tunnel.writes = False
    tunnel.accept("SSH")
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 20))
    tunnel.sent(), tunnel.seen()
    answers = tunnel.quiesce()
    assert tunnel.stats.state is TunnelState.DRAINING
    assert tunnel.seen() == ["listener SSH pauses", "SSH/1/1 stops reading"]
    tunnel.app_does("SSH/1/1", lambda app: app.end("tunnel stopped", is_orderly=False))
    sent = []
    while "close" not in sent:
        tunnel.write()
        sent += tunnel.sent()
        assert len(sent) < 10
    assert sent == ["DATA* SSH 1/1 xxxxxxxxxx"] * 2 + ["CONNECTION_RESET SSH 1/1", "close"]
    assert tunnel.seen() == ["SSH/1/1 is aborted"], "what it had still to get will not come"
    assert answers.items == [], "not before the connection has ended"
    tunnel.end_websocket(NORMAL)
    assert answers.items == [Quiesced()]


def test_a_stop_lets_a_connection_that_ends_by_itself_end_in_good_order(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START* SSH 1/1", "CONNECTION_RESET* SSH 1/1")
    tunnel.app_does("SSH/1/1", lambda app: (app.read(b"the answer"), app.end()))
    assert tunnel.sent()[1:] == ["DATA* SSH 1/1 the answer", "CONNECTION_RESET* SSH 1/1"]
    tunnel.quiesce()
    assert tunnel.sent() == ["close"]


def test_a_stop_aborts_what_the_peer_has_still_to_send(rig: MakeRig) -> None:
    """This side has ended in good order, and goes before it has all of the answer."""
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START* SSH 1/1")
    tunnel.app_does("SSH/1/1", lambda app: app.end())
    tunnel.sent(), tunnel.seen()
    tunnel.quiesce()
    assert tunnel.seen() == ["SSH/1/1 stops reading", "SSH/1/1 is aborted"]
    assert tunnel.sent() == ["CONNECTION_RESET SSH 1/1", "close"]


def test_a_stop_waits_until_local_sockets_have_all_that_came(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.takes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 much", "CONNECTION_RESET SSH 1/1")
    tunnel.quiesce()
    assert tunnel.sent() == []
    tunnel.app_does("SSH/1/1", lambda app: app.take(4))
    assert tunnel.sent() == ["close"]


@pytest.mark.parametrize(("star", "hello"), [("*", ["DATA* SSH 1/1"]), ("", [])])
def test_when_no_time_is_left_to_stop_what_is_not_whole_is_reset(
    rig: MakeRig, star: str, hello: list[str]
) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive(f"STREAM_START{star} SSH 1/1", f"CONNECTION_START{star} SSH 1/2")
    answers = tunnel.quiesce(0.05)
    items = tunnel.wire.wait_for(lambda items: "close" in items)
    assert items == [*hello, "STREAM_RESET SSH 1/1", "close"]
    assert tunnel.seen()[-2:] == ["SSH/1/1 is aborted", "SSH/1/2 is aborted"]
    tunnel.end_websocket(NORMAL)
    assert answers.items == [Quiesced()]


def test_when_no_time_is_left_to_stop_the_reset_does_not_wait_behind_the_bytes(
    rig: MakeRig,
) -> None:
    """They cannot all leave; the reset says that some are missing."""
    tunnel = rig(limits=Limits(wire_window_bytes=10, data_payload_bytes=10))
    tunnel.writes = False
    tunnel.connect()
    tunnel.receive("STREAM_START* SSH 1/1")
    tunnel.write()
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 100))
    tunnel.sent()
    tunnel.quiesce(0.05)
    tunnel.app_does("SSH/1/1", lambda app: app.end("tunnel stopped", is_orderly=False))
    items = tunnel.wire.wait_for(lambda items: "close" in items)
    assert items[1:] == ["DATA* SSH 1/1 xxxxxxxxxx", "STREAM_RESET SSH 1/1", "close"]
    assert tunnel.app("SSH/1/1").credited_bytes == 90, "the others were given up"


def test_a_stop_does_not_wait_longer_than_told(rig: MakeRig) -> None:
    """The kernel takes nothing. The supervisor ends the connection a moment later."""
    tunnel = rig()
    tunnel.writes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    answers = tunnel.quiesce(0.05)
    tunnel.wire.wait_for(lambda items: "close" in items)
    tunnel.lose()
    assert answers.items == [Quiesced()]


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
    tunnel.app_does("SSH/1/1", lambda app: app.end("tunnel stopped", is_orderly=False))
    assert tunnel.sent() == ["CONNECTION_RESET SSH 1/1", "close"]
