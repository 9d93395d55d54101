"""What connections have received and not delivered: when to hold the WebSocket, who stalls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes import FakeRef
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.counters import ServiceCounters, TunnelStats
from tunnelfleet.actors.tunnel.connections import Connection, ConnectionTable, EndPhase
from tunnelfleet.actors.tunnel.messages import (
    TAKEN_UNTOLD_BYTES,
    BytesSent,
    ConnectionKey,
    Deliver,
    RemoteEnded,
    StopReadingLocal,
)
from tunnelfleet.proto import DataReceived, End, Message, MessageType, Mode, Session

STREAM: Any = object()
COUNTERS = ServiceCounters()
LIMITS = Limits(receive_backlog_bytes=1_000, tunnel_backlog_bytes=2_500, stall_timeout_seconds=60.0)
ROOMY = Limits(receive_backlog_bytes=10_000, tunnel_backlog_bytes=20_000)


def empty_table(limits: Limits = LIMITS) -> ConnectionTable:
    return ConnectionTable(limits, Session(Mode.SOURCE), TunnelStats())


def table_of(count: int = 1, limits: Limits = LIMITS) -> tuple[ConnectionTable, list[Connection]]:
    table = empty_table(limits)
    added = [table.add(ConnectionKey("SSH", 1, n + 1), STREAM, COUNTERS, 0.0) for n in range(count)]
    return table, added


def test_a_connection_is_found_by_its_key_until_it_is_removed() -> None:
    table, (connection,) = table_of()
    assert table.get(connection.key) is connection
    assert (len(table), list(table)) == (1, [connection])
    table.remove(connection)
    assert table.get(connection.key) is None
    assert len(table) == 0


def test_removing_twice_is_harmless() -> None:
    table, (connection,) = table_of()
    table.received(connection, 10, 0.0)
    table.remove(connection)
    table.remove(connection)
    assert table.backlog_bytes == 0


def test_the_connections_of_a_stream_are_those_of_its_actor_whatever_their_ids() -> None:
    """A peer that has started anew uses the ids of what is still being written out."""
    table = empty_table()
    old, new = ConnectionKey("SSH", 1, 1, serial=1), ConnectionKey("SSH", 1, 1, serial=2)
    former: Any = object()
    kept = table.add(old, former, COUNTERS, 0.0)
    table.release(kept)
    added = table.add(new, STREAM, COUNTERS, 0.0)
    assert (table.of_stream(former), table.all_of_stream(former)) == ([], [kept])
    assert table.of_stream(STREAM) == table.all_of_stream(STREAM) == [added]
    assert table.find("SSH", 1, 1) is added
    table.remove(kept)
    assert table.find("SSH", 1, 1) is added, "the end of the old one takes nothing from it"


def test_a_released_connection_is_found_by_its_key_and_counts_no_more() -> None:
    table, (released, open_) = table_of(2)
    table.received(released, 30, 0.0)
    assert table.release(released) is None
    assert released.end_phase is EndPhase.OVER
    assert (len(table), list(table)) == (1, [open_])
    assert table.find("SSH", 1, 1) is None
    assert table.get(released.key) is released
    assert table.undelivered_bytes == 30
    table.delivered(released, 10, 0.0)
    assert table.undelivered_bytes == 20
    table.remove(released)
    assert (table.undelivered_bytes, table.backlog_bytes) == (0, 0)
    assert table.get(released.key) is None


def test_above_the_limit_the_one_released_first_is_given_back_once() -> None:
    table = empty_table(replace(LIMITS, max_lingering_connections=2))
    added = [table.add(ConnectionKey("SSH", 1, n + 1), STREAM, COUNTERS, 0.0) for n in range(5)]
    assert [table.release(each) for each in added[:2]] == [None, None]
    assert [table.release(each) for each in added[2:4]] == added[:2]
    table.remove(added[2])
    assert table.release(added[4]) is None, "there is room again"
    assert table.get(added[0].key) is added[0], "it is kept until its socket has ended"


def test_what_a_released_connection_holds_still_holds_up_the_tunnel() -> None:
    table, (connection,) = table_of()
    table.received(connection, 1_500, 0.0)
    table.release(connection)
    assert table.must_pause
    assert table.stalled(60.0) == [connection]


def test_the_table_may_change_while_it_is_walked() -> None:
    table, added = table_of(3)
    for connection in table:
        table.remove(connection)
    assert len(added) == 3
    assert len(table) == 0


def test_reading_pauses_above_the_limit_of_a_connection() -> None:
    table, (connection,) = table_of()
    table.received(connection, 1_000, 0.0)
    assert not table.must_pause
    table.received(connection, 1, 0.0)
    assert table.must_pause


def test_reading_resumes_at_half_of_the_limit_not_before() -> None:
    table, (connection,) = table_of()
    table.received(connection, 1_200, 0.0)
    table.delivered(connection, 699, 0.0)
    assert table.must_pause
    table.delivered(connection, 1, 0.0)
    assert not table.must_pause


def test_reading_pauses_above_the_limit_of_the_tunnel() -> None:
    """Not by what may have been taken of each and was not told."""
    table, added = table_of(3, ROOMY)
    most = ROOMY.tunnel_backlog_bytes + 3 * TAKEN_UNTOLD_BYTES
    for connection in added:
        table.received(connection, most // 3, 0.0)
    table.received(added[0], most % 3, 0.0)
    assert not table.must_pause
    table.received(added[0], 2, 0.0)
    assert table.must_pause
    table.delivered(added[0], 1, 0.0)
    assert table.must_pause
    table.delivered(added[0], 1, 0.0)
    assert not table.must_pause


def test_what_may_have_been_taken_untold_never_holds_a_tunnel() -> None:
    limits = Limits(tunnel_backlog_bytes=2_500)
    table, added = table_of(100, limits)
    for connection in added:
        table.received(connection, TAKEN_UNTOLD_BYTES - 1, 0.0)
    assert table.backlog_bytes > limits.tunnel_backlog_bytes
    assert not table.must_pause


def test_a_removed_connection_holds_nothing_up() -> None:
    table, (connection,) = table_of()
    table.received(connection, 5_000, 0.0)
    table.remove(connection)
    assert not table.must_pause
    assert table.backlog_bytes == 0


def test_only_a_connection_that_holds_the_tunnel_up_is_stalled() -> None:
    table, (culprit, innocent) = table_of(2)
    table.received(culprit, 1_001, 0.0)
    table.received(innocent, 10, 0.0)
    assert table.stalled(59.9) == []
    assert table.stalled(60.0) == [culprit]


def test_progress_is_no_stall() -> None:
    table, (connection,) = table_of()
    table.received(connection, 1_500, 0.0)
    table.delivered(connection, 1, 50.0)
    assert table.stalled(100.0) == []
    assert table.stalled(110.0) == [connection]


def test_the_first_byte_after_silence_starts_the_clock() -> None:
    table, (connection,) = table_of()
    table.received(connection, 1_500, 1_000.0)
    assert table.stalled(1_001.0) == []


def test_the_first_byte_behind_what_was_taken_untold_starts_the_clock() -> None:
    table, (connection,) = table_of(1, ROOMY)
    table.received(connection, TAKEN_UNTOLD_BYTES - 1, 0.0)
    table.received(connection, 20_000, 1_000.0)
    assert table.stalled(1_059.0) == []
    assert table.stalled(1_060.0) == [connection]


def test_when_the_sum_is_too_much_all_that_take_nothing_are_suspects() -> None:
    table, added = table_of(4, ROOMY)
    for connection in added[:3]:
        table.received(connection, 9_000, 0.0)
    # It may have been taken.
    table.received(added[3], TAKEN_UNTOLD_BYTES - 1, 0.0)
    assert table.must_pause
    assert set(table.stalled(60.0)) == set(added[:3])


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["receive", "deliver", "release", "remove"]),
            st.floats(0, 1),
        )
    )
)
def test_the_sum_is_that_of_the_connections_and_never_negative(
    steps: list[tuple[int, str, float]],
) -> None:
    table, added = table_of(3)
    removed: set[int] = set()
    for index, step, share in steps:
        connection = added[index]
        if index in removed:
            continue
        if step == "receive":
            table.received(connection, int(share * 1_500), 0.0)
        elif step == "deliver":
            table.delivered(connection, int(share * connection.backlog_bytes), 0.0)
        elif step == "release":
            table.release(connection)
        else:
            table.remove(connection)
            removed.add(index)
        backlogs = [c.backlog_bytes for c in added]
        assert table.backlog_bytes == sum(backlogs)
        over = [c.backlog_bytes for c in added if c.end_phase is EndPhase.OVER]
        assert table.undelivered_bytes == sum(over)
        assert min(backlogs) >= 0
        if any(backlog > LIMITS.receive_backlog_bytes for backlog in backlogs):
            assert table.must_pause
        if all(backlog <= LIMITS.receive_backlog_bytes // 2 for backlog in backlogs):
            assert not table.must_pause


def test_what_comes_before_the_socket_is_there_waits_for_it_in_order() -> None:
    _, (connection,) = table_of()
    key, receiver = connection.key, FakeRef()
    first, second = Deliver(key, b"first"), RemoteEnded(key, End.ORDERLY, "closed by the peer")
    connection.tell(first)
    connection.tell(second)
    connection.attach(receiver)
    connection.tell(StopReadingLocal())
    assert receiver.told == [first, second, StopReadingLocal()]


def test_nothing_is_kept_for_a_socket_that_has_ended() -> None:
    _, (early, late) = table_of(2)
    early.tell(Deliver(early.key, b"never read"))
    early.leave()
    receiver = FakeRef()
    late.attach(receiver)
    late.leave()
    late.tell(Deliver(late.key, b"late"))
    late.give_credit(4)
    assert receiver.told == []
    early.attach(receiver)
    assert receiver.told == [], "the bytes died with the socket before"


def test_credit_goes_to_a_socket_and_not_to_a_user() -> None:
    table, (connection,) = table_of()
    receiver, user = FakeRef(), FakeRef()
    connection.attach(receiver)
    connection.give_credit(7)
    connection.give_credit(0)
    assert receiver.told == [BytesSent(7)]
    users = table.add(ConnectionKey("API", 1, 1), user, COUNTERS, 0.0, has_own_backlog=True)
    users.give_credit(7)
    users.tell(Deliver(users.key, b"hello"))
    assert user.told == [Deliver(users.key, b"hello")]


def test_little_credit_waits_for_more() -> None:
    _, (connection,) = table_of()
    receiver = FakeRef()
    connection.attach(receiver, 100)
    for size_bytes in (64, 35, 1, 99, 250, 3):
        connection.give_credit(size_bytes)
    assert receiver.told == [BytesSent(100), BytesSent(349)]


class Carried:
    """A connection of an open stream, and what its local end was told."""

    def __init__(self) -> None:
        session, self.stats = Session(Mode.SOURCE), TunnelStats()
        session.connected()
        session.receive(Message(MessageType.SERVICE_IDS, available_service_ids=("SSH",)))
        opened = session.open_connection("SSH")
        self.session = session
        self.table = ConnectionTable(LIMITS, session, self.stats)
        self.key = ConnectionKey("SSH", opened.stream_id, opened.connection_id, 1)
        counters = self.stats.service("SSH")
        self.connection = self.table.add(self.key, STREAM, counters, 0.0)
        self.local_end = FakeRef()
        self.connection.attach(self.local_end)


def test_bytes_that_arrive_go_to_their_local_end_and_are_kept_in_mind() -> None:
    carried = Carried()
    carried.table.deliver(DataReceived(*carried.key[:3], b"hello"))
    assert carried.local_end.told == [Deliver(carried.key, b"hello")]
    assert carried.table.backlog_bytes == carried.connection.live.received_bytes == 5
    assert carried.stats.service("SSH").received_bytes == 5


def test_bytes_that_nobody_takes_are_counted_as_dropped() -> None:
    carried = Carried()
    carried.connection.leave()
    carried.table.deliver(DataReceived(*carried.key[:3], b"gone"))
    carried.table.deliver(DataReceived("SSH", carried.key.stream_id, 77, b"unknown"))
    assert carried.stats.dropped_messages == {"local_end_gone": 2}
    assert carried.stats.service("SSH").received_bytes == 11
    assert carried.table.backlog_bytes == 0


def test_bytes_that_were_read_become_the_message_of_the_wire() -> None:
    carried = Carried()
    message = carried.table.encode(carried.connection, b"hello")
    assert message is not None
    assert (message.type, message.payload, message.connection_id) == (MessageType.DATA, b"hello", 1)
    assert carried.connection.live.sent_bytes == carried.stats.service("SSH").sent_bytes == 5


def test_bytes_that_cannot_be_sent_give_their_credit_back() -> None:
    carried = Carried()
    carried.session.reset_stream("SSH")
    assert carried.table.encode(carried.connection, b"late") is None
    assert carried.local_end.told == [BytesSent(4)]
    assert carried.stats.failed_sends == 1
    assert carried.connection.live.sent_bytes == 0
