"""Streams: ids of new ones, and the ids that messages carry in each version."""

from __future__ import annotations

import pytest

from tests.support.wire import V1, V2, V3, T
from tunnelfleet.proto import Agreement, Message, ProtocolVersion
from tunnelfleet.proto.streams import MAX_CONNECTION_ID, MAX_STREAM_ID, Stream, StreamIds
from tunnelfleet.proto.transitions import Happening


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (V1, Message(T.DATA, 7, payload=b"hi")),
        (V2, Message(T.DATA, 7, payload=b"hi", service_id="SSH")),
        (V3, Message(T.DATA, 7, payload=b"hi", service_id="SSH", connection_id=1)),
    ],
)
def test_messages_carry_the_ids_of_their_version(
    version: ProtocolVersion, expected: Message
) -> None:
    assert Stream("SSH", 7, version).message(T.DATA, 1, b"hi") == expected


def test_reset_of_a_v3_stream_names_a_connection() -> None:
    stream = Stream("SSH", 7, V3, connection_id=4)
    assert [message.connection_id for message in stream.stream_resets()] == [4]
    stream.connections.clear()
    assert [message.connection_id for message in stream.stream_resets()] == [1]
    assert Stream("SSH", 7, V2).stream_resets() == [Message(T.STREAM_RESET, 7, service_id="SSH")]
    assert Stream("SSH", 7, V1).stream_resets() == [Message(T.STREAM_RESET, 7)]


def test_the_next_connection_id_is_not_one_that_is_ending() -> None:
    stream = Stream("SSH", 1, V3, agreement=Agreement.AGREED)
    for connection in (2, 3, MAX_CONNECTION_ID):
        stream.add_connection(connection)
    stream.step(1, Happening.END)
    stream.step(2, Happening.PEER_END)
    assert stream.next_connection_id() == 4
    stream.step(1, Happening.ABORT)
    assert stream.next_connection_id() == 1


def test_connection_ids_go_on_when_connections_have_ended() -> None:
    stream = Stream("SSH", 1, V3)
    stream.connections.clear()
    assert stream.next_connection_id() == 2
    stream.add_connection(9)
    stream.connections.clear()
    assert stream.next_connection_id() == 10
    stream.add_connection(3)
    assert stream.next_connection_id() == 10


def test_connection_ids_start_over_past_the_largest_and_skip_open_ones() -> None:
    stream = Stream("SSH", 1, V3)
    stream.add_connection(2)
    stream.add_connection(MAX_CONNECTION_ID)
    assert stream.next_connection_id() == 3


def test_stream_ids_are_counted_for_each_service() -> None:
    ids = StreamIds()
    assert [ids.take("SSH"), ids.take("SSH"), ids.take("HTTP"), ids.take("SSH")] == [1, 2, 1, 3]


def test_stream_ids_begin_where_they_are_told_to() -> None:
    ids = StreamIds(70)
    assert [ids.take("SSH"), ids.take("SSH"), ids.take("HTTP")] == [70, 71, 70]
    last = StreamIds(MAX_STREAM_ID)
    assert [last.take("SSH"), last.take("SSH")] == [MAX_STREAM_ID, 1]


def test_stream_ids_are_never_0_or_out_of_range() -> None:
    ids = StreamIds()
    ids._last["SSH"] = MAX_STREAM_ID - 1
    assert [ids.take("SSH"), ids.take("SSH")] == [MAX_STREAM_ID, 1]
