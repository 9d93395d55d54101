"""The whole table by behaviour: mode x version x message type x shape (docs/protocol.md section 3).

Each message is of the active stream, and a session has one service, "SSH". A cell has one letter
for each shape of the message: no ids (V1), a service id (V2), a connection id too (V3).

    S stream started       C connection started   D data received
    X stream stopped       R connection ended     Z session reset
    . dropped              ! RemoteProtocolError
"""

from __future__ import annotations

import itertools

import pytest

from tests.support.wire import (
    V1,
    V2,
    V3,
    T,
    connection_start,
    destination,
    service_ids,
    source,
    stream_start,
)
from tunnelfleet.proto import (
    ConnectionReset,
    ConnectionStarted,
    DataReceived,
    DropReason,
    Event,
    Message,
    MessageDropped,
    MessageType,
    Mode,
    ProtocolVersion,
    RemoteProtocolError,
    Session,
    SessionReset,
    StreamStarted,
    StreamStopped,
)
from tunnelfleet.proto.session import shape_of
from tunnelfleet.proto.transitions import BEFORE_SERVICE_IDS, TABLE, Action

GRID = """
         STREAM_START STREAM_RESET CONNECTION_START CONNECTION_RESET DATA SERVICE_IDS SESSION_RESET
destination - SSS     ...          ...              ...              ...  ...         ZZZ
destination 1 S!!     XX!          !!!              !!!              D!!  ...         ZZZ
destination 2 !S!     XX!          !!!              !!!              !D!  ...         ZZZ
destination 3 !!S     XXX          !.C              !RR              !DD  ...         ZZZ
source      1 !!!     XX!          !!!              !!!              D!!  ...         ZZZ
source      2 !!!     XX!          !!!              !!!              DD!  ...         ZZZ
source      3 !!!     XXX          !!!              !!R              !!D  ...         ZZZ
"""

LETTERS: dict[type, str] = {
    StreamStarted: "S",
    ConnectionStarted: "C",
    DataReceived: "D",
    StreamStopped: "X",
    ConnectionReset: "R",
    SessionReset: "Z",
    MessageDropped: ".",
}


def cells() -> list[tuple[Mode, ProtocolVersion | None, MessageType, ProtocolVersion, str]]:
    types, *rows = (line.split() for line in GRID.strip().splitlines())
    return [
        (
            Mode(mode),
            None if version == "-" else ProtocolVersion(int(version)),
            MessageType[type_],
            shape,
            letter,
        )
        for mode, version, *letters in rows
        for type_, cell in zip(types, letters, strict=True)
        for shape, letter in zip(ProtocolVersion, cell, strict=True)
    ]


def shaped(message: Message, shape: ProtocolVersion) -> Message:
    return message._replace(
        service_id="" if shape is V1 else message.service_id,
        connection_id=message.connection_id if shape is V3 else 0,
    )


def with_active_stream(mode: Mode, version: ProtocolVersion | None) -> Session:
    if mode is Mode.SOURCE:
        assert version is not None
        session = source(version, ("SSH",))
        session.start_stream("SSH")
        return session
    session = destination(("SSH",))
    if version is not None:
        session.receive(shaped(stream_start(), version))
        assert session.version is version
    return session


def outcome(session: Session, message: Message) -> str:
    try:
        events: list[Event] = session.receive(message)
    except RemoteProtocolError:
        return "!"
    return LETTERS[type(events[-1])]


@pytest.mark.parametrize(("mode", "version", "type_", "shape", "expected"), cells())
def test_cell(
    mode: Mode,
    version: ProtocolVersion | None,
    type_: MessageType,
    shape: ProtocolVersion,
    expected: str,
) -> None:
    session = with_active_stream(mode, version)
    connection = 2 if type_ is T.CONNECTION_START else 1
    message = shaped(Message(type_, 1, service_id="SSH", connection_id=connection), shape)
    if type_ is T.SERVICE_IDS:
        message = message._replace(available_service_ids=("SSH",))
    before = session.active_streams()
    assert outcome(session, message) == expected
    if expected == "!":
        assert session.active_streams() == before
        assert session.version is version


def test_the_grid_is_complete() -> None:
    tried = {(mode, version, type_) for mode, version, type_, _, _ in cells()}
    known = set(MessageType) - {T.UNKNOWN}
    assert set(TABLE) == {(mode, version) for mode, version, _ in tried}
    assert {(mode, version) for mode, version in TABLE} == {
        *itertools.product(Mode, ProtocolVersion),
        (Mode.DESTINATION, None),
    }
    for key, row in TABLE.items():
        assert (
            set(row) == known == {type_ for mode, version, type_ in tried if (mode, version) == key}
        )


@pytest.mark.parametrize("type_", [t for t in MessageType if t is not T.UNKNOWN])
@pytest.mark.parametrize("mode", list(Mode))
def test_before_service_ids_nothing_else_may_come(mode: Mode, type_: MessageType) -> None:
    session = Session(mode)
    message = Message(type_, 1, service_id="SSH", connection_id=1)
    if type_ is T.SERVICE_IDS:
        session.receive(service_ids("SSH"))
        assert session.service_ids == ("SSH",)
        return
    with pytest.raises(RemoteProtocolError, match="before the services were announced"):
        session.receive(message)
    assert session.service_ids is None


def test_every_action_is_used() -> None:
    rows = [*TABLE.values(), BEFORE_SERVICE_IDS]
    assert {rule.action for row in rows for rule in row.values()} == set(Action)


@pytest.mark.parametrize("session", [Session(Mode.SOURCE), source(), destination()])
def test_unknown_types_are_skipped_if_ignorable_and_errors_if_not(session: Session) -> None:
    for type_ in (T.UNKNOWN, 8, 99):
        dropped = MessageDropped(type_, DropReason.IGNORABLE)
        assert session.receive(Message(type_, ignorable=True)) == [dropped]
        with pytest.raises(RemoteProtocolError, match="unknown type"):
            session.receive(Message(type_))


def test_a_known_type_is_acted_on_though_ignorable() -> None:
    assert outcome(destination(), stream_start()._replace(ignorable=True)) == "S"


def test_shape_is_seen_from_the_ids() -> None:
    message = connection_start()
    assert [shape_of(shaped(message, version)) for version in ProtocolVersion] == [V1, V2, V3]
    assert shape_of(message._replace(service_id="")) is V3
