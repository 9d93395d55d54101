"""What the service remembers of streams, and the resets it makes of it."""

from __future__ import annotations

from tunnelfleet.proto import Message, MessageType
from tunnelfleet.runtime.service.streams import (
    MAX_CONNECTIONS_REMEMBERED,
    MAX_STREAMS,
    StreamTable,
    reset_for,
)


def message(kind: MessageType, stream: int, service: str = "", connection: int = 0) -> Message:
    return Message(kind, stream, service_id=service, connection_id=connection)


START, RESET = MessageType.STREAM_START, MessageType.STREAM_RESET
CONNECTION_START, CONNECTION_RESET = MessageType.CONNECTION_START, MessageType.CONNECTION_RESET


def resets(*notes: Message) -> list[Message]:
    table = StreamTable()
    for note in notes:
        table.note(note)
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
    table.note(message(START, 1, "SSH", 1))
    assert len(table) == 1
    table.take_resets()
    assert (len(table), table.take_resets()) == (0, [])


def test_is_bounded_whatever_is_started() -> None:
    table = StreamTable()
    for number in range(MAX_STREAMS + 10):
        table.note(message(START, 1, str(number), 1))
    assert len(table) == MAX_STREAMS
    for connection in range(2, MAX_CONNECTIONS_REMEMBERED + 100):
        table.note(message(CONNECTION_START, 1, "0", connection))
    stream = table._active["0"]
    assert len(stream.connection_ids) == MAX_CONNECTIONS_REMEMBERED


def test_the_answer_to_a_start_that_cannot_be_relayed() -> None:
    assert reset_for(message(START, 7, "SSH", 4)) == message(RESET, 7, "SSH", 4)
