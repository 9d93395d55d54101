"""What the service remembers of streams, and the resets it makes of it."""

from __future__ import annotations

import pytest

from tunnelfleet.proto import Message, MessageType, Mode
from tunnelfleet.runtime.service.rules import (
    MAX_CONNECTIONS_REMEMBERED,
    MAX_STREAMS,
    StreamTable,
    reset_for,
)


def message(
    kind: MessageType, stream: int, service: str = "", connection: int = 0, *, marked: bool = False
) -> Message:
    return Message(kind, stream, ignorable=marked, service_id=service, connection_id=connection)


START, RESET = MessageType.STREAM_START, MessageType.STREAM_RESET
CONNECTION_START, CONNECTION_RESET = MessageType.CONNECTION_START, MessageType.CONNECTION_RESET


SOURCE, DESTINATION = Mode


def resets(*notes: Message) -> list[Message]:
    table = StreamTable()
    for note in notes:
        table.note(note, SOURCE)
    return table.take_resets()


def test_a_reset_speaks_the_version_of_its_stream() -> None:
    assert resets(message(START, 3)) == [message(RESET, 3)]
    assert resets(message(START, 3, "SSH")) == [message(RESET, 3, "SSH")]
    assert resets(message(START, 3, "SSH", 2)) == [message(RESET, 3, "SSH", 2)]


def test_a_reset_carries_the_id_of_an_open_connection_or_1() -> None:
    start, second = message(START, 3, "SSH", 1), message(CONNECTION_START, 3, "SSH", 2)
    first_over = message(CONNECTION_RESET, 3, "SSH", 1)
    second_over = message(CONNECTION_RESET, 3, "SSH", 2)
    assert resets(start, second, first_over) == [message(RESET, 3, "SSH", 2)]
    assert resets(start, second, first_over, second_over) == [message(RESET, 3, "SSH", 1)]


def test_a_start_replaces_the_active_stream_of_its_service() -> None:
    assert resets(message(START, 1, "A"), message(START, 2, "B"), message(START, 3, "A")) == [
        message(RESET, 3, "A"),
        message(RESET, 2, "B"),
    ]


def test_stale_messages_change_nothing() -> None:
    start = message(START, 2, "SSH", 1)
    stale = [message(kind, 1, "SSH", 1) for kind in (RESET, CONNECTION_RESET, CONNECTION_START)]
    assert resets(start, *stale, message(RESET, 2, "other")) == [message(RESET, 2, "SSH", 1)]


def test_taking_the_resets_forgets_the_streams() -> None:
    table = StreamTable()
    table.note(message(START, 1, "SSH", 1), SOURCE)
    assert len(table) == 1
    table.take_resets()
    assert (len(table), table.take_resets()) == (0, [])


def test_is_bounded_whatever_is_started() -> None:
    table = StreamTable()
    for number in range(MAX_STREAMS + 10):
        table.note(message(START, 1, str(number), 1), SOURCE)
    assert len(table) == MAX_STREAMS
    for connection in range(2, MAX_CONNECTIONS_REMEMBERED + 100):
        table.note(message(CONNECTION_START, 1, "0", connection), SOURCE)
    stream = table._active["0"]
    assert len(stream.connection_ids) == MAX_CONNECTIONS_REMEMBERED


def test_the_answer_to_a_start_that_cannot_be_relayed() -> None:
    assert reset_for(message(START, 7, "SSH", 4)) == message(RESET, 7, "SSH", 4)


# -- V1 and V2 on which both sides tell the kinds of end apart (docs/protocol.md section 3a)

V1_AND_V2 = pytest.mark.parametrize("service", ["", "SSH"])
BOTH_FIRST = pytest.mark.parametrize(
    ("first", "second"), [(SOURCE, DESTINATION), (DESTINATION, SOURCE)]
)


def agreed(service: str, *, start_marked: bool = True) -> StreamTable:
    """A table with a stream of V1 or V2 whose hello has passed."""
    table = StreamTable()
    table.note(message(START, 3, service, marked=start_marked), SOURCE)
    table.note_hello(message(MessageType.DATA, 3, service, marked=True))
    return table


@V1_AND_V2
@BOTH_FIRST
def test_a_stream_is_kept_until_both_directions_have_ended(
    service: str, first: Mode, second: Mode
) -> None:
    table = agreed(service)
    table.note(message(RESET, 3, service, marked=True), first)
    assert len(table) == 1
    table.note(message(RESET, 3, service, marked=True), second)
    assert table.take_resets() == []


@V1_AND_V2
@pytest.mark.parametrize("sender", list(Mode))
def test_who_still_waits_on_a_half_ended_stream_is_told_that_the_other_is_lost(
    service: str, sender: Mode
) -> None:
    table = agreed(service)
    table.note(message(RESET, 3, service, marked=True), sender)
    assert table.take_resets() == [message(RESET, 3, service)]


@V1_AND_V2
def test_a_second_marked_reset_of_one_side_is_the_end_of_its_own_direction_still(
    service: str,
) -> None:
    table = agreed(service)
    for _ in range(2):
        table.note(message(RESET, 3, service, marked=True), SOURCE)
    assert len(table) == 1


@V1_AND_V2
@pytest.mark.parametrize("sender", list(Mode))
@pytest.mark.parametrize("half_ended", [True, False])
def test_an_unmarked_reset_ends_both_directions(
    service: str, sender: Mode, half_ended: bool
) -> None:
    table = agreed(service)
    if half_ended:
        table.note(message(RESET, 3, service, marked=True), SOURCE)
    table.note(message(RESET, 3, service), sender)
    assert len(table) == 0


@V1_AND_V2
@pytest.mark.parametrize("sender", list(Mode))
def test_without_a_hello_the_first_reset_ends_the_stream(service: str, sender: Mode) -> None:
    """The peer does not know marks: nothing will follow."""
    table = StreamTable()
    table.note(message(START, 3, service, marked=True), SOURCE)
    table.note(message(RESET, 3, service, marked=True), sender)
    assert len(table) == 0


@V1_AND_V2
def test_a_source_that_ends_before_the_hello_is_told_that_the_destination_is_lost(
    service: str,
) -> None:
    """It may wait for an answer still; a destination is told nothing that it may not take."""
    for to, expected in ((SOURCE, [message(RESET, 3, service)]), (DESTINATION, []), (None, [])):
        table = StreamTable()
        table.note(message(START, 3, service, marked=True), SOURCE)
        table.note(message(RESET, 3, service, marked=True), SOURCE)
        assert table.take_resets(to=to) == expected


@V1_AND_V2
@pytest.mark.parametrize("to", list(Mode))
def test_a_hello_behind_the_end_of_the_source_leaves_the_other_direction(
    service: str, to: Mode
) -> None:
    table = StreamTable()
    table.note(message(START, 3, service, marked=True), SOURCE)
    table.note(message(RESET, 3, service, marked=True), SOURCE)
    table.note_hello(message(MessageType.DATA, 3, service, marked=True))
    assert len(table) == 1
    assert table.take_resets(to=to) == [message(RESET, 3, service)]


@V1_AND_V2
@pytest.mark.parametrize("marked", [True, False])
def test_a_reset_of_the_destination_without_a_hello_ends_what_was_in_doubt(
    service: str, marked: bool
) -> None:
    table = StreamTable()
    table.note(message(START, 3, service, marked=True), SOURCE)
    table.note(message(RESET, 3, service, marked=True), SOURCE)
    table.note(message(RESET, 3, service, marked=marked), DESTINATION)
    assert table.take_resets(to=SOURCE) == []


def test_a_hello_of_another_stream_is_none() -> None:
    table = StreamTable()
    table.note(message(START, 3, "SSH", marked=True), SOURCE)
    for wrong in (message(MessageType.DATA, 2, "SSH"), message(MessageType.DATA, 3, "other")):
        table.note_hello(wrong)
    table.note(message(RESET, 3, "SSH", marked=True), SOURCE)
    assert len(table) == 0


def test_nothing_carries_over_to_the_next_stream() -> None:
    table = agreed("SSH")
    table.note(message(RESET, 3, "SSH", marked=True), SOURCE)
    table.note(message(START, 4, "SSH", marked=True), SOURCE)
    table.note(message(RESET, 4, "SSH", marked=True), DESTINATION)
    assert len(table) == 0


@V1_AND_V2
@pytest.mark.parametrize("sender", list(Mode))
def test_a_hello_to_an_unmarked_start_is_none(service: str, sender: Mode) -> None:
    table = agreed(service, start_marked=False)
    table.note(message(RESET, 3, service, marked=True), sender)
    assert len(table) == 0


def test_a_stream_reset_of_v3_ends_all_its_connections_marked_or_not() -> None:
    table = StreamTable()
    table.note(message(START, 3, "SSH", 1, marked=True), SOURCE)
    table.note_hello(message(MessageType.DATA, 3, "SSH", 1, marked=True))
    table.note(message(RESET, 3, "SSH", 1, marked=True), SOURCE)
    assert len(table) == 0
