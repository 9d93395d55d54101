"""What leaves a tunnel and when: order, credit, pacing; and when its WebSocket is held.

The marks of a transcript are in `tests.support.transcripts`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.tunnel_rig import source_rig
from tests.support.waiting import eventually
from tunnelfleet.actors import events
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.tunnel import in_flight
from tunnelfleet.actors.tunnel.in_flight import FIRST_WINDOW_BYTES
from tunnelfleet.actors.tunnel.messages import PongHeard, Written
from tunnelfleet.actors.tunnel.sender import MESSAGE_OVERHEAD_BYTES, UNTOLD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.tunnel_rig import TunnelRig

    MakeRig = Callable[..., TunnelRig]

SMALL = Limits(receive_backlog_bytes=1_000, tunnel_backlog_bytes=2_500)


# -- order and credit


def test_written_of_an_old_connection_gives_no_credit(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.writes = False
    tunnel.connect()
    old = tunnel.websocket
    tunnel.lose()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 100))
    assert old is not None
    old_epoch = tunnel.epoch - 1
    tunnel.tell(Written(old_epoch, 1, blocked=False))
    assert tunnel.app("SSH/1/1").credited_bytes == 0
    tunnel.tell(Written(tunnel.epoch, 1, blocked=False))
    assert tunnel.app("SSH/1/1").credited_bytes == 100


def test_few_bytes_are_credited_as_they_leave_and_no_more_of_them(rig: MakeRig) -> None:
    tunnel = rig(pacing=False)
    tunnel.writes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.write()
    tunnel.seen()
    most = UNTOLD_BYTES // (100 + MESSAGE_OVERHEAD_BYTES)
    tunnel.app_does("SSH/1/1", lambda app: [app.read(b"x" * 100) for _ in range(most + 5)])
    assert len(tunnel.sent()) == most + 5
    assert tunnel.app("SSH/1/1").credited_bytes == most * 100
    tunnel.write(5)
    assert tunnel.app("SSH/1/1").credited_bytes == (most + 5) * 100


def test_a_local_end_is_told_behind_the_data(rig: MakeRig) -> None:
    tunnel = rig(limits=Limits(wire_window_bytes=10, data_payload_bytes=10))
    tunnel.writes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.seen()
    tunnel.app_does("SSH/1/1", lambda app: (app.read(b"a" * 10), app.read(b"b" * 10), app.end()))
    assert tunnel.sent() == ["DATA SSH 1/1 aaaaaaaaaa"]
    tunnel.write()
    assert tunnel.sent() == ["DATA SSH 1/1 bbbbbbbbbb"]
    tunnel.write()
    assert tunnel.sent() == ["CONNECTION_RESET SSH 1/1"]


def test_a_lost_connection_ends_all_streams_and_returns_the_credit(rig: MakeRig) -> None:
    tunnel = rig(limits=Limits(wire_window_bytes=10, data_payload_bytes=10))
    tunnel.writes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.app_does("SSH/1/1", lambda app: (app.read(b"x" * 25), app.read(b"y" * 75)))
    assert tunnel.app("SSH/1/1").credited_bytes == 0
    tunnel.lose()
    assert tunnel.seen() == ["SSH/1/1 opens", "SSH/1/1 is aborted"], "no ordinary end: it was cut"
    assert tunnel.app("SSH/1/1").credited_bytes == 100, "queued and on its way alike"
    assert tunnel.stats.queue_bytes == 0
    tunnel.sent()
    tunnel.connect()
    assert tunnel.sent() == [], "nothing is replayed"


def test_a_start_goes_out_before_the_data_of_others(rig: MakeRig) -> None:
    tunnel = source_rig(rig, limits=Limits(wire_window_bytes=10, data_payload_bytes=10))
    tunnel.writes = False
    tunnel.accept("SSH")
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 30))
    tunnel.sent()
    tunnel.accept("SSH")
    assert tunnel.sent() == ["CONNECTION_START* SSH 1/2"]


# -- what is in flight


def has_application(tunnel: TunnelRig) -> None:
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.sent()


def payload_bytes(sent: list[str]) -> int:
    """The sum of the payloads, which are as `<N>` in a transcript."""
    return sum(int(size) for size in re.findall(r"<(\d+)>", " ".join(sent)))


def test_an_idle_tunnel_sends_no_ping_for_its_pace(rig: MakeRig) -> None:
    tunnel = rig()
    has_application(tunnel)
    assert tunnel.pings == []


def test_a_tunnel_pings_in_front_of_its_first_byte_and_then_rarely(rig: MakeRig) -> None:
    tunnel = rig()
    has_application(tunnel)
    for _ in range(20):
        tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 64))
    assert tunnel.pings == [1]
    assert len(tunnel.sent()) == 20


@pytest.mark.parametrize("settings", [{"pacing": False}, {"bandwidth_bytes_per_second": 1e9}])
def test_without_pacing_or_with_a_bandwidth_no_ping_is_sent(
    rig: MakeRig, settings: dict[str, Any]
) -> None:
    tunnel = rig(**settings)
    tunnel.answers_pings = False
    has_application(tunnel)
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 60_000))
    assert payload_bytes(tunnel.sent()) == 60_000
    assert tunnel.pings == []


def test_what_no_pong_has_confirmed_is_bounded(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as the test lasts, on any machine.
    monkeypatch.setattr(in_flight, "FIRST_ANSWER_SECONDS", 3_600.0)
    monkeypatch.setattr(in_flight, "ANSWER_SECONDS", 3_600.0)
    tunnel = rig()
    tunnel.answers_pings = False
    has_application(tunnel)
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 60_000))
    first = payload_bytes(tunnel.sent())
    assert FIRST_WINDOW_BYTES / 2 < first <= 2 * FIRST_WINDOW_BYTES
    tunnel.tell(PongHeard(tunnel.epoch - 1, tunnel.pings[-1]))
    assert tunnel.sent() == [], "a pong of another link says nothing of this one"
    tunnel.tell(PongHeard(tunnel.epoch, tunnel.pings[-1]))
    assert payload_bytes(tunnel.sent()) > 0
    assert tunnel.stats.standing.count == 1
    assert tunnel.stats.paced_seconds > 0


def test_a_service_that_answers_no_ping_holds_up_nobody(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.answers_pings = False
    has_application(tunnel)
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 60_000))
    sent: list[str] = []
    eventually(lambda: sent.extend(tunnel.sent()) or payload_bytes(sent) == 60_000)


# -- holding the WebSocket


def test_the_websocket_is_held_while_an_application_does_not_take_its_bytes(rig: MakeRig) -> None:
    tunnel = rig(limits=SMALL)
    tunnel.takes = False
    tunnel.connect()
    tunnel.play("""
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
        << DATA SSH 1/1 <1000>
        == SSH/1/1 gets <1000>
        << DATA SSH 1/1 x
        == SSH/1/1 gets x
        >> pause
        :: SSH/1/1 takes 400
        :: SSH/1/1 takes 101
        >> resume
    """)


def test_an_application_that_is_gone_holds_nobody_up(rig: MakeRig) -> None:
    tunnel = rig(limits=SMALL)
    tunnel.takes = False
    tunnel.connect()
    tunnel.writes = False
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 <2000>")
    assert tunnel.sent() == ["pause"]
    tunnel.app_does("SSH/1/1", lambda app: app.exit())
    assert "resume" in tunnel.sent()
    assert tunnel.backlog_bytes == 0


def test_an_end_that_waits_for_the_wire_holds_nobody_up(rig: MakeRig) -> None:
    """The local socket is gone, its reset cannot leave yet: its backlog counts no more."""
    tunnel = rig(
        limits=Limits(receive_backlog_bytes=1_000, wire_window_bytes=10, data_payload_bytes=10)
    )
    tunnel.takes = tunnel.writes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 100))
    tunnel.receive("DATA SSH 1/1 <2000>")
    assert tunnel.sent() == ["DATA SSH 1/1 xxxxxxxxxx", "pause"]
    tunnel.app_does("SSH/1/1", lambda app: app.exit())
    assert tunnel.sent() == ["resume"]


def test_a_new_connection_is_not_held_by_the_old_one_s_pause(rig: MakeRig) -> None:
    tunnel = rig(limits=SMALL)
    tunnel.takes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 <2000>")
    assert tunnel.sent() == ["pause"]
    tunnel.lose()
    tunnel.app_does("SSH/1/1", lambda app: app.exit())
    tunnel.connect()
    assert tunnel.sent() == []


def test_what_an_old_socket_still_holds_pauses_the_next_connection_too(rig: MakeRig) -> None:
    tunnel = rig(limits=SMALL)
    tunnel.takes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 <2000>")
    tunnel.lose()
    tunnel.sent()
    tunnel.connect()
    assert tunnel.sent() == ["pause"], "the memory is still in use"
    tunnel.app_does("SSH/1/1", lambda app: app.take(2_000))
    assert tunnel.sent() == ["resume"]


def test_a_connection_that_stalls_the_tunnel_is_reset(rig: MakeRig) -> None:
    tunnel = rig(limits=Limits(receive_backlog_bytes=1_000, stall_timeout_seconds=0.1))
    tunnel.takes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "CONNECTION_START SSH 1/2")
    tunnel.receive("DATA SSH 1/1 <2000>", "DATA SSH 1/2 x")
    tunnel.local.wait_for(lambda items: "SSH/1/1 is aborted" in items)
    assert "SSH/1/2 is aborted" not in tunnel.seen()
    tunnel.app_does("SSH/1/1", lambda app: app.exit())
    assert "resume" in tunnel.sent()
    (closed,) = tunnel.events_of(events.ConnectionClosed)
    assert closed.reason.startswith("stalled")


@pytest.mark.parametrize("star", ["*", ""])
def test_a_stall_is_no_orderly_end_for_the_peer(rig: MakeRig, star: str) -> None:
    tunnel = rig(limits=Limits(receive_backlog_bytes=1_000, stall_timeout_seconds=0.1))
    tunnel.takes = False
    tunnel.connect()
    tunnel.receive(f"STREAM_START{star} SSH 1/1", f"DATA{star} SSH 1/1 <2000>")
    tunnel.local.wait_for(lambda items: "SSH/1/1 is aborted" in items)
    sent = tunnel.sent()
    assert "pause" in sent
    assert sent[-1] == "CONNECTION_RESET SSH 1/1"


def test_a_stall_of_what_is_over_on_the_wire_ends_no_other_connection_of_its_ids(
    rig: MakeRig,
) -> None:
    """It is cut here alone: the peer has used its ids again."""
    tunnel = rig(limits=Limits(receive_backlog_bytes=1_000, stall_timeout_seconds=0.1))
    tunnel.takes = False
    tunnel.connect()
    tunnel.receive(
        "STREAM_START SSH 1/1",
        "DATA SSH 1/1 <2000>",
        "CONNECTION_RESET SSH 1/1",
        "CONNECTION_START SSH 1/1",
    )
    assert tunnel.seen() == [
        "SSH/1/1 opens",
        "SSH/1/1' opens",
        "SSH/1/1 gets <2000>",
        "SSH/1/1 is over",
    ]
    assert tunnel.sent() == ["pause"]
    tunnel.local.wait_for(lambda items: "SSH/1/1 is aborted" in items)
    tunnel.app_does("SSH/1/1", lambda app: (app.take(2_000), app.exit()))
    tunnel.app_does("SSH/1/1'", lambda app: app.read(b"alive"))
    assert tunnel.sent() == ["resume", "DATA SSH 1/1 alive"]
    assert tunnel.stats.sum("connections_active") == 1


def test_a_stalled_connection_is_counted_once(rig: MakeRig) -> None:
    """It may take the linger time to write out what it has: that is one stall, not many."""
    tunnel = rig(limits=Limits(receive_backlog_bytes=1_000, stall_timeout_seconds=0.1))
    tunnel.takes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 <2000>")
    tunnel.local.wait_for(lambda items: items.count("SSH/1/1 is aborted") >= 1)
    tunnel.outlast(0.3)
    assert tunnel.stats.stalled_connections == 1


def test_a_connection_that_makes_progress_is_not_reset(rig: MakeRig) -> None:
    tunnel = rig(limits=Limits(receive_backlog_bytes=1_000, stall_timeout_seconds=0.2))
    tunnel.takes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 <2000>")
    for _ in range(8):
        tunnel.outlast(0.05)
        tunnel.app_does("SSH/1/1", lambda app: app.take(10))
    assert "SSH/1/1 is aborted" not in tunnel.seen()


def test_data_for_an_application_that_is_gone_is_dropped_and_counted(rig: MakeRig) -> None:
    tunnel = rig(limits=Limits(wire_window_bytes=10, data_payload_bytes=10))
    tunnel.writes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.app_does("SSH/1/1", lambda app: (app.read(b"x" * 100), app.exit()))
    tunnel.receive("DATA SSH 1/1 late")
    assert tunnel.stats.dropped_messages == {"local_end_gone": 1}
    assert tunnel.backlog_bytes == 0


# -- pace


def test_what_applications_send_is_credited_as_it_leaves(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.writes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "CONNECTION_START SSH 1/2")
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 100))
    tunnel.app_does("SSH/1/2", lambda app: app.read(b"y" * 7))
    assert tunnel.app("SSH/1/1").credited_bytes == 0
    tunnel.write()
    assert tunnel.app("SSH/1/1").credited_bytes == 100
    assert tunnel.app("SSH/1/2").credited_bytes == 0
    tunnel.write()
    assert tunnel.app("SSH/1/2").credited_bytes == 7


def test_a_paced_tunnel_sends_on_when_the_bandwidth_allows(rig: MakeRig) -> None:
    tunnel = rig(bandwidth_bytes_per_second=200_000.0)
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.app_does("SSH/1/1", lambda app: (app.read(b"x" * 30_000), app.end()))
    items = tunnel.wire.wait_for(lambda items: "CONNECTION_RESET SSH 1/1" in items)
    sizes = [int(size) for item in items for size in re.findall(r"<(\d+)>", item)]
    assert sum(sizes) == 30_000
    assert max(sizes) <= 4_000, "payloads shrink"
    assert items[-1] == "CONNECTION_RESET SSH 1/1"
    assert tunnel.stats.throttled_seconds > 0


def test_a_slow_link_lowers_the_kernel_s_queue_and_a_fast_one_raises_it(rig: MakeRig) -> None:
    tunnel = rig(limits=Limits(send_high_water_bytes=1_000_000))
    tunnel.writes = False
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 900_000))
    for _ in range(3):
        tunnel.outlast(0.12)
        tunnel.write(blocked=True)
    assert tunnel.low_water_bytes
    assert tunnel.low_water_bytes[-1] < Limits().notsent_low_water_bytes // 2
    settings = len(tunnel.low_water_bytes)
    for _ in range(60):
        tunnel.write()
    assert tunnel.low_water_bytes[-1] > tunnel.low_water_bytes[settings - 1]
    assert len(tunnel.low_water_bytes) < 20, "not at every measurement"
