"""Streams and connections by transcript: V1, V2 and V3, as destination and as source.

The marks of a transcript are in `tests.support.transcripts`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.support.sockets import is_closed
from tests.support.tunnel_rig import source_rig
from tunnelfleet.actors import events
from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import ANY_SERVICE, Limits
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.proto import Mode, ProtocolVersion

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.tunnel_rig import TunnelRig

    MakeRig = Callable[..., TunnelRig]

SSH_ONLY = {ANY_SERVICE: TcpAddress("127.0.0.1", 22)}


# -- old connections


def test_messages_of_an_old_connection_are_not_taken(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    old = tunnel.epoch
    tunnel.lose()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", epoch=old)
    assert tunnel.seen() == []
    tunnel.receive("STREAM_START SSH 1/1")
    assert tunnel.seen() == ["SSH/1/1 opens"]


def test_messages_after_the_loss_and_before_the_next_connection_are_not_taken(
    rig: MakeRig,
) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.lose()
    tunnel.receive("STREAM_START SSH 1/1")
    assert tunnel.seen() == []


# -- destination, V3


def test_a_marked_connection_of_v3_from_start_to_end(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1 opens
        << DATA* SSH 1/1 hello
        == SSH/1/1 gets hello
        :: SSH/1/1 reads world
        >> DATA* SSH 1/1 world
        << CONNECTION_START* SSH 1/2
        == SSH/1/2 opens
        << CONNECTION_RESET* SSH 1/1
        == SSH/1/1 sees the end
        :: SSH/1/1 reads bye
        >> DATA* SSH 1/1 bye
        :: SSH/1/1 ends
        >> CONNECTION_RESET* SSH 1/1
        == SSH/1/1 sees the end
        :: SSH/1/1 is gone
        << DATA* SSH 1/2 still here
        == SSH/1/2 gets still here
    """)
    check_counted(tunnel, received=15, sent=8, ended_by="peer")


def test_an_unmarked_connection_of_v3_from_start_to_end(rig: MakeRig) -> None:
    """The peer's reset is the end of both directions: not a message for it follows."""
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
        << DATA SSH 1/1 hello
        == SSH/1/1 gets hello
        :: SSH/1/1 reads world
        >> DATA SSH 1/1 world
        << CONNECTION_START SSH 1/2
        == SSH/1/2 opens
        << CONNECTION_RESET SSH 1/1
        == SSH/1/1 is over
        :: SSH/1/1 reads bye
        :: SSH/1/1 ends
        :: SSH/1/1 is gone
        << DATA SSH 1/2 still here
        == SSH/1/2 gets still here
    """)
    check_counted(tunnel, received=15, sent=5, ended_by="peer")


def check_counted(tunnel: TunnelRig, *, received: int, sent: int, ended_by: str) -> None:
    """One of two connections of the only stream has ended."""
    service = tunnel.stats.services["SSH"]
    assert (service.received_bytes, service.sent_bytes) == (received, sent)
    assert (service.connections_opened, service.connections_active) == (2, 1)
    assert (service.streams_opened, service.streams_active) == (1, 1)
    assert service.connections_ended == {ended_by: 1}


def test_the_address_of_each_service_is_connected_to(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "STREAM_START HTTP 1/1")
    assert tunnel.app("SSH/1/1").address == TcpAddress("127.0.0.1", 22)
    assert tunnel.app("HTTP/1/1").address == TcpAddress("127.0.0.1", 80)


def test_after_a_local_end_what_the_peer_sends_is_still_delivered(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1 opens
        :: SSH/1/1 ends
        >> CONNECTION_RESET* SSH 1/1
        << DATA* SSH 1/1 the rest
        == SSH/1/1 gets the rest
        << CONNECTION_RESET* SSH 1/1
        == SSH/1/1 sees the end
        == SSH/1/1 sees the end
        :: SSH/1/1 is gone
    """)
    assert tunnel.stats.sum("connections_active") == 0


def test_after_a_local_end_nothing_is_delivered_on_an_unmarked_stream(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
        :: SSH/1/1 ends
        >> CONNECTION_RESET SSH 1/1
        == SSH/1/1 is over
        << DATA SSH 1/1 too late
        << CONNECTION_RESET SSH 1/1
        :: SSH/1/1 is gone
    """)
    assert tunnel.stats.sum("connections_active") == 0
    assert tunnel.stats.dropped_messages == {"unknown_connection": 1, "duplicate_reset": 1}


def test_a_burst_arrives_as_its_messages(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.receive_burst("DATA SSH 1/1 one", b"two", b"", b"three")
    assert tunnel.seen() == ["SSH/1/1 opens", "SSH/1/1 gets onetwothree"]
    service = tunnel.stats.services["SSH"]
    assert (service.received_messages, service.received_bytes) == (4, 11)
    # Of a stream that is over, or was never there, each is dropped.
    tunnel.receive_burst("DATA SSH 9/1 one", b"two", b"three")
    assert tunnel.stats.dropped_messages == {"stale_stream": 3}


def test_a_burst_for_an_application_that_is_gone_is_answered_once(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1 opens
        :: SSH/1/1 ends
        >> CONNECTION_RESET* SSH 1/1
        :: SSH/1/1 is gone
    """)
    tunnel.receive_burst("DATA* SSH 1/1 for nobody", b"nor this")
    assert tunnel.sent() == ["CONNECTION_RESET SSH 1/1"]
    assert tunnel.stats.dropped_messages == {"application_closed": 1, "unknown_connection": 1}


def test_when_the_application_is_gone_the_peer_is_told_once_that_nobody_takes_its_bytes(
    rig: MakeRig,
) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1 opens
        :: SSH/1/1 ends
        >> CONNECTION_RESET* SSH 1/1
        :: SSH/1/1 is gone
        << DATA* SSH 1/1 for nobody
        >> CONNECTION_RESET SSH 1/1
        << DATA* SSH 1/1 on its way
    """)
    assert tunnel.stats.dropped_messages == {"application_closed": 1, "unknown_connection": 1}
    assert tunnel.stats.sum("connections_active") == 0


def test_an_unmarked_reset_after_a_marked_one_aborts_what_still_sends(rig: MakeRig) -> None:
    """What the peer has ended in good order it may still cut: its application has gone."""
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1 opens
        << CONNECTION_RESET* SSH 1/1
        == SSH/1/1 sees the end
        << CONNECTION_RESET SSH 1/1
        == SSH/1/1 is aborted
        :: SSH/1/1 reads too late
        :: SSH/1/1 is gone
    """)
    assert tunnel.stats.sum("connections_active") == 0


def test_a_second_marked_reset_says_nothing_new(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1 opens
        << CONNECTION_RESET* SSH 1/1
        == SSH/1/1 sees the end
        << CONNECTION_RESET* SSH 1/1
        :: SSH/1/1 reads still here
        >> DATA* SSH 1/1 still here
    """)
    assert tunnel.stats.dropped_messages == {"duplicate_reset": 1}


def test_a_stream_reset_of_v3_ends_all_its_connections_and_nothing_is_answered(
    rig: MakeRig,
) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
        << CONNECTION_START SSH 1/2
        == SSH/1/2 opens
        << STREAM_START HTTP 1/1
        == HTTP/1/1 opens
        << STREAM_RESET SSH 1/1
        == SSH/1/1 is over
        == SSH/1/2 is over
        :: SSH/1/1 reads too late
        :: SSH/1/1 is gone
        :: SSH/1/2 is gone
        << DATA HTTP 1/1 alive
        == HTTP/1/1 gets alive
    """)
    (closed,) = tunnel.events_of(events.StreamClosed)
    assert (closed.service_id, closed.stream_id, closed.reason) == ("SSH", 1, "peer_reset")
    assert tunnel.app("SSH/1/1").credited_bytes == len("too late"), "credit comes back"


def test_a_new_stream_of_a_service_replaces_the_old_one(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
        << STREAM_START SSH 2/1
        == SSH/1/1 is aborted
        == SSH/2/1 opens
        << DATA SSH 1/1 stale
        << DATA SSH 2/1 fresh
        == SSH/2/1 gets fresh
    """)
    assert tunnel.stats.dropped_messages == {"stale_stream": 1}


def test_a_restarted_peer_may_use_its_ids_again_while_the_old_sockets_flush(rig: MakeRig) -> None:
    """The old connection of the same ids lives on beside the new one, and ends alone."""
    tunnel = rig()
    tunnel.takes = False
    tunnel.connect()
    tunnel.play("""
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
        << DATA SSH 1/1 old bytes
        == SSH/1/1 gets old bytes
        << STREAM_RESET SSH 1/1
        == SSH/1/1 is over
        << STREAM_START SSH 1/1
        == SSH/1/1' opens
        << DATA SSH 1/1 new bytes
        == SSH/1/1' gets new bytes
        :: SSH/1/1 takes 9
        :: SSH/1/1 is gone
        :: SSH/1/1' reads alive
        >> DATA SSH 1/1 alive
        << DATA SSH 1/1 more
        == SSH/1/1' gets more
        :: SSH/1/1' takes 13
    """)
    assert tunnel.stats.sum("connections_active") == 1
    assert tunnel.backlog_bytes == 0


def test_the_end_of_an_old_connection_forgets_no_new_one_with_its_ids(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1 opens
        << STREAM_RESET SSH 1/1
        == SSH/1/1 is aborted
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1' opens
        :: SSH/1/1' ends
        >> CONNECTION_RESET* SSH 1/1
        :: SSH/1/1 is gone
        << DATA* SSH 1/1 the answer
        == SSH/1/1' gets the answer
    """)


def test_an_id_is_free_as_soon_as_both_directions_have_ended_on_the_wire(rig: MakeRig) -> None:
    """The old socket is still being written to, and the new connection is not in its way."""
    tunnel = rig()
    tunnel.takes = False
    tunnel.connect()
    tunnel.play("""
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1 opens
        << DATA* SSH 1/1 bytes
        == SSH/1/1 gets bytes
        :: SSH/1/1 ends
        >> CONNECTION_RESET* SSH 1/1
        << CONNECTION_RESET* SSH 1/1
        == SSH/1/1 sees the end
        == SSH/1/1 sees the end
        << CONNECTION_START* SSH 1/1
        == SSH/1/1' opens
        << DATA* SSH 1/1 new
        == SSH/1/1' gets new
        :: SSH/1/1 takes 5
        :: SSH/1/1 is gone
        :: SSH/1/1' reads alive
        >> DATA* SSH 1/1 alive
        :: SSH/1/1' takes 3
    """)
    assert tunnel.backlog_bytes == 0
    assert tunnel.stats.sum("connections_active") == 1


@pytest.mark.parametrize("half", ["local", "remote"])
def test_an_id_of_which_one_direction_is_left_is_not_free(rig: MakeRig, half: str) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START* SSH 1/1")
    if half == "local":
        tunnel.app_does("SSH/1/1", lambda app: app.end())
    else:
        tunnel.receive("CONNECTION_RESET* SSH 1/1")
    tunnel.sent(), tunnel.seen()
    tunnel.play("""
        << CONNECTION_START* SSH 1/1
        >> CONNECTION_RESET SSH 1/1
        == SSH/1/1 is aborted
    """)
    assert tunnel.stats.dropped_messages == {"duplicate_connection": 1}


@pytest.mark.parametrize(("star", "seen"), [("*", "is aborted"), ("", "is over")])
def test_a_connection_that_is_started_twice_is_reset(rig: MakeRig, star: str, seen: str) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive(f"STREAM_START{star} SSH 1/1")
    tunnel.sent(), tunnel.seen()
    tunnel.play(f"""
        << CONNECTION_START{star} SSH 1/1
        == SSH/1/1 {seen}
        >> CONNECTION_RESET SSH 1/1
    """)
    assert tunnel.stats.dropped_messages == {"duplicate_connection": 1}


def test_a_session_reset_ends_all_streams_and_keeps_the_connection(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
        << STREAM_START HTTP 4/1
        == HTTP/4/1 opens
        << SESSION_RESET
        == SSH/1/1 is aborted
        == HTTP/4/1 is aborted
        :: SSH/1/1 is gone
        :: HTTP/4/1 is gone
        << STREAM_START SSH 2/1
        == SSH/2/1 opens
    """)
    assert tunnel.stats.session_resets == 1
    assert tunnel.stats.state is TunnelState.CONNECTED
    assert tunnel.event_names().count("SessionWasReset") == 1


def test_a_service_without_an_address_is_refused(rig: MakeRig) -> None:
    tunnel = rig(services={"SSH": TcpAddress("127.0.0.1", 22)})
    tunnel.connect("SSH,HTTP")
    tunnel.play("""
        << STREAM_START HTTP 1/1
        >> CONNECTION_RESET HTTP 1/1
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
    """)
    assert tunnel.stats.dropped_messages == {"refused_start": 1}


def test_a_service_that_was_not_announced_is_reset(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect("SSH")
    tunnel.play("""
        << STREAM_START HTTP 1/1
        >> STREAM_RESET HTTP 1/1
    """)


def test_refused_connections_leave_nothing_behind(rig: MakeRig) -> None:
    """A peer that does not echo resets (the C client) must not use up the ids of its stream."""
    tunnel = rig(limits=Limits(max_connections=1))
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.receive(*(f"CONNECTION_START SSH 1/{number}" for number in range(2, 5_000)))
    assert len(tunnel.sent()) == 4_998
    tunnel.app_does("SSH/1/1", lambda app: app.exit())
    tunnel.receive("CONNECTION_START SSH 1/5000")
    assert tunnel.seen() == ["SSH/1/1 opens", "SSH/1/5000 opens"]


def test_a_peer_that_breaks_the_protocol_loses_its_connection(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
        << STREAM_START SSH 0/1
        >> abandon protocol_error
    """)


def test_nothing_is_taken_after_a_protocol_error(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
        << DATA SSH 0/1 broken
        >> abandon protocol_error
        << DATA SSH 1/1 after a gap
    """)


def test_what_came_before_a_protocol_error_is_delivered(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive(
        "STREAM_START SSH 1/1", "DATA SSH 1/1 good", "DATA SSH 0/1 bad", "DATA SSH 1/1 no"
    )
    assert tunnel.seen() == ["SSH/1/1 opens", "SSH/1/1 gets good"]


def test_a_new_version_within_a_connection_is_a_protocol_error(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
        << STREAM_START SSH 2
        >> abandon protocol_error
    """)


def test_a_crashed_stream_is_reset_on_the_wire_and_no_other(
    rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "CONNECTION_START SSH 1/2", "STREAM_START HTTP 1/1")
    tunnel.seen()
    tunnel.crash(tunnel.app("SSH/1/1").stream)
    assert tunnel.sent() == ["STREAM_RESET SSH 1/1"]
    assert tunnel.stats.services["SSH"].connections_active == 0
    assert tunnel.stats.services["SSH"].streams_active == 0
    tunnel.play("""
        << DATA HTTP 1/1 alive
        == HTTP/1/1 gets alive
        << STREAM_START SSH 2/1
        == SSH/2/1 opens
    """)


# -- destination, V1 and V2


def test_a_marked_stream_of_v1_from_start_to_end(rig: MakeRig) -> None:
    tunnel = rig(services=SSH_ONLY)
    tunnel.connect("SSH")
    tunnel.play("""
        << STREAM_START* - 1
        >> DATA* - 1
        == SSH/1/1 opens
        << DATA* - 1 hello
        == SSH/1/1 gets hello
        :: SSH/1/1 reads world
        >> DATA* - 1 world
        :: SSH/1/1 ends
        >> STREAM_RESET* - 1
        << DATA* - 1 rest
        == SSH/1/1 gets rest
        << STREAM_RESET* - 1
        == SSH/1/1 sees the end
        == SSH/1/1 sees the end
        :: SSH/1/1 is gone
    """)
    assert tunnel.stats.services["SSH"].streams_ended == {"peer_reset": 1}
    assert tunnel.stats.sum("connections_active") == 0


def test_an_unmarked_stream_of_v1_from_start_to_end(rig: MakeRig) -> None:
    """AWS's C client dies of what follows its reset, or ours (docs/protocol.md section 4)."""
    tunnel = rig(services=SSH_ONLY)
    tunnel.connect("SSH")
    tunnel.play("""
        << STREAM_START - 1
        == SSH/1/1 opens
        << DATA - 1 hello
        == SSH/1/1 gets hello
        :: SSH/1/1 reads world
        >> DATA - 1 world
        << STREAM_RESET - 1
        == SSH/1/1 is over
        :: SSH/1/1 reads too late
        :: SSH/1/1 ends
        :: SSH/1/1 is gone
        << STREAM_START - 2
        == SSH/2/1 opens
        :: SSH/2/1 ends
        >> STREAM_RESET - 2
        == SSH/2/1 is over
        << DATA - 2 too late
        << STREAM_RESET - 2
    """)
    assert tunnel.stats.services["SSH"].streams_ended == {"peer_reset": 1, "local_reset": 1}


def test_a_stream_of_v2_ends_for_its_service_alone(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.play("""
        << STREAM_START* SSH 1
        >> DATA* SSH 1
        == SSH/1/1 opens
        << STREAM_START HTTP 1
        == HTTP/1/1 opens
        << STREAM_RESET* SSH 1
        == SSH/1/1 sees the end
        :: SSH/1/1 reads the rest
        >> DATA* SSH 1 the rest
        :: SSH/1/1 ends
        >> STREAM_RESET* SSH 1
        == SSH/1/1 sees the end
        :: SSH/1/1 is gone
        :: HTTP/1/1 reads alive
        >> DATA HTTP 1 alive
    """)


def test_the_next_stream_of_v1_replaces_the_one_before(rig: MakeRig) -> None:
    tunnel = rig(services=SSH_ONLY)
    tunnel.connect("SSH")
    tunnel.play("""
        << STREAM_START - 1
        == SSH/1/1 opens
        << STREAM_START - 2
        == SSH/1/1 is aborted
        == SSH/2/1 opens
    """)


def test_a_refused_stream_of_v1_is_reset(rig: MakeRig) -> None:
    tunnel = rig(services={"HTTP": TcpAddress("127.0.0.1", 80)})
    tunnel.connect("SSH")
    tunnel.play("""
        << STREAM_START - 1
        >> STREAM_RESET - 1
    """)


# -- source


def test_ids_of_v3_are_chosen_as_the_observed_clients_do(rig: MakeRig) -> None:
    tunnel = source_rig(rig)
    tunnel.play("""
        :: SSH accepts
        == SSH/1/1 opens
        >> STREAM_START* SSH 1/1
        :: SSH accepts
        == SSH/1/2 opens
        >> CONNECTION_START* SSH 1/2
        :: SSH/1/1 reads hello
        >> DATA* SSH 1/1 hello
        << DATA* SSH 1/1
        << DATA* SSH 1/2 world
        == SSH/1/2 gets world
        :: SSH/1/1 ends
        >> CONNECTION_RESET* SSH 1/1
        << CONNECTION_RESET* SSH 1/1
        == SSH/1/1 sees the end
        == SSH/1/1 sees the end
        :: SSH/1/1 is gone
        :: SSH accepts
        == SSH/1/3 opens
        >> CONNECTION_START* SSH 1/3
        << STREAM_RESET SSH 1/2
        == SSH/1/2 is aborted
        == SSH/1/3 is aborted
        :: SSH accepts
        == SSH/2/1 opens
        >> STREAM_START* SSH 2/1
    """)


def test_ids_are_the_same_without_marks(rig: MakeRig) -> None:
    tunnel = source_rig(rig, marks=False)
    tunnel.play("""
        :: SSH accepts
        == SSH/1/1 opens
        >> STREAM_START SSH 1/1
        :: SSH accepts
        == SSH/1/2 opens
        >> CONNECTION_START SSH 1/2
        :: SSH/1/1 ends
        >> CONNECTION_RESET SSH 1/1
        == SSH/1/1 is over
        << CONNECTION_RESET SSH 1/1
        :: SSH accepts
        == SSH/1/3 opens
        >> CONNECTION_START SSH 1/3
        << STREAM_RESET SSH 1/2
        == SSH/1/2 is over
        == SSH/1/3 is over
        :: SSH accepts
        == SSH/2/1 opens
        >> STREAM_START SSH 2/1
    """)


def test_the_socket_that_was_accepted_is_the_one_that_is_served(rig: MakeRig) -> None:
    tunnel = source_rig(rig)
    theirs = tunnel.accept("SSH")
    ours = tunnel.app("SSH/1/1").sock
    assert ours is not None
    ours.send(b"it is you")
    assert theirs.recv(100) == b"it is you"


@pytest.mark.parametrize(
    ("version", "wire"),
    [(ProtocolVersion.V1, "- {stream}"), (ProtocolVersion.V2, "SSH {stream}")],
)
def test_in_v1_and_v2_the_next_caller_takes_the_place_of_the_one_before(
    rig: MakeRig, version: ProtocolVersion, wire: str
) -> None:
    tunnel = rig(Mode.SOURCE, version=version)
    tunnel.connect("SSH")
    tunnel.seen()
    first, second = wire.format(stream=1), wire.format(stream=2)
    tunnel.play(f"""
        :: SSH accepts
        == SSH/1/1 opens
        >> STREAM_START* {first}
        :: SSH accepts
        >> STREAM_RESET {first}
        >> STREAM_START* {second}
        == SSH/1/1 is aborted
        == SSH/2/1 opens
        << DATA {first} stale
        << DATA {second} fresh
        == SSH/2/1 gets fresh
    """)


def test_a_caller_that_comes_while_there_is_no_connection_is_reset(rig: MakeRig) -> None:
    tunnel = source_rig(rig)
    tunnel.lose()
    tunnel.seen()
    assert is_closed(tunnel.accept("SSH"))
    assert (tunnel.seen(), tunnel.sent()) == ([], [])


def test_a_caller_for_a_service_that_the_tunnel_lacks_is_reset_and_people_are_told(
    rig: MakeRig,
) -> None:
    tunnel = rig(Mode.SOURCE)
    tunnel.connect("HTTP")
    assert is_closed(tunnel.accept("SSH"))
    assert "SSH" in tunnel.stats.last_event


def test_a_source_to_which_a_start_is_sent_drops_the_connection(rig: MakeRig) -> None:
    tunnel = source_rig(rig)
    tunnel.play("""
        << STREAM_START SSH 1/1
        >> abandon protocol_error
    """)


# -- limits on connections


def test_a_destination_refuses_more_connections_than_allowed(rig: MakeRig) -> None:
    tunnel = rig(limits=Limits(max_connections=2))
    tunnel.connect()
    tunnel.play("""
        << STREAM_START SSH 1/1
        == SSH/1/1 opens
        << STREAM_START HTTP 1/1
        == HTTP/1/1 opens
        << CONNECTION_START SSH 1/2
        >> CONNECTION_RESET SSH 1/2
        :: HTTP/1/1 ends
        >> CONNECTION_RESET HTTP 1/1
        == HTTP/1/1 is over
        << CONNECTION_START SSH 1/3
        == SSH/1/3 opens
    """)


def test_a_connection_of_which_one_direction_is_left_keeps_its_place(rig: MakeRig) -> None:
    tunnel = rig(limits=Limits(max_connections=1))
    tunnel.connect()
    tunnel.play("""
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1 opens
        :: SSH/1/1 ends
        >> CONNECTION_RESET* SSH 1/1
        << CONNECTION_START* SSH 1/2
        >> CONNECTION_RESET SSH 1/2
        << CONNECTION_RESET* SSH 1/1
        == SSH/1/1 sees the end
        == SSH/1/1 sees the end
        << CONNECTION_START* SSH 1/3
        == SSH/1/3 opens
    """)


def test_a_source_stops_accepting_at_the_limit_and_goes_on_below_it(rig: MakeRig) -> None:
    tunnel = source_rig(rig, limits=Limits(max_connections=2))
    tunnel.accept("SSH")
    tunnel.accept("SSH")
    assert tunnel.seen() == ["SSH/1/1 opens", "listener SSH pauses", "SSH/1/2 opens"]
    assert is_closed(tunnel.accept("SSH")), "it was accepted already when the pause came"
    tunnel.app_does("SSH/1/1", lambda app: app.exit())
    assert tunnel.seen() == ["listener SSH accepts"]
