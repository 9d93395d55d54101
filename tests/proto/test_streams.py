"""Streams: ids of new ones, and the ids that messages carry in each version."""

from __future__ import annotations

import pytest

from tests.proto.wire import V1, V2, V3, T
from tunnelfleet.proto import Message, ProtocolVersion
from tunnelfleet.proto.streams import MAX_CONNECTION_ID, MAX_STREAM_ID, Stream, StreamIds


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
    assert stream.reset_message().connection_id == 4
    stream.connection_ids.clear()
    assert stream.reset_message().connection_id == 1
    assert Stream("SSH", 7, V2).reset_message() == Message(T.STREAM_RESET, 7, service_id="SSH")
    assert Stream("SSH", 7, V1).reset_message() == Message(T.STREAM_RESET, 7)


def test_a_connection_is_over_when_both_sides_have_ended_it() -> None:
    stream = Stream("SSH", 1, V3)
    assert (stream.can_send(1), stream.can_receive(1)) == (True, True)
    assert stream.end_local(1)
    assert not stream.end_local(1)
    assert (stream.can_send(1), stream.can_receive(1)) == (False, True)
    assert stream.known_ids == {1}
    assert stream.end_remote(1)
    assert not stream.end_remote(1)
    assert (stream.can_send(1), stream.can_receive(1)) == (False, False)
    assert stream.known_ids == set()


def test_an_end_of_the_peer_leaves_the_way_to_it_open() -> None:
    stream = Stream("SSH", 1, V3)
    assert stream.end_remote(1)
    assert (stream.can_send(1), stream.can_receive(1)) == (True, False)
    assert stream.end_local(1)
    assert not stream.end_local(9)
    assert stream.known_ids == set()


def test_the_next_connection_id_is_not_one_that_is_ending() -> None:
    stream = Stream("SSH", 1, V3)
    for connection in (2, 3, MAX_CONNECTION_ID):
        stream.add_connection(connection)
    stream.end_local(1)
    stream.end_remote(2)
    assert stream.next_connection_id() == 4
    stream.forget(1)
    assert stream.next_connection_id() == 1


def test_connection_ids_go_on_when_connections_have_ended() -> None:
    stream = Stream("SSH", 1, V3)
    stream.connection_ids.clear()
    assert stream.next_connection_id() == 2
    stream.add_connection(9)
    stream.connection_ids.clear()
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


def test_stream_ids_are_never_0_or_out_of_range() -> None:
    ids = StreamIds()
    ids._last["SSH"] = MAX_STREAM_ID - 1
    assert [ids.take("SSH"), ids.take("SSH")] == [MAX_STREAM_ID, 1]
