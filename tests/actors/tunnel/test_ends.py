"""How connections end, by transcript: marked and unmarked streams (docs/protocol.md section 3a).

The marks of a transcript are in `tests.support.transcripts`. What a local socket says of an end:
it "sees the end" of the peer's direction, "is over" when both directions are, and "is aborted".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.fakes import FakeLane
from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.api.messages import (
    ApiEvent,
    ConnectionReset,
    InputEnded,
    Outgoing,
    SendMessageComplete,
    StreamStarted,
    StreamStopped,
)
from tunnelfleet.actors.api.outbox import Outbox
from tunnelfleet.actors.config import ANY_SERVICE, ApiService, Limits
from tunnelfleet.actors.kernel import NORMAL
from tunnelfleet.proto import MessageType, Mode, ProtocolVersion

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.tunnel_rig import TunnelRig

    MakeRig = Callable[..., TunnelRig]

V1, V2, V3 = ProtocolVersion
SOON = Limits(hello_seconds=0.05)


class WireText(NamedTuple):
    """How a version writes a connection, and its reset."""

    ids: str
    reset: str


WIRE = {
    V1: WireText("- 1", "STREAM_RESET"),
    V2: WireText("SSH 1", "STREAM_RESET"),
    V3: WireText("SSH 1/1", "CONNECTION_RESET"),
}
every_version = pytest.mark.parametrize("version", list(ProtocolVersion))


def connected_destination(make_rig: MakeRig, **settings: Any) -> TunnelRig:
    tunnel = make_rig(**settings)
    tunnel.connect("SSH")
    return tunnel


def started(make_rig: MakeRig, version: ProtocolVersion = V3, **settings: Any) -> TunnelRig:
    """A source that has sent its first STREAM_START, whose hello may come."""
    tunnel = make_rig(Mode.SOURCE, version=version, **settings)
    tunnel.connect("SSH")
    tunnel.accept("SSH")
    tunnel.sent(), tunnel.seen()
    return tunnel


def half_closed(make_rig: MakeRig, version: ProtocolVersion = V3) -> TunnelRig:
    """A source whose application has ended before its start has left for the kernel."""
    tunnel = make_rig(Mode.SOURCE, version=version, limits=SOON)
    tunnel.connect("SSH")
    tunnel.writes = False
    tunnel.accept("SSH")
    tunnel.app_does("SSH/1/1", lambda app: app.end())
    return tunnel


# -- the hello


@every_version
def test_a_destination_says_hello_before_anything_else(
    rig: MakeRig, version: ProtocolVersion
) -> None:
    ids, reset = WIRE[version]
    tunnel = connected_destination(rig)
    tunnel.receive(f"STREAM_START* {ids}")
    tunnel.app_does("SSH/1/1", lambda app: (app.read(b"banner"), app.end()))
    assert tunnel.sent() == [f"DATA* {ids}", f"DATA* {ids} banner", f"{reset}* {ids}"]


@every_version
def test_a_destination_says_hello_to_a_start_that_it_refuses(
    rig: MakeRig, version: ProtocolVersion
) -> None:
    ids, reset = WIRE[version]
    tunnel = connected_destination(rig, services={"HTTP": TcpAddress("127.0.0.1", 80)})
    tunnel.play(f"""
        << STREAM_START* {ids}
        >> DATA* {ids}
        >> {reset} {ids}
    """)
    assert tunnel.stats.dropped_messages == {"refused_start": 1}


@every_version
@pytest.mark.parametrize(("marks", "star"), [(True, ""), (False, "*"), (False, "")])
def test_it_says_none_to_an_unmarked_start_nor_without_marks(
    rig: MakeRig, version: ProtocolVersion, marks: bool, star: str
) -> None:
    ids, reset = WIRE[version]
    tunnel = connected_destination(rig, marks=marks)
    tunnel.play(f"""
        << STREAM_START{star} {ids}
        == SSH/1/1 opens
        :: SSH/1/1 reads world
        >> DATA {ids} world
        << {reset}{star} {ids}
        == SSH/1/1 is over
        :: SSH/1/1 reads more
        :: SSH/1/1 ends
    """)


def test_the_hello_is_no_event_and_no_byte(rig: MakeRig) -> None:
    tunnel = started(rig)
    events = tunnel.event_names()
    tunnel.receive("DATA* SSH 1/1")
    assert tunnel.seen() == []
    assert tunnel.event_names() == events
    assert tunnel.stats.services["SSH"].received_bytes == 0
    assert tunnel.stats.dropped_messages == {}


def test_connections_of_a_stream_share_its_hello(rig: MakeRig) -> None:
    tunnel = connected_destination(rig)
    tunnel.play("""
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1 opens
        << CONNECTION_START* SSH 1/2
        == SSH/1/2 opens
        << CONNECTION_START SSH 1/3
        == SSH/1/3 opens
        :: SSH/1/3 ends
        >> CONNECTION_RESET* SSH 1/3
        << DATA* SSH 1/3 the rest
        == SSH/1/3 gets the rest
    """)


@every_version
def test_a_source_that_ends_before_the_hello_gets_the_answer_behind_it(
    rig: MakeRig, version: ProtocolVersion
) -> None:
    ids, reset = WIRE[version]
    tunnel = started(rig, version)
    tunnel.play(f"""
        :: SSH/1/1 reads question
        >> DATA* {ids} question
        :: SSH/1/1 ends
        >> {reset}* {ids}
        << DATA* {ids}
        << DATA* {ids} answer
        == SSH/1/1 gets answer
        << {reset}* {ids}
        == SSH/1/1 sees the end
        == SSH/1/1 sees the end
    """)
    assert tunnel.stats.sum("connections_active") == 0


@every_version
@pytest.mark.parametrize("first", ["DATA {ids} answer", "{reset} {ids}", "{reset}* {ids}"])
def test_a_source_that_ends_before_any_other_message_is_over(
    rig: MakeRig, version: ProtocolVersion, first: str
) -> None:
    """The peer does not know of half-closed connections: nothing is sent for it any more."""
    ids, reset = WIRE[version]
    tunnel = started(rig, version)
    tunnel.play(f"""
        :: SSH/1/1 reads question
        >> DATA* {ids} question
        :: SSH/1/1 ends
        >> {reset}* {ids}
        << {first.format(ids=ids, reset=reset)}
        == SSH/1/1 is over
        << DATA {ids} more
        << {reset} {ids}
        :: SSH/1/1 is gone
    """)
    assert tunnel.stats.sum("connections_active") == 0
    assert tunnel.stats.services["SSH"].received_bytes == 0


@every_version
@pytest.mark.parametrize("first", ["DATA {ids} answer", "DATA* {ids} answer", "DATA {ids}"])
def test_a_source_goes_on_unmarked_when_something_else_comes_first(
    rig: MakeRig, version: ProtocolVersion, first: str
) -> None:
    ids, reset = WIRE[version]
    tunnel = started(rig, version)
    tunnel.receive(first.format(ids=ids))
    assert tunnel.seen() == [f"SSH/1/1 gets {'answer' if 'answer' in first else ''}"]
    tunnel.play(f"""
        :: SSH/1/1 reads question
        >> DATA {ids} question
        << DATA* {ids} echoed
        == SSH/1/1 gets echoed
        :: SSH/1/1 ends
        >> {reset} {ids}
        == SSH/1/1 is over
    """)


@every_version
def test_a_source_that_ends_and_hears_nothing_is_over_after_the_time_for_the_hello(
    rig: MakeRig, version: ProtocolVersion
) -> None:
    ids, reset = WIRE[version]
    tunnel = half_closed(rig, version)
    assert tunnel.sent() == [f"STREAM_START* {ids}", f"{reset}* {ids}"]
    tunnel.write(2)
    tunnel.local.wait_for(lambda items: "SSH/1/1 is over" in items)
    assert tunnel.sent() == [], "a second reset would harm the C client"
    assert tunnel.stats.sum("connections_active") == 0


def test_what_starts_after_an_overdue_hello_does_not_wait_for_one(rig: MakeRig) -> None:
    """It is asked all the same: a peer that does tell ends apart may have been slow."""
    tunnel = half_closed(rig)
    tunnel.writes = True
    tunnel.write(2)
    tunnel.local.wait_for(lambda items: "SSH/1/1 is over" in items)
    tunnel.receive("STREAM_RESET SSH 1/1")
    tunnel.sent(), tunnel.seen()
    tunnel.play("""
        :: SSH accepts
        == SSH/2/1 opens
        >> STREAM_START* SSH 2/1
        :: SSH/2/1 reads question
        >> DATA SSH 2/1 question
        :: SSH/2/1 ends
        >> CONNECTION_RESET SSH 2/1
        == SSH/2/1 is over
        :: SSH accepts
        == SSH/2/2 opens
        >> CONNECTION_START SSH 2/2
        << DATA* SSH 2/1
        :: SSH/2/2 ends
        >> CONNECTION_RESET* SSH 2/2
        << DATA* SSH 2/2 answer
        == SSH/2/2 gets answer
    """)


def test_a_hello_in_time_is_never_overdue(rig: MakeRig) -> None:
    tunnel = started(rig, limits=Limits(hello_seconds=0.5))
    tunnel.app_does("SSH/1/1", lambda app: app.end())
    tunnel.receive("DATA* SSH 1/1")
    tunnel.outlast(0.6)
    tunnel.receive("DATA* SSH 1/1 late")
    assert tunnel.seen() == ["SSH/1/1 gets late"]


def test_the_time_for_the_hello_runs_from_when_the_start_has_left(rig: MakeRig) -> None:
    tunnel = half_closed(rig)
    tunnel.outlast(0.15)
    assert "SSH/1/1 is over" not in tunnel.seen()
    tunnel.write(2)
    tunnel.local.wait_for(lambda items: "SSH/1/1 is over" in items)


def test_the_time_for_the_hello_stands_still_while_the_link_is_not_read(rig: MakeRig) -> None:
    """The hello may be there, unread."""
    limits = Limits(hello_seconds=0.3, receive_backlog_bytes=1_000)
    tunnel = rig(Mode.SOURCE, limits=limits, services=None)
    tunnel.takes = False
    tunnel.connect("SSH,HTTP")
    tunnel.accept("HTTP")
    tunnel.receive("DATA HTTP 1/1 <2000>")
    tunnel.accept("SSH")
    tunnel.app_does("SSH/1/1", lambda app: app.end())
    assert "pause" in tunnel.sent()
    tunnel.outlast(0.5)
    assert "SSH/1/1 is over" not in tunnel.seen()
    tunnel.app_does("HTTP/1/1", lambda app: app.take(2_000))
    assert tunnel.sent() == ["resume"]
    tunnel.local.wait_for(lambda items: "SSH/1/1 is over" in items)


# -- unmarked peers


@every_version
def test_after_the_reset_of_an_unmarked_peer_nothing_is_sent(
    rig: MakeRig, version: ProtocolVersion
) -> None:
    """Neither what waited in the queue nor what the application goes on writing, nor a reset."""
    ids, reset = WIRE[version]
    tunnel = connected_destination(rig, limits=Limits(wire_window_bytes=10, data_payload_bytes=10))
    tunnel.writes = False
    tunnel.receive(f"STREAM_START {ids}")
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"x" * 50))
    assert tunnel.sent() == [f"DATA {ids} xxxxxxxxxx"]
    tunnel.receive(f"{reset} {ids}")
    assert tunnel.app("SSH/1/1").credited_bytes == 40, "it may go on reading, and discard"
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"y" * 50))
    assert tunnel.app("SSH/1/1").credited_bytes == 90
    tunnel.write()
    tunnel.app_does("SSH/1/1", lambda app: (app.end(), app.exit()))
    assert tunnel.sent() == []
    assert tunnel.seen() == ["SSH/1/1 opens", "SSH/1/1 is over"]
    assert tunnel.stats.sum("connections_active") == 0


@pytest.mark.parametrize("mode", [Mode.DESTINATION, Mode.SOURCE])
def test_1500_connections_to_a_peer_that_answers_no_reset_wait_for_nothing(
    rig: MakeRig, mode: Mode
) -> None:
    """Id and place are free at once, although every socket lingers, and none is aborted."""
    tunnel = rig(mode, limits=Limits(max_connections=10, max_lingering_connections=2_000))
    tunnel.connect("SSH")
    if mode is Mode.SOURCE:
        tunnel.accept("SSH")
        tunnel.receive("DATA SSH 1/1 unmarked")
    else:
        tunnel.receive("STREAM_START SSH 1/1")
    tunnel.sent(), tunnel.seen()
    for number in range(2, 1_502):
        if mode is Mode.SOURCE:
            tunnel.accept("SSH").close()
        else:
            tunnel.receive(f"CONNECTION_START SSH 1/{number}")
        tunnel.app_does(f"SSH/1/{number}", lambda app: app.end())
    seen = tunnel.seen()
    assert [each for each in seen if "listener" in each or "aborted" in each] == []
    assert seen == [
        f"SSH/1/{number} {what}" for number in range(2, 1_502) for what in ("opens", "is over")
    ]
    resets = [item for item in tunnel.sent() if item.startswith("CONNECTION_RESET ")]
    assert resets == [f"CONNECTION_RESET SSH 1/{number}" for number in range(2, 1_502)]
    assert tunnel.stats.services["SSH"].connections_active == 1
    tunnel.receive("CONNECTION_RESET SSH 1/2", "DATA SSH 1/3 late")
    assert tunnel.sent() == []


def test_the_oldest_sockets_that_linger_are_cut_above_their_limit(rig: MakeRig) -> None:
    tunnel = connected_destination(rig, limits=Limits(max_lingering_connections=2))
    tunnel.receive("STREAM_START SSH 1/1", *(f"CONNECTION_START SSH 1/{n}" for n in (2, 3, 4)))
    tunnel.seen()
    tunnel.play("""
        :: SSH/1/3 ends
        >> CONNECTION_RESET SSH 1/3
        == SSH/1/3 is over
        :: SSH/1/1 ends
        >> CONNECTION_RESET SSH 1/1
        == SSH/1/1 is over
        :: SSH/1/2 ends
        >> CONNECTION_RESET SSH 1/2
        == SSH/1/3 is aborted
        == SSH/1/2 is over
        :: SSH/1/1 is gone
        :: SSH/1/4 ends
        >> CONNECTION_RESET SSH 1/4
        == SSH/1/4 is over
    """)


# -- ends in no good order


@every_version
@pytest.mark.parametrize(("star", "hello"), [("*", True), ("", False)])
@pytest.mark.parametrize("before", ["nothing", "bytes", "the end of the peer"])
def test_a_local_end_that_broke_is_an_unmarked_reset_behind_its_bytes(
    rig: MakeRig, version: ProtocolVersion, star: str, hello: bool, before: str
) -> None:
    ids, reset = WIRE[version]
    tunnel = connected_destination(rig)
    tunnel.receive(f"STREAM_START{star} {ids}")
    assert tunnel.sent() == [f"DATA* {ids}"] * hello
    expected = []
    if before == "bytes":
        tunnel.app_does("SSH/1/1", lambda app: app.read(b"12 bytes"))
        expected.append(f"DATA{star} {ids} 12 bytes")
    elif before == "the end of the peer":
        tunnel.receive(f"{reset}{star} {ids}")
    tunnel.app_does("SSH/1/1", lambda app: app.end("broke", is_orderly=False))
    if before != "the end of the peer" or hello:
        expected.append(f"{reset} {ids}")
    assert tunnel.sent() == expected
    assert tunnel.stats.sum("connections_active") == 0


@every_version
def test_a_socket_actor_that_crashes_is_an_unmarked_reset(
    rig: MakeRig, version: ProtocolVersion, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    ids, reset = WIRE[version]
    tunnel = connected_destination(rig)
    tunnel.receive(f"STREAM_START* {ids}")
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"bytes"))
    tunnel.crash(tunnel.app("SSH/1/1").actor_ref)
    assert tunnel.sent() == [f"DATA* {ids}", f"DATA* {ids} bytes", f"{reset} {ids}"]
    assert tunnel.stats.sum("connections_active") == 0


@every_version
@pytest.mark.parametrize("how", ["crash", "break", "go"])
def test_a_half_closed_application_that_goes_ends_the_peer_s_direction(
    rig: MakeRig, version: ProtocolVersion, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What breaks is told at once; who has closed in good order is told of when more comes."""
    caplog.set_level(logging.CRITICAL)
    ids, reset = WIRE[version]
    tunnel = connected_destination(rig)
    tunnel.receive(f"STREAM_START* {ids}")
    tunnel.app_does("SSH/1/1", lambda app: app.end())
    assert tunnel.sent() == [f"DATA* {ids}", f"{reset}* {ids}"]
    if how == "crash":
        tunnel.crash(tunnel.app("SSH/1/1").actor_ref)
    elif how == "break":
        tunnel.app_does("SSH/1/1", lambda app: app.end("gone", is_orderly=False))
    else:
        tunnel.app_does("SSH/1/1", lambda app: app.exit())
        assert tunnel.sent() == []
        tunnel.receive(f"DATA* {ids} for nobody")
    assert tunnel.sent() == [f"{reset} {ids}"]
    tunnel.receive(f"DATA* {ids} on its way")
    assert tunnel.sent() == [], "once"
    assert tunnel.stats.sum("connections_active") == 0


def test_an_application_that_goes_before_the_hello_is_told_of_behind_it(rig: MakeRig) -> None:
    """Its reset has been sent, and a second one would harm the C client: the hello decides."""
    tunnel = started(rig)
    tunnel.play("""
        :: SSH/1/1 ends
        >> CONNECTION_RESET* SSH 1/1
        :: SSH/1/1 breaks
        == SSH/1/1 is aborted
        << DATA* SSH 1/1
        >> CONNECTION_RESET SSH 1/1
        << DATA* SSH 1/1 answer
        << DATA* SSH 1/1 more
    """)


def test_an_unmarked_reset_of_a_marked_stream_cuts(rig: MakeRig) -> None:
    tunnel = connected_destination(rig)
    tunnel.play("""
        << STREAM_START* SSH 1/1
        >> DATA* SSH 1/1
        == SSH/1/1 opens
        << CONNECTION_START* SSH 1/2
        == SSH/1/2 opens
        :: SSH/1/2 ends
        >> CONNECTION_RESET* SSH 1/2
        << CONNECTION_RESET SSH 1/1
        == SSH/1/1 is aborted
        << CONNECTION_RESET SSH 1/2
        == SSH/1/2 is aborted
        :: SSH/1/1 reads too late
        :: SSH/1/1 ends
        :: SSH/1/1 is gone
    """)
    assert tunnel.stats.sum("connections_active") == 0


# -- V1 and V2: nobody might tell a half-closed end that the other one died


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize("half", ["local", "remote"])
def test_before_v3_a_half_closed_connection_has_its_time(
    rig: MakeRig, version: ProtocolVersion, half: str
) -> None:
    ids, reset = WIRE[version]
    tunnel = connected_destination(rig, limits=Limits(half_close_seconds=0.05))
    tunnel.receive(f"STREAM_START* {ids}")
    if half == "local":
        tunnel.app_does("SSH/1/1", lambda app: app.end())
    else:
        tunnel.receive(f"{reset}* {ids}")
    tunnel.local.wait_for(lambda items: "SSH/1/1 is aborted" in items)
    assert tunnel.sent()[-1] == f"{reset} {ids}"
    assert tunnel.stats.sum("connections_active") == 0
    assert tunnel.stats.services["SSH"].streams_active == 0


@pytest.mark.parametrize("version", [V1, V2])
def test_the_time_of_a_half_closed_connection_runs_once_and_ends_with_it(
    rig: MakeRig, version: ProtocolVersion
) -> None:
    ids, reset = WIRE[version]
    tunnel = connected_destination(rig, limits=Limits(half_close_seconds=0.05))
    tunnel.receive(f"STREAM_START* {ids}")
    tunnel.app_does("SSH/1/1", lambda app: app.end())
    tunnel.receive(f"{reset}* {ids}")
    tunnel.sent(), tunnel.seen()
    tunnel.outlast(0.15)
    assert (tunnel.sent(), tunnel.seen()) == ([], [])


def test_in_v3_no_clock_ends_a_half_closed_connection(rig: MakeRig) -> None:
    tunnel = connected_destination(rig, limits=Limits(half_close_seconds=0.05, linger_seconds=0.05))
    tunnel.receive(
        "STREAM_START* SSH 1/1", "CONNECTION_START* SSH 1/2", "CONNECTION_RESET* SSH 1/2"
    )
    tunnel.app_does("SSH/1/1", lambda app: app.end())
    tunnel.sent(), tunnel.seen()
    tunnel.outlast(0.15)
    tunnel.play("""
        << DATA* SSH 1/1 late
        == SSH/1/1 gets late
        :: SSH/1/2 reads late
        >> DATA* SSH 1/2 late
    """)


# -- a link that does not survive marks


def lose_after_marks(tunnel: TunnelRig, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Send something marked, lose the link, come back; return the warnings so far."""
    tunnel.accept("SSH")
    tunnel.lose()
    tunnel.connect("SSH")
    tunnel.sent(), tunnel.seen()
    return [record.getMessage() for record in caplog.records if "ignorable" in record.getMessage()]


def test_a_link_that_is_lost_twice_right_after_marks_goes_on_without(
    rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    tunnel = rig(Mode.SOURCE)
    tunnel.connect("SSH")
    assert lose_after_marks(tunnel, caplog) == []
    (warning,) = lose_after_marks(tunnel, caplog)
    assert "press-4" in warning
    tunnel.play("""
        :: SSH accepts
        == SSH/3/1 opens
        >> STREAM_START SSH 3/1
        :: SSH/3/1 ends
        >> CONNECTION_RESET SSH 3/1
        == SSH/3/1 is over
    """)
    assert len(lose_after_marks(tunnel, caplog)) == 1, "it is said once"


def test_a_destination_whose_hello_is_the_last_of_two_links_goes_on_without(
    rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    tunnel = connected_destination(rig)
    for _ in range(2):
        assert not caplog.records
        tunnel.receive("STREAM_START* SSH 1/1")
        tunnel.lose()
        tunnel.connect("SSH")
    tunnel.sent()
    tunnel.receive("STREAM_START* SSH 1/1")
    assert tunnel.sent() == []
    assert len(caplog.records) == 1


def test_a_link_on_which_the_peer_was_heard_after_marks_is_no_reason(
    rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    tunnel = rig(Mode.SOURCE)
    for _ in range(4):
        tunnel.connect("SSH")
        tunnel.accept("SSH")
        stream = tunnel.sent()[-1].removeprefix("STREAM_START* SSH ")
        tunnel.receive(f"DATA SSH {stream} unmarked")
        tunnel.lose()
    assert not caplog.records


def test_a_stop_in_good_order_is_no_reason(rig: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    tunnel = rig(Mode.SOURCE)
    for _ in range(4):
        tunnel.connect("SSH")
        tunnel.accept("SSH")
        tunnel.end_websocket(NORMAL)
    tunnel.connect("SSH")
    tunnel.accept("SSH")
    assert tunnel.sent()[-1].startswith("STREAM_START* ")
    assert not caplog.records


# -- the client API


class Api:
    """A tunnel whose streams end at a user, whose callbacks run when the test says so."""

    def __init__(
        self, make_rig: MakeRig, version: ProtocolVersion = V3, *, half_close: bool = False
    ) -> None:
        self.callback_queue = FakeLane()
        self.port = Outbox("press-4", Limits(), self.callback_queue, half_close=half_close)  # type: ignore[arg-type]
        self.port.wanted = frozenset(
            {ConnectionReset, InputEnded, SendMessageComplete, StreamStarted, StreamStopped}
        )
        self.rig = make_rig(services={ANY_SERVICE: ApiService()}, port=self.port)
        self.rig.connect("SSH")
        self.ids, self.reset = WIRE[version]

    def start(self, star: str = "*") -> None:
        self.rig.receive(f"STREAM_START{star} {self.ids}")
        assert [type(event) for event in self.callback_queue.run()] == [StreamStarted]
        assert self.rig.sent() == ([f"DATA* {self.ids}"] if star else [])

    def submit(self, kind: MessageType, payload: bytes = b"") -> None:
        """What a thread of the user does."""
        self.port.submit([Outgoing(kind, "SSH", 1, payload)], 0)

    def send(self, payload: bytes) -> list[str]:
        self.submit(MessageType.DATA, payload)
        return self.rig.sent()

    def end(self) -> list[str]:
        self.submit(MessageType.CONNECTION_RESET)
        return self.rig.sent()

    def events(self, callback: Callable[[ApiEvent], object] = lambda _event: None) -> list[str]:
        """Run the callbacks; return what they were told, failures to send too."""
        self.rig.settle()
        told = []
        for event in self.callback_queue.run(callback):
            error = getattr(event, "error", None)
            if error is None and isinstance(event, SendMessageComplete):
                continue
            told.append(type(event).__name__ + (f": {type(error).__name__}" if error else ""))
        self.rig.settle()
        return told


def ended_event(version: ProtocolVersion) -> str:
    return "ConnectionReset" if version is V3 else "StreamStopped"


@every_version
def test_with_half_close_the_user_sends_on_after_the_peer_s_end(
    rig: MakeRig, version: ProtocolVersion
) -> None:
    api = Api(rig, version, half_close=True)
    api.start()
    api.rig.receive(f"{api.reset}* {api.ids}")
    assert api.events() == ["InputEnded"]
    assert api.rig.sent() == []
    assert api.send(b"the answer") == [f"DATA* {api.ids} the answer"]
    assert api.end() == [f"{api.reset}* {api.ids}"]
    assert api.events() == ([] if version is V3 else ["StreamStopped"])
    assert api.rig.stats.sum("connections_active") == 0


@every_version
def test_without_it_the_reset_goes_back_behind_what_the_callbacks_hand_over(
    rig: MakeRig, version: ProtocolVersion
) -> None:
    api = Api(rig, version)
    api.start()
    api.rig.receive(f"DATA* {api.ids} question", f"{api.reset}* {api.ids}")
    assert api.rig.sent() == [], "not before the callbacks have returned"
    answer = lambda _event: api.submit(MessageType.DATA, b"the answer")  # noqa: E731
    assert api.events(answer) == [ended_event(version)]
    assert api.rig.sent() == [f"DATA* {api.ids} the answer", f"{api.reset}* {api.ids}"]
    assert api.events() == []
    assert api.rig.stats.sum("connections_active") == 0
    api.submit(MessageType.DATA, b"too late")
    (failure,) = api.events()
    assert failure.startswith("SendMessageComplete: ")
    assert api.rig.sent() == []


@every_version
@pytest.mark.parametrize("half_close", [True, False])
def test_an_unmarked_reset_of_a_marked_stream_has_an_error(
    rig: MakeRig, version: ProtocolVersion, half_close: bool
) -> None:
    api = Api(rig, version, half_close=half_close)
    api.start()
    api.rig.receive(f"{api.reset} {api.ids}")
    assert api.events() == [f"{ended_event(version)}: AbnormalEnd"]
    assert api.rig.sent() == []
    assert api.rig.stats.sum("connections_active") == 0


@every_version
@pytest.mark.parametrize("half_close", [True, False])
def test_a_reset_of_an_unmarked_stream_has_no_error_and_ends_both_directions(
    rig: MakeRig, version: ProtocolVersion, half_close: bool
) -> None:
    api = Api(rig, version, half_close=half_close)
    api.start(star="")
    api.rig.receive(f"{api.reset} {api.ids}")
    answer = lambda _event: api.submit(MessageType.DATA, b"late")  # noqa: E731
    told = api.events(answer)
    assert told == [ended_event(version)]
    assert api.rig.sent() == [], "not a byte, and no reset"
    assert api.rig.stats.sum("connections_active") == 0


@pytest.mark.parametrize("version", [V1, V2])
def test_with_half_close_the_end_of_a_stream_is_told_when_both_directions_are_over(
    rig: MakeRig, version: ProtocolVersion
) -> None:
    api = Api(rig, version, half_close=True)
    api.start()
    assert api.end() == [f"{api.reset}* {api.ids}"]
    assert api.events() == []
    api.rig.receive(f"{api.reset}* {api.ids}")
    assert api.events() == ["StreamStopped"]
    assert api.rig.sent() == []


@every_version
def test_data_for_a_connection_that_the_user_has_ended_is_answered_once(
    rig: MakeRig, version: ProtocolVersion
) -> None:
    api = Api(rig, version)
    api.start()
    assert api.end() == [f"{api.reset}* {api.ids}"]
    api.rig.receive(f"DATA* {api.ids} for nobody", f"DATA* {api.ids} and more")
    assert api.rig.sent() == [f"{api.reset} {api.ids}"]
    assert "MessageReceived" not in api.events()
    assert api.rig.stats.dropped_messages["application_closed"] == 1
    assert api.rig.stats.sum("connections_active") == 0


@every_version
def test_what_the_user_has_handed_over_leaves_before_a_stop_and_an_unmarked_reset(
    rig: MakeRig, version: ProtocolVersion
) -> None:
    api = Api(rig, version)
    api.start()
    api.submit(MessageType.DATA, b"last words")
    api.rig.quiesce()
    assert api.rig.sent() == [
        f"DATA* {api.ids} last words",
        f"{api.reset} {api.ids}",
        "close",
    ]


def test_a_lost_link_is_the_abnormal_end_of_its_streams(rig: MakeRig) -> None:
    api = Api(rig)
    api.start()
    api.rig.lose()
    assert api.events() == ["StreamStopped: AbnormalEnd"]


def test_the_service_s_reset_of_a_stream_is_its_abnormal_end(rig: MakeRig) -> None:
    """As when the peer was replaced."""
    api = Api(rig)
    api.start()
    api.rig.receive("STREAM_RESET SSH 1/1")
    assert api.events() == ["StreamStopped: AbnormalEnd"]
    assert api.rig.sent() == []
