"""The session's rules, each as a transcript (docs/protocol.md sections 2 to 4)."""

from __future__ import annotations

import pytest

from tests.support.wire import (
    SESSION_RESET,
    V1,
    V2,
    V3,
    T,
    connection_reset,
    connection_start,
    data,
    data_in,
    destination,
    reset_in,
    service_ids,
    source,
    stream_reset,
    stream_start,
)
from tunnelfleet.proto import (
    MAX_CONNECTIONS_PER_STREAM,
    MAX_PAYLOAD_BYTES,
    MAX_SERVICES,
    Answer,
    ConnectionIdUnknown,
    ConnectionIdUnusable,
    ConnectionReset,
    ConnectionStarted,
    DataReceived,
    DropReason,
    End,
    LocalProtocolError,
    Message,
    MessageDropped,
    Mode,
    NoActiveStream,
    NotConnected,
    Opened,
    PayloadTooLarge,
    ProtocolVersion,
    RemoteProtocolError,
    ServiceIdUnknown,
    ServicesAnnounced,
    ServiceWithoutStream,
    Session,
    SessionReset,
    StopCause,
    StreamStarted,
    StreamStopped,
    StreamView,
    TooManyConnections,
    VersionMismatch,
    WrongMode,
)

V1_START = Message(T.STREAM_START, 1)
V2_START = Message(T.STREAM_START, 1, service_id="SSH")


def dropped(message: Message, reason: DropReason) -> list[MessageDropped]:
    return [MessageDropped(message.type, reason)]


# Services


@pytest.mark.parametrize("services", [(), ("SSH",), ("SSH", "HTTP", "VNC")])
def test_services_are_announced(services: tuple[str, ...]) -> None:
    session = Session(Mode.SOURCE)
    assert session.service_ids is None
    assert session.receive(service_ids(*services)) == [ServicesAnnounced(services)]
    assert session.service_ids == services


def test_service_ids_again_is_dropped_if_the_same_and_an_error_if_not() -> None:
    session = source()
    session.open_connection("SSH")
    again = service_ids("SSH", "HTTP")
    assert session.receive(again) == dropped(again, DropReason.REPEATED_SERVICE_IDS)
    with pytest.raises(RemoteProtocolError, match="other services"):
        session.receive(service_ids("SSH"))
    assert session.service_ids == ("SSH", "HTTP")
    assert set(session.active_streams()) == {"SSH"}


def test_services_may_differ_on_the_next_connection() -> None:
    session = source()
    session.disconnected()
    assert session.receive(service_ids("VNC")) == [ServicesAnnounced(("VNC",))]


def test_a_service_announced_twice_is_one() -> None:
    assert Session(Mode.SOURCE).receive(service_ids("A", "B", "A")) == [
        ServicesAnnounced(("A", "B"))
    ]


@pytest.mark.parametrize("names", [("SSH", ""), tuple(map(str, range(MAX_SERVICES + 1)))])
def test_absurd_services_are_refused(names: tuple[str, ...]) -> None:
    session = Session(Mode.DESTINATION)
    with pytest.raises(RemoteProtocolError, match="empty service id or more than"):
        session.receive(service_ids(*names))
    assert session.service_ids is None


# The version is seen


@pytest.mark.parametrize(
    ("start", "version"), [(V1_START, V1), (V2_START, V2), (stream_start(), V3)]
)
def test_destination_sees_the_version_of_the_first_start(
    start: Message, version: ProtocolVersion
) -> None:
    session = destination(("SSH",))
    assert session.version is None
    assert session.receive(start) == [StreamStarted("SSH", 1, 1, version)]
    assert session.version is version


def test_destination_forgets_the_version_with_the_connection() -> None:
    session = destination(("SSH",))
    session.receive(stream_start())
    session.disconnected()
    assert session.version is None
    session.connected()
    session.receive(service_ids("SSH"))
    assert session.receive(V1_START) == [StreamStarted("SSH", 1, 1, V1)]


def test_destination_can_be_told_the_version() -> None:
    session = Session(Mode.DESTINATION, V2)
    session.receive(service_ids("SSH"))
    with pytest.raises(RemoteProtocolError, match="of V3 on a tunnel that speaks V2"):
        session.receive(stream_start())
    assert session.receive(V2_START) == [StreamStarted("SSH", 1, 1, V2)]


def test_source_speaks_v3_unless_told() -> None:
    assert Session(Mode.SOURCE).version is V3
    assert Session(Mode.SOURCE, V1).version is V1


def test_session_reset_keeps_the_version() -> None:
    session = destination()
    session.receive(stream_start())
    session.receive(SESSION_RESET)
    assert session.version is V3
    with pytest.raises(RemoteProtocolError):
        session.receive(V2_START)


def test_source_says_what_to_do_when_the_destination_is_older() -> None:
    session = source()
    session.open_connection("SSH")
    with pytest.raises(RemoteProtocolError, match="set the version of the source"):
        session.receive(data(connection=0))


def test_v1_without_services() -> None:
    session = destination(())
    assert session.receive(V1_START) == [StreamStarted("", 1, 1, V1)]
    assert session.receive(Message(T.DATA, 1, payload=b"x")) == [DataReceived("", 1, 1, b"x")]
    assert session.data("", 1, b"y") == Message(T.DATA, 1, payload=b"y")


def test_v1_with_one_service() -> None:
    session = destination(("SSH",))
    assert session.receive(V1_START) == [StreamStarted("SSH", 1, 1, V1)]
    assert session.receive(Message(T.DATA, 1, payload=b"x")) == [DataReceived("SSH", 1, 1, b"x")]
    for name in ("SSH", ""):
        assert session.data(name, 1, b"y") == Message(T.DATA, 1, payload=b"y")


def test_v1_with_several_services_is_answered_by_a_reset() -> None:
    session = destination(("SSH", "HTTP"))
    reset = Message(T.STREAM_RESET, 1)
    assert session.receive(V1_START) == [
        Answer(reset),
        *dropped(V1_START, DropReason.UNKNOWN_SERVICE),
    ]
    assert session.version is None


# Streams, as a destination


def test_streams_of_services_are_independent() -> None:
    session = destination()
    session.receive(stream_start("SSH", 5))
    session.receive(stream_start("HTTP", 5))
    assert session.receive(data(b"s", "SSH", 5)) == [DataReceived("SSH", 5, 1, b"s")]
    assert session.receive(stream_reset("SSH", 5)) == [
        StreamStopped("SSH", 5, (1,), StopCause.PEER_RESET, End.BOTH)
    ]
    assert session.receive(data(b"h", "HTTP", 5)) == [DataReceived("HTTP", 5, 1, b"h")]


@pytest.mark.parametrize("new_id", [2, 1, -3])
def test_a_new_start_replaces_the_active_stream(new_id: int) -> None:
    session = destination()
    session.receive(stream_start())
    session.receive(connection_start(connection=2))
    assert session.receive(stream_start(stream=new_id)) == [
        StreamStopped("SSH", 1, (1, 2), StopCause.REPLACED),
        StreamStarted("SSH", new_id, 1, V3),
    ]
    assert session.active_streams() == {"SSH": StreamView(new_id, V3, frozenset({1}))}


@pytest.mark.parametrize(
    "message", [data(stream=9), connection_start(stream=9), connection_reset(stream=9)]
)
def test_messages_of_another_stream_are_stale(message: Message) -> None:
    session = destination()
    assert session.receive(message) == dropped(message, DropReason.STALE_STREAM)
    session.receive(stream_start())
    before = session.active_streams()
    assert session.receive(message) == dropped(message, DropReason.STALE_STREAM)
    assert session.active_streams() == before


def test_a_stale_stream_reset_ends_nothing() -> None:
    session = destination()
    session.receive(stream_start(stream=2))
    stale = stream_reset(stream=1)
    assert session.receive(stale) == dropped(stale, DropReason.STALE_STREAM)
    assert set(session.active_streams()) == {"SSH"}


@pytest.mark.parametrize(
    "message",
    [
        stream_start(stream=0),
        data(stream=0),
        stream_reset(stream=0),
        connection_start(stream=0),
        connection_reset(stream=0),
    ],
)
@pytest.mark.parametrize("active", [True, False])
def test_stream_id_0_is_invalid(message: Message, active: bool) -> None:
    session = destination()
    if active:
        session.receive(stream_start())
    with pytest.raises(RemoteProtocolError, match="invalid stream id 0"):
        session.receive(message)


def test_negative_stream_ids_are_legal() -> None:
    session = destination()
    assert session.receive(stream_start(stream=-1)) == [StreamStarted("SSH", -1, 1, V3)]
    assert session.receive(data(b"x", stream=-1)) == [DataReceived("SSH", -1, 1, b"x")]


def test_start_of_an_unknown_service_is_answered_by_its_reset() -> None:
    session = destination()
    start = stream_start("FTP", 4, 7)._replace(payload=b"x", ignorable=True)
    assert session.receive(start) == [
        Answer(stream_reset("FTP", 4, 7)),
        *dropped(start, DropReason.UNKNOWN_SERVICE),
    ]
    late = data(service="FTP", stream=4)
    assert session.receive(late) == dropped(late, DropReason.UNKNOWN_SERVICE)


def test_a_tunnel_without_announced_services_takes_any() -> None:
    session = destination(())
    assert session.receive(stream_start("FTP")) == [StreamStarted("FTP", 1, 1, V3)]


def test_the_number_of_streams_is_bounded() -> None:
    session = destination(())
    for number in range(MAX_SERVICES):
        session.receive(stream_start(f"service-{number}"))
    one_more = stream_start("one-more")
    assert session.receive(one_more) == [
        Answer(stream_reset("one-more")),
        *dropped(one_more, DropReason.TOO_MANY_STREAMS),
    ]
    assert len(session.active_streams()) == MAX_SERVICES
    assert isinstance(session.receive(stream_start("service-0", 2))[-1], StreamStarted)


# Connections, as a destination in V3


def test_connections_of_a_stream() -> None:
    session = destination()
    session.receive(stream_start(connection=5))
    assert session.receive(connection_start(connection=2)) == [ConnectionStarted("SSH", 1, 2)]
    assert session.receive(data(b"x", connection=5)) == [DataReceived("SSH", 1, 5, b"x")]
    assert session.receive(connection_reset(connection=5)) == [ConnectionReset("SSH", 1, 5)]
    assert session.receive(data(b"y", connection=2)) == [DataReceived("SSH", 1, 2, b"y")]


def test_an_absent_connection_id_means_1() -> None:
    session = destination()
    session.receive(stream_start())
    assert session.receive(data(b"x", connection=0)) == [DataReceived("SSH", 1, 1, b"x")]
    assert session.receive(connection_reset(connection=0)) == [ConnectionReset("SSH", 1, 1)]
    session.reset_connection("SSH", 1)
    assert session.receive(connection_start(connection=0)) == [ConnectionStarted("SSH", 1, 1)]


def test_data_for_an_unknown_connection_is_dropped() -> None:
    session = destination()
    session.receive(stream_start())
    message = data(connection=9)
    assert session.receive(message) == dropped(message, DropReason.UNKNOWN_CONNECTION)


def test_a_connection_id_that_is_open_already_is_reset() -> None:
    session = destination()
    session.receive(stream_start())
    again = connection_start(connection=1)
    assert session.receive(again) == [
        Answer(connection_reset(connection=1)),
        ConnectionReset("SSH", 1, 1),
        *dropped(again, DropReason.DUPLICATE_CONNECTION),
    ]
    # The peer's echo of our answer finds nothing.
    echo = connection_reset(connection=1)
    assert session.receive(echo) == dropped(echo, DropReason.DUPLICATE_RESET)


def test_the_last_connection_leaves_the_stream_active() -> None:
    session = destination()
    session.receive(stream_start())
    session.receive(connection_reset())
    assert session.active_streams() == {"SSH": StreamView(1, V3, frozenset())}
    assert session.receive(connection_start()) == [ConnectionStarted("SSH", 1, 2)]


def test_a_reset_of_a_connection_that_is_gone_is_normal() -> None:
    session = destination()
    session.receive(stream_start())
    session.receive(connection_reset())
    session.reset_connection("SSH", 1)
    again = connection_reset()
    assert session.receive(again) == dropped(again, DropReason.DUPLICATE_RESET)


def test_a_connection_id_in_use_is_one_that_either_side_still_has() -> None:
    session = destination()
    session.receive(stream_start())
    again = connection_start(connection=1)
    assert session.receive(again) == [
        Answer(connection_reset(connection=1)),
        ConnectionReset("SSH", 1, 1, End.BOTH),
        *dropped(again, DropReason.DUPLICATE_CONNECTION),
    ]
    # Neither side has it now.
    assert session.receive(again) == [ConnectionStarted("SSH", 1, 1)]


def test_the_number_of_connections_is_bounded() -> None:
    session = destination()
    session.receive(stream_start())
    for number in range(2, MAX_CONNECTIONS_PER_STREAM + 1):
        session.receive(connection_start(connection=number))
    one_more = connection_start(connection=2**32 - 1)
    assert session.receive(one_more) == [
        Answer(connection_reset(connection=2**32 - 1)),
        *dropped(one_more, DropReason.TOO_MANY_CONNECTIONS),
    ]
    session.receive(connection_reset(connection=2))
    assert session.receive(one_more) == [ConnectionStarted("SSH", 1, 2**32 - 1)]


# Ends: with a peer that does not mark, a reset ends both directions. The rest is in test_ends.py.


def started(version: ProtocolVersion) -> Session:
    """Return a destination with one connection."""
    session = destination(("SSH",))
    session.receive({V1: V1_START, V2: V2_START, V3: stream_start()}[version])
    return session


every_version = pytest.mark.parametrize("version", list(ProtocolVersion))


@every_version
@pytest.mark.parametrize("is_orderly", [True, False])
def test_a_local_end_is_the_end_of_both_directions(
    version: ProtocolVersion, is_orderly: bool
) -> None:
    session = started(version)
    over = [] if version is V3 else [StreamStopped("SSH", 1, (), StopCause.LOCAL_RESET)]
    ended = session.reset_connection("SSH", 1, is_orderly=is_orderly)
    assert ended == ([reset_in(version)], over)
    assert not session.is_known("SSH", 1, 1)
    with pytest.raises(LocalProtocolError):
        session.data("SSH", 1, b"x")
    late = data_in(version)
    reason = DropReason.UNKNOWN_CONNECTION if version is V3 else DropReason.STALE_STREAM
    assert session.receive(late) == dropped(late, reason)
    echo = reset_in(version)
    reason = DropReason.DUPLICATE_RESET if version is V3 else DropReason.STALE_STREAM
    assert session.receive(echo) == dropped(echo, reason)
    assert session.reset_connection("SSH", 1, is_orderly=False) == ([], [])


@every_version
@pytest.mark.parametrize("is_marked", [False, True])
def test_an_end_of_the_peer_is_the_end_of_both_directions(
    version: ProtocolVersion, is_marked: bool
) -> None:
    session = started(version)
    over = [] if version is V3 else [StreamStopped("SSH", 1, (), StopCause.PEER_RESET)]
    assert session.receive(reset_in(version)._replace(ignorable=is_marked)) == [
        ConnectionReset("SSH", 1, 1, End.BOTH),
        *over,
    ]
    # Nothing may be sent any more: the C client would crash on it.
    with pytest.raises(LocalProtocolError):
        session.data("SSH", 1, b"x")
    assert session.reset_connection("SSH", 1) == ([], [])
    assert session.reset_connection("SSH", 1, is_orderly=False) == ([], [])


def test_the_id_of_an_ended_connection_is_free() -> None:
    session = source()
    for _ in range(MAX_CONNECTIONS_PER_STREAM):
        session.open_connection("SSH")
    with pytest.raises(TooManyConnections):
        session.open_connection("SSH")
    session.reset_connection("SSH", 1)
    session.receive(connection_reset(connection=2))
    for connection in (1, 2):
        session.start_connection("SSH", connection)
    with pytest.raises(TooManyConnections):
        session.open_connection("SSH")


def test_a_failed_local_connect_of_localproxy_ends_the_stream() -> None:
    session = source()
    session.open_connection("SSH")
    session.open_connection("SSH")
    assert session.receive(stream_reset(connection=0)) == [
        StreamStopped("SSH", 1, (1, 2), StopCause.PEER_RESET, End.CUT)
    ]


def test_session_reset_ends_all_streams_and_keeps_the_connection() -> None:
    session = source()
    session.open_connection("SSH")
    session.open_connection("HTTP")
    assert session.receive(SESSION_RESET) == [
        StreamStopped("SSH", 1, (1,), StopCause.SESSION_RESET),
        StreamStopped("HTTP", 1, (1,), StopCause.SESSION_RESET),
        SessionReset(),
    ]
    assert session.receive(SESSION_RESET) == [SessionReset()]
    assert session.open_connection("SSH").messages == (stream_start(stream=2),)


def test_a_lost_connection_ends_all_streams_and_replays_nothing() -> None:
    session = source()
    session.open_connection("SSH")
    assert session.disconnected() == [StreamStopped("SSH", 1, (1,), StopCause.DISCONNECTED)]
    assert session.disconnected() == []
    with pytest.raises(NotConnected):
        session.open_connection("SSH")
    session.connected()
    with pytest.raises(NotConnected):
        session.data("SSH", 1, b"x")
    session.receive(service_ids("SSH", "HTTP"))
    with pytest.raises(NoActiveStream):
        session.data("SSH", 1, b"x")
    # A late message of the lost stream must not look current.
    assert session.open_connection("SSH").messages == (stream_start(stream=2),)


def test_a_connection_cannot_begin_over_active_streams() -> None:
    session = source()
    session.open_connection("SSH")
    with pytest.raises(LocalProtocolError, match="call disconnected"):
        session.connected()
    assert set(session.active_streams()) == {"SSH"}


# Commands of a source


def test_v3_accepts_as_the_observed_clients_number_them() -> None:
    session = source()
    assert session.open_connection("SSH") == Opened(1, 1, "SSH", (stream_start(),), ())
    assert session.open_connection("SSH") == Opened(
        1, 2, "SSH", (connection_start(connection=2),), ()
    )
    assert session.open_connection("HTTP").messages == (stream_start("HTTP"),)
    # The next id, even when the earlier ones have ended.
    session.reset_connection("SSH", 1)
    session.receive(connection_reset(connection=2))
    assert session.open_connection("SSH").messages == (connection_start(connection=3),)
    # After a STREAM_RESET a new stream.
    session.receive(stream_reset())
    assert session.open_connection("SSH").messages == (stream_start(stream=2),)


def test_v2_every_accept_is_a_new_stream_after_a_reset_of_the_old_one() -> None:
    session = source(V2)
    assert session.open_connection("SSH").messages == (V2_START,)
    assert session.open_connection("SSH") == Opened(
        2,
        1,
        "SSH",
        (
            Message(T.STREAM_RESET, 1, service_id="SSH"),
            Message(T.STREAM_START, 2, service_id="SSH"),
        ),
        (StreamStopped("SSH", 1, (1,), StopCause.REPLACED),),
    )


def test_v1_accepts_have_no_ids_but_the_stream() -> None:
    session = source(V1, ())
    assert session.open_connection("") == Opened(1, 1, "", (V1_START,), ())
    assert session.open_connection("").messages == (
        Message(T.STREAM_RESET, 1),
        Message(T.STREAM_START, 2),
    )


def test_v3_start_over_an_active_stream_resets_it_first() -> None:
    session = source()
    session.open_connection("SSH")
    session.open_connection("SSH")
    session.reset_connection("SSH", 1)
    opened = session.start_stream("SSH")
    assert opened.messages == (stream_reset(connection=2), stream_start(stream=2))
    assert opened.events == (StreamStopped("SSH", 1, (2,), StopCause.REPLACED),)


def test_start_connection_with_an_id() -> None:
    session = source()
    session.start_stream("SSH")
    assert session.start_connection("SSH", 9).messages == (connection_start(connection=9),)
    assert session.start_connection("SSH").connection_id == 10
    for unusable in (9, 0, -1, 2**32):
        with pytest.raises(ConnectionIdUnusable):
            session.start_connection("SSH", unusable)


def test_start_connection_needs_a_stream_and_v3() -> None:
    with pytest.raises(NoActiveStream):
        source().start_connection("SSH")
    session = source(V2)
    session.start_stream("SSH")
    with pytest.raises(VersionMismatch, match="V2"):
        session.start_connection("SSH")


def test_a_source_keeps_a_bounded_number_of_connections() -> None:
    session = source()
    for _ in range(MAX_CONNECTIONS_PER_STREAM):
        session.open_connection("SSH")
    with pytest.raises(TooManyConnections):
        session.open_connection("SSH")


def test_only_a_source_starts() -> None:
    session = destination()
    session.receive(stream_start())
    for command in (session.open_connection, session.start_stream, session.start_connection):
        with pytest.raises(WrongMode):
            command("SSH")


def test_unknown_services_are_named() -> None:
    session = source()
    for command in (session.open_connection, session.start_stream, session.start_connection):
        with pytest.raises(ServiceIdUnknown, match="'FTP'"):
            command("FTP")
    with pytest.raises(ServiceIdUnknown):
        session.data("FTP", 1, b"x")


def test_v1_cannot_name_one_of_several_services() -> None:
    session = source(V1)
    with pytest.raises(VersionMismatch, match="cannot name a service"):
        session.open_connection("SSH")
    with pytest.raises(ServiceIdUnknown):
        session.open_connection("")


def test_v2_without_a_service_is_the_same_bytes_as_v1() -> None:
    session = source(V2, ())
    assert session.open_connection("") == Opened(1, 1, "", (V1_START,), ())
    assert session.data("", 1, b"x") == Message(T.DATA, 1, payload=b"x")
    answer = Message(T.DATA, 1, payload=b"y")
    assert session.receive(answer) == [DataReceived("", 1, 1, b"y")]
    assert session.receive(Message(T.STREAM_RESET, 1)) == [
        ConnectionReset("", 1, 1),
        StreamStopped("", 1, (), StopCause.PEER_RESET),
    ]


@pytest.mark.parametrize("version", [V2, V3])
def test_no_name_stands_for_the_only_service(version: ProtocolVersion) -> None:
    session = source(version, ("SSH",))
    assert session.open_connection("").service_id == "SSH"
    assert session.data("", 1, b"x").service_id == "SSH"


def test_nothing_can_be_opened_before_the_services_are_known() -> None:
    session = Session(Mode.SOURCE)
    for command in (session.open_connection, session.start_stream, session.start_connection):
        with pytest.raises(NotConnected):
            command("SSH")


# Commands of both


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (V1_START, Message(T.DATA, 1, payload=b"x")),
        (V2_START, Message(T.DATA, 1, payload=b"x", service_id="SSH")),
        (stream_start(), data(b"x")),
    ],
)
def test_data_carries_the_ids_of_the_version(start: Message, expected: Message) -> None:
    session = destination(("SSH",))
    session.receive(start)
    assert session.data("SSH", 1, b"x") == expected


def test_data_that_cannot_be_sent() -> None:
    session = source()
    with pytest.raises(NoActiveStream):
        session.data("SSH", 1, b"x")
    session.open_connection("HTTP")
    with pytest.raises(ServiceWithoutStream):
        session.data("SSH", 1, b"x")
    with pytest.raises(ConnectionIdUnknown):
        session.data("HTTP", 2, b"x")
    with pytest.raises(PayloadTooLarge):
        session.data("HTTP", 1, b"x" * (MAX_PAYLOAD_BYTES + 1))
    assert len(session.data("HTTP", 1, b"x" * MAX_PAYLOAD_BYTES).payload) == MAX_PAYLOAD_BYTES


def test_reset_of_a_connection() -> None:
    session = destination()
    session.receive(stream_start())
    session.receive(connection_start())
    assert session.reset_connection("SSH", 1) == ([connection_reset()], [])
    assert session.active_streams()["SSH"].connection_ids == {2}
    for gone in (("SSH", 1), ("HTTP", 1), ("FTP", 1)):
        assert session.reset_connection(*gone) == ([], [])


def test_reset_of_a_stream_names_a_connection_in_v3() -> None:
    session = destination()
    session.receive(stream_start())
    session.receive(connection_start(connection=4))
    session.reset_connection("SSH", 1)
    assert session.reset_stream("SSH") == (
        [stream_reset(connection=4)],
        [StreamStopped("SSH", 1, (4,), StopCause.LOCAL_RESET)],
    )
    session.receive(stream_start(stream=2))
    session.reset_connection("SSH", 1)
    assert session.reset_stream("SSH")[0] == [stream_reset(stream=2, connection=1)]
    assert session.reset_stream("SSH") == ([], [])


def test_mode_is_that_of_the_tunnel() -> None:
    assert (source().mode, destination().mode) == (Mode.SOURCE, Mode.DESTINATION)
