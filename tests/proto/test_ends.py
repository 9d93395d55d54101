"""Ends of connections with marks: the table, and what two ends of ours say to each other."""

from __future__ import annotations

import itertools

import pytest

from tests.support.wire import (
    SESSION_RESET,
    STARTS,
    V1,
    V2,
    V3,
    T,
    connection_reset,
    connection_start,
    data,
    data_in,
    destination,
    hello,
    marked,
    reset_in,
    service_ids,
    source,
    stream_reset,
    stream_start,
)
from tunnelfleet.proto import (
    Agreement,
    Answer,
    ConnectionIdUnknown,
    ConnectionReset,
    ConnectionStarted,
    DataReceived,
    DropReason,
    End,
    LocalProtocolError,
    Message,
    MessageDropped,
    Phase,
    ProtocolVersion,
    Session,
    StopCause,
    StreamStarted,
    StreamStopped,
)
from tunnelfleet.proto.transitions import ENDS, Happening

GRID = """
                       END     ABORT     LEAVE    PEER_DATA PEER_END PEER_RESET HELLO  NO_HELLO
unmarked  open         u gone  u gone    -        . open    b gone   b gone     -      -
unmarked  local_ended  -       -         -        -         -        -          -      b gone
unmarked  closed       -       -         -        -         -        -          -      . gone
unmarked  aborted      -       -         -        -         -        -          -      . gone
unmarked  remote_ended -       -         -        -         -        -          -      -
unheard   open         u gone  u gone    -        . open    c gone   c gone     -      -
unheard   local_ended  -       -         -        -         -        -          -      -
unheard   closed       -       -         -        -         -        -          -      -
unheard   aborted      -       -         -        -         -        -          -      -
unheard   remote_ended -       -         -        -         -        -          -      -
doubted   open         u gone  u gone    -        . open    c gone   c gone     -      -
doubted   local_ended  -       -         -        -         -        -          -      b aborted
doubted   closed       -       -         -        -         -        -          -      -
doubted   aborted      -       -         -        -         -        -          u gone -
doubted   remote_ended -       -         -        -         -        -          -      -
asked     open         m local u gone    -        -         c gone   c gone     -      -
asked     local_ended  -       . aborted . closed -         -        -          -      -
asked     closed       -       . aborted -        -         -        -          -      -
asked     aborted      -       -         -        -         -        -          u gone -
asked     remote_ended -       -         -        -         -        -          -      -
agreed    open         m local u gone    -        . open    o remote c gone     -      -
agreed    local_ended  -       u gone    . closed . local   o gone   c gone     -      -
agreed    closed       -       -         -        u gone    o gone   c gone     -      -
agreed    aborted      -       -         -        -         -        -          -      -
agreed    remote_ended m gone  u gone    -        -         -        c gone     -      -
"""
"""What is sent (`m` a marked reset, `u` an unmarked one) or reported (`o` orderly, `b` both
directions, `c` cut), and the next phase. `-`: nothing happens."""

PHASES = {"local": "local_ended", "remote": "remote_ended"}


def cells() -> list[tuple[Agreement, Phase, Happening, str]]:
    header, *rows = (line.split() for line in GRID.strip().splitlines())
    result = []
    for agreement, phase, *words in rows:
        rest = iter(words)
        for happening in header:
            word = next(rest)
            cell = word if word == "-" else f"{word} {next(rest)}"
            result.append((Agreement(agreement), Phase(phase), Happening[happening], cell))
    return result


@pytest.mark.parametrize(("agreement", "phase", "happening", "cell"), cells())
def test_cell(agreement: Agreement, phase: Phase, happening: Happening, cell: str) -> None:
    step = ENDS[agreement].get((phase, happening))
    if cell == "-":
        assert step is None
        return
    assert step is not None
    letter, name = cell.split()
    assert step.phase is Phase(PHASES.get(name, name))
    assert step.reset is {"m": True, "u": False}.get(letter)
    assert step.end is {"o": End.ORDERLY, "b": End.BOTH, "c": End.CUT}.get(letter)


def test_the_grid_is_complete() -> None:
    left = [phase for phase in Phase if phase is not Phase.GONE]
    tried = [(agreement, phase, happening) for agreement, phase, happening, _ in cells()]
    assert sorted(tried, key=str) == sorted(itertools.product(Agreement, left, Happening), key=str)
    rows = {(agreement, *key) for agreement, table in ENDS.items() for key in table}
    assert rows <= set(tried)


# Agreeing: the marked start, and the hello

every_version = pytest.mark.parametrize("version", list(ProtocolVersion))


def stopped(version: ProtocolVersion, cause: StopCause) -> list[StreamStopped]:
    """V1 and V2: the stream is over with its connection."""
    return [] if version is V3 else [StreamStopped("SSH", 1, (), cause)]


def asking(version: ProtocolVersion) -> Session:
    """Return a source that has sent a marked start, and nothing has come back."""
    session = source(version, ("SSH",), marks=True)
    assert session.open_connection("SSH").messages == (marked(STARTS[version]),)
    return session


def agreed_source(version: ProtocolVersion) -> Session:
    session = asking(version)
    assert session.receive(hello(STARTS[version])) == []
    return session


def agreed_destination(version: ProtocolVersion) -> Session:
    session = destination(("SSH",), marks=True)
    assert session.receive(marked(STARTS[version])) == [
        Answer(hello(STARTS[version])),
        StreamStarted("SSH", 1, 1, version),
    ]
    return session


agreed = pytest.mark.parametrize("agree", [agreed_source, agreed_destination])


@every_version
def test_a_destination_that_does_not_mark_sends_no_hello(version: ProtocolVersion) -> None:
    session = destination(("SSH",))
    assert session.receive(marked(STARTS[version])) == [StreamStarted("SSH", 1, 1, version)]
    assert session.data("SSH", 1, b"x") == data_in(version)


@every_version
def test_a_stream_that_started_unmarked_stays_so(version: ProtocolVersion) -> None:
    session = destination(("SSH",), marks=True)
    assert session.receive(STARTS[version]) == [StreamStarted("SSH", 1, 1, version)]
    # A peer may set the field for reasons of its own.
    assert session.receive(marked(data_in(version))) == [DataReceived("SSH", 1, 1, b"x")]
    assert session.data("SSH", 1, b"x") == data_in(version)
    events = session.receive(marked(reset_in(version)))
    assert events[0] == ConnectionReset("SSH", 1, 1, End.BOTH)


@every_version
def test_nothing_carries_over_to_the_next_stream(version: ProtocolVersion) -> None:
    session = agreed_destination(version)
    session.receive(STARTS[version]._replace(stream_id=2))
    assert not session.data("SSH", 1, b"x").ignorable


@every_version
@agreed
def test_what_is_sent_is_marked(agree, version: ProtocolVersion) -> None:  # type: ignore[no-untyped-def]
    session: Session = agree(version)
    assert session.data("SSH", 1, b"x") == marked(data_in(version))
    assert session.reset_connection("SSH", 1) == ([marked(reset_in(version))], [])


def test_connections_of_a_stream_share_its_agreement() -> None:
    session = agreed_source(V3)
    assert session.open_connection("SSH").messages == (marked(connection_start()),)
    other = agreed_destination(V3)
    assert other.receive(marked(connection_start())) == [ConnectionStarted("SSH", 1, 2)]
    assert other.data("SSH", 2, b"x") == marked(data(b"x", connection=2))


@pytest.mark.parametrize(
    "first",
    [
        data_in(V3),
        marked(data_in(V3)),
        data_in(V3, b""),
        reset_in(V3),
        marked(reset_in(V3)),
    ],
    ids=str,
)
def test_whatever_else_comes_first_says_that_the_peer_does_not_mark(first: Message) -> None:
    session = asking(V3)
    assert session.awaits_hello("SSH", 1)
    session.receive(first)
    assert not session.awaits_hello("SSH", 1)
    session.open_connection("SSH")
    assert session.data("SSH", 2, b"x") == data(b"x", connection=2)
    # Too late: only the first message counts.
    late = hello(STARTS[V3])._replace(connection_id=2)
    assert session.receive(late) == [DataReceived("SSH", 1, 2, b"")]
    assert session.reset_connection("SSH", 2) == ([connection_reset(connection=2)], [])


def test_the_end_of_a_marked_stream_is_a_cut() -> None:
    session = asking(V3)
    session.receive(hello(STARTS[V3]))
    cut = StreamStopped("SSH", 1, (1,), StopCause.PEER_RESET, End.CUT)
    assert session.receive(stream_reset()) == [cut]


def unheard(agreement: str, version: ProtocolVersion) -> Session:
    """A source that has started a stream, and has heard nothing of it."""
    session = source(version, ("SSH",), marks=agreement != "unheard")
    session.open_connection("SSH")
    if agreement == "doubted":
        session.hello_overdue("SSH", 1)
    return session


any_unheard = pytest.mark.parametrize("agreement", ["asked", "doubted", "unheard"])


@every_version
@any_unheard
@pytest.mark.parametrize("is_marked", [False, True])
def test_a_reset_before_anything_else_is_a_cut(
    agreement: str, version: ProtocolVersion, is_marked: bool
) -> None:
    """So a destination says that it cannot connect, and in V1 and V2 a service that none is there.

    One that tells ends apart would have said hello before: a mark is an echo.
    """
    session = unheard(agreement, version)
    assert session.receive(reset_in(version)._replace(ignorable=is_marked)) == [
        ConnectionReset("SSH", 1, 1, End.CUT),
        *stopped(version, StopCause.PEER_RESET),
    ]
    assert not session.is_known("SSH", 1, 1)
    assert not session.awaits_hello("SSH", 1)
    assert session.reset_connection("SSH", 1, is_orderly=False) == ([], [])


@any_unheard
def test_the_reset_of_a_stream_before_anything_else_is_a_cut(agreement: str) -> None:
    """So a service says that no destination is there."""
    session = unheard(agreement, V3)
    session.open_connection("SSH")
    cut = StreamStopped("SSH", 1, (1, 2), StopCause.PEER_RESET, End.CUT)
    assert session.receive(stream_reset()) == [cut]
    assert not session.awaits_hello("SSH", 1)
    assert session.hello_overdue("SSH", 1) == []


def test_the_reset_of_a_stream_of_which_nothing_was_heard_cuts_what_is_half_closed() -> None:
    session = asking(V3)
    session.reset_connection("SSH", 1)
    cut = StreamStopped("SSH", 1, (1,), StopCause.PEER_RESET, End.CUT)
    assert session.receive(stream_reset()) == [cut]


@every_version
@any_unheard
def test_a_reset_behind_data_of_a_peer_that_does_not_mark_tells_nothing(
    agreement: str, version: ProtocolVersion
) -> None:
    """Nor does that of a later connection of the stream: such a peer ends each connection so."""
    session = unheard(agreement, version)
    session.receive(data_in(version))
    assert session.receive(reset_in(version))[0] == ConnectionReset("SSH", 1, 1, End.BOTH)
    if version is V3:
        session.open_connection("SSH")
        ended = ConnectionReset("SSH", 1, 2, End.BOTH)
        assert session.receive(connection_reset(connection=2)) == [ended]
        over = StreamStopped("SSH", 1, (), StopCause.PEER_RESET, End.BOTH)
        assert session.receive(stream_reset()) == [over]


@every_version
def test_a_peer_that_answers_an_end_by_a_reset_has_ended_too(version: ProtocolVersion) -> None:
    """localproxy echoes resets: to whoever has ended its direction they are the ordinary end."""
    session = asking(version)
    session.reset_connection("SSH", 1)
    echo = reset_in(version)
    ended, *_ = session.receive(echo)
    assert ended == ConnectionReset("SSH", 1, 1, End.BOTH)


def test_the_first_reset_settles_what_else_the_stream_has() -> None:
    session = asking(V3)
    session.open_connection("SSH")
    session.open_connection("SSH")
    session.reset_connection("SSH", 2)
    assert session.receive(connection_reset()) == [
        ConnectionReset("SSH", 1, 1, End.CUT),
        ConnectionReset("SSH", 1, 2, End.BOTH),
    ]
    assert session.data("SSH", 3, b"x") == data(b"x", connection=3)


def test_without_marks_no_message_of_a_peer_is_a_hello() -> None:
    session = unheard("unheard", V3)
    assert session.receive(hello(STARTS[V3])) == [DataReceived("SSH", 1, 1, b"")]
    assert session.data("SSH", 1, b"x") == data(b"x")


@every_version
def test_half_closed_before_the_hello(version: ProtocolVersion) -> None:
    session = asking(version)
    assert session.reset_connection("SSH", 1) == ([marked(reset_in(version))], [])
    assert session.is_known("SSH", 1, 1)
    assert session.receive(hello(STARTS[version])) == []
    assert session.receive(marked(data_in(version))) == [DataReceived("SSH", 1, 1, b"x")]
    assert session.receive(marked(reset_in(version))) == [
        ConnectionReset("SSH", 1, 1, End.ORDERLY),
        *stopped(version, StopCause.PEER_RESET),
    ]


@every_version
def test_half_closed_towards_a_peer_that_does_not_mark(version: ProtocolVersion) -> None:
    session = asking(version)
    session.reset_connection("SSH", 1)
    late = data_in(version)
    reason = DropReason.UNKNOWN_CONNECTION if version is V3 else DropReason.STALE_STREAM
    assert session.receive(late) == [
        ConnectionReset("SSH", 1, 1, End.BOTH),
        *stopped(version, StopCause.LOCAL_RESET),
        MessageDropped(T.DATA, reason),
    ]
    # A second reset, or DATA, would crash the C client.
    assert session.reset_connection("SSH", 1, is_orderly=False) == ([], [])


@every_version
def test_half_closed_and_no_hello_in_time(version: ProtocolVersion) -> None:
    session = asking(version)
    session.reset_connection("SSH", 1)
    assert session.hello_overdue("SSH", 1) == [ConnectionReset("SSH", 1, 1, End.BOTH)]
    assert not session.is_known("SSH", 1, 1)
    assert session.hello_overdue("SSH", 1) == []
    assert session.reset_connection("SSH", 1, is_orderly=False) == ([], [])


@pytest.mark.parametrize("version", [V1, V2])
def test_no_second_reset_for_a_stream_that_may_be_the_c_clients(version: ProtocolVersion) -> None:
    for overdue in (False, True):
        session = asking(version)
        session.reset_connection("SSH", 1)
        if overdue:
            session.hello_overdue("SSH", 1)
        opened = session.open_connection("SSH")
        assert opened.messages == (marked(STARTS[version]._replace(stream_id=2)),)


def test_later_streams_are_unmarked_until_a_hello_comes() -> None:
    session = asking(V3)
    session.hello_overdue("SSH", 1)
    assert session.data("SSH", 1, b"x") == data(b"x")
    assert session.start_stream("SSH").messages == (stream_reset(), marked(stream_start(stream=2)))
    assert not session.awaits_hello("SSH", 2)
    assert session.data("SSH", 1, b"x") == data(b"x", stream=2)
    assert session.receive(hello(stream_start(stream=2))) == []
    assert session.data("SSH", 1, b"x") == marked(data(b"x", stream=2))
    session.start_stream("SSH")
    assert session.awaits_hello("SSH", 3)


def test_a_hello_that_comes_after_all_leaves_nobody_half_open() -> None:
    session = asking(V3)
    session.open_connection("SSH")
    session.reset_connection("SSH", 1)
    session.hello_overdue("SSH", 1)
    # The peer may still send on what this side has given up: it is told, once.
    assert session.receive(hello(stream_start())) == [Answer(connection_reset())]
    late = marked(data())
    assert session.receive(late) == [MessageDropped(T.DATA, DropReason.UNKNOWN_CONNECTION)]
    assert session.data("SSH", 2, b"x") == marked(data(b"x", connection=2))


@every_version
def test_what_was_aborted_before_the_hello_is_told_behind_it(version: ProtocolVersion) -> None:
    session = asking(version)
    session.reset_connection("SSH", 1)
    # This may be a peer that a second reset crashes.
    assert session.reset_connection("SSH", 1, is_orderly=False) == ([], [])
    assert not session.is_known("SSH", 1, 1)
    assert session.receive(hello(STARTS[version])) == [
        Answer(reset_in(version)),
        *stopped(version, StopCause.LOCAL_RESET),
    ]


def given_up(version: ProtocolVersion) -> Session:
    """A source whose stream has ended in order, and was reset before a hello came."""
    session = asking(version)
    session.reset_connection("SSH", 1)
    messages, _events = session.reset_stream("SSH")
    # As above; in V3 the stream has a reset of its own.
    assert messages == ([stream_reset()] if version is V3 else [])
    return session


@every_version
def test_a_hello_of_a_stream_that_was_given_up_is_answered(version: ProtocolVersion) -> None:
    session = given_up(version)
    dropped = MessageDropped(T.DATA, DropReason.STALE_STREAM)
    answer = Answer(stream_reset() if version is V3 else reset_in(version))
    assert session.receive(hello(STARTS[version])) == [answer, dropped]
    # Nothing else is: it is late, or of a peer that does not say hello.
    for message in (data_in(version), marked(data_in(version))):
        assert session.receive(message) == [dropped]


@every_version
def test_a_start_that_passes_a_session_reset_on_its_way_leaves_no_stream(
    version: ProtocolVersion,
) -> None:
    """The destination starts it anew, and nobody but the source knows that it is over."""
    session = asking(version)
    session.receive(SESSION_RESET)
    dropped = MessageDropped(T.DATA, DropReason.STALE_STREAM)
    answer = Answer(stream_reset() if version is V3 else reset_in(version))
    assert session.receive(hello(STARTS[version])) == [answer, dropped]
    other = destination(("SSH",))
    other.receive(STARTS[version])
    assert [type(each) for each in other.receive(answer.message)][-1] is StreamStopped


@every_version
def test_a_hello_of_a_stream_that_was_replaced_is_not_answered(version: ProtocolVersion) -> None:
    session = given_up(version)
    session.start_stream("SSH")
    dropped = MessageDropped(T.DATA, DropReason.STALE_STREAM)
    assert session.receive(hello(STARTS[version])) == [dropped]


@every_version
def test_a_destination_answers_no_hello(version: ProtocolVersion) -> None:
    session = destination(("SSH",))
    session.receive(STARTS[version])
    session.reset_stream("SSH")
    assert session.receive(hello(STARTS[version])) == [
        MessageDropped(T.DATA, DropReason.STALE_STREAM)
    ]


def test_the_doubt_ends_with_the_link() -> None:
    session = asking(V3)
    session.hello_overdue("SSH", 1)
    session.disconnected()
    session.connected()
    session.receive(service_ids("SSH"))
    session.open_connection("SSH")
    assert session.awaits_hello("SSH", 2)


def test_it_can_be_switched_off_for_later_streams() -> None:
    session = agreed_source(V3)
    session.stop_marking()
    assert session.data("SSH", 1, b"x").ignorable
    assert session.start_stream("SSH").messages == (stream_reset(), stream_start(stream=2))
    assert not session.awaits_hello("SSH", 2)
    other = agreed_destination(V3)
    other.stop_marking()
    assert other.receive(marked(stream_start(stream=2)))[-1] == StreamStarted("SSH", 2, 1, V3)


# Ends on which both agree


@every_version
@agreed
def test_after_a_local_end_the_rest_of_the_peer_is_taken(agree, version: ProtocolVersion) -> None:  # type: ignore[no-untyped-def]
    session: Session = agree(version)
    assert session.reset_connection("SSH", 1) == ([marked(reset_in(version))], [])
    assert session.reset_connection("SSH", 1) == ([], [])
    with pytest.raises(ConnectionIdUnknown):
        session.data("SSH", 1, b"x")
    for _ in range(3):
        assert session.receive(marked(data_in(version))) == [DataReceived("SSH", 1, 1, b"x")]
    assert session.receive(marked(reset_in(version))) == [
        ConnectionReset("SSH", 1, 1, End.ORDERLY),
        *stopped(version, StopCause.PEER_RESET),
    ]
    assert not session.is_known("SSH", 1, 1)


@every_version
@agreed
def test_after_an_end_of_the_peer_the_rest_can_be_sent(agree, version: ProtocolVersion) -> None:  # type: ignore[no-untyped-def]
    session: Session = agree(version)
    ended = ConnectionReset("SSH", 1, 1, End.ORDERLY)
    assert session.receive(marked(reset_in(version))) == [ended]
    late = marked(data_in(version))
    assert session.receive(late) == [MessageDropped(T.DATA, DropReason.UNKNOWN_CONNECTION)]
    again = marked(reset_in(version))
    assert session.receive(again) == [MessageDropped(again.type, DropReason.DUPLICATE_RESET)]
    assert session.data("SSH", 1, b"x") == marked(data_in(version))
    assert session.reset_connection("SSH", 1) == (
        [marked(reset_in(version))],
        stopped(version, StopCause.LOCAL_RESET),
    )
    with pytest.raises(LocalProtocolError):
        session.data("SSH", 1, b"x")


@every_version
@agreed
@pytest.mark.parametrize("half", ["", "local", "remote"])
def test_an_unmarked_reset_is_a_cut(agree, version: ProtocolVersion, half: str) -> None:  # type: ignore[no-untyped-def]
    session: Session = agree(version)
    if half == "local":
        session.reset_connection("SSH", 1)
    elif half == "remote":
        session.receive(marked(reset_in(version)))
    assert session.receive(reset_in(version)) == [
        ConnectionReset("SSH", 1, 1, End.CUT),
        *stopped(version, StopCause.PEER_RESET),
    ]
    assert session.reset_connection("SSH", 1, is_orderly=False) == ([], [])


@every_version
@agreed
@pytest.mark.parametrize("half", ["", "local", "remote"])
def test_an_abort_says_so_whatever_was_ended(agree, version: ProtocolVersion, half: str) -> None:  # type: ignore[no-untyped-def]
    session: Session = agree(version)
    if half == "local":
        session.reset_connection("SSH", 1)
    elif half == "remote":
        session.receive(marked(reset_in(version)))
    assert session.reset_connection("SSH", 1, is_orderly=False) == (
        [reset_in(version)],
        stopped(version, StopCause.LOCAL_RESET),
    )
    assert not session.is_known("SSH", 1, 1)


@every_version
@agreed
def test_data_for_an_application_that_has_closed_is_answered_once(  # type: ignore[no-untyped-def]
    agree, version: ProtocolVersion
) -> None:
    session: Session = agree(version)
    session.leave_connection("SSH", 1, 1)
    assert session.is_known("SSH", 1, 1)
    session.reset_connection("SSH", 1)
    session.leave_connection("SSH", 9, 1)
    assert session.is_known("SSH", 1, 1)
    session.leave_connection("SSH", 1, 1)
    assert not session.is_known("SSH", 1, 1)
    late = marked(data_in(version))
    assert session.receive(late) == [
        Answer(reset_in(version)),
        MessageDropped(T.DATA, DropReason.APPLICATION_CLOSED),
        *stopped(version, StopCause.LOCAL_RESET),
    ]
    assert not any(isinstance(event, Answer) for event in session.receive(late))


@every_version
@agreed
def test_an_application_that_has_closed_can_still_be_ended_by_the_peer(  # type: ignore[no-untyped-def]
    agree, version: ProtocolVersion
) -> None:
    session: Session = agree(version)
    session.reset_connection("SSH", 1)
    session.leave_connection("SSH", 1, 1)
    session.receive(marked(reset_in(version)))
    assert not any(isinstance(each, Answer) for each in session.receive(marked(data_in(version))))


@every_version
@agreed
@pytest.mark.parametrize("half", ["", "local", "remote"])
def test_the_reset_of_a_stream_is_unmarked(agree, version: ProtocolVersion, half: str) -> None:  # type: ignore[no-untyped-def]
    session: Session = agree(version)
    if half == "local":
        session.reset_connection("SSH", 1)
    elif half == "remote":
        session.receive(marked(reset_in(version)))
    reset = STARTS[version]._replace(type=T.STREAM_RESET)
    assert session.reset_stream("SSH") == (
        [reset],
        [StreamStopped("SSH", 1, (1,), StopCause.LOCAL_RESET)],
    )


def test_a_start_on_an_id_in_use_cuts_it() -> None:
    session = agreed_destination(V3)
    again = marked(connection_start(connection=1))
    assert session.receive(again) == [
        Answer(connection_reset()),
        ConnectionReset("SSH", 1, 1, End.CUT),
        MessageDropped(T.CONNECTION_START, DropReason.DUPLICATE_CONNECTION),
    ]
