"""The sending half of a tunnel: credit is conserved, the window and the bandwidth are kept."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.counters import TunnelStats
from tunnelfleet.actors.tunnel.in_flight import FIRST_WINDOW_BYTES
from tunnelfleet.actors.tunnel.messages import ConnectionKey
from tunnelfleet.actors.tunnel.pacing import BURST_SECONDS, PACED_FRACTION
from tunnelfleet.actors.tunnel.sender import (
    MESSAGE_OVERHEAD_BYTES,
    MIN_WINDOW_BYTES,
    UNTOLD_BYTES,
    WireSender,
)
from tunnelfleet.proto import MAX_PAYLOAD_BYTES, Message, MessageType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tunnelfleet.actors.tunnel.sender import Credit

COPY = ConnectionKey("SSH", 1, 1)
SHELL = ConnectionKey("SSH", 1, 2)
OTHER = ConnectionKey("HTTP", 1, 1)
KEYS = (COPY, SHELL, OTHER)


def to_messages(key: ConnectionKey, payload: bytes | None) -> list[Message]:
    type_ = MessageType.CONNECTION_RESET if payload is None else MessageType.DATA
    return [
        Message(
            type_,
            key.stream_id,
            payload=payload or b"",
            service_id=key.service_id,
            connection_id=key.connection_id,
        )
    ]


def pump(
    sender: WireSender, now: float, encode: Callable[..., list[Message]] = to_messages
) -> tuple[list[Message], float]:
    """Take out what may be sent now, as TunnelActor does; return it, and when to ask again."""
    messages = sender.take_control(now)
    while (piece := sender.next_piece(now)) is not None:
        for message in encode(piece.flow.key, piece.payload):
            sender.sent(message, piece.flow.key, now)
            messages.append(message)
    return messages, sender.wait_seconds


def make(
    limits: Limits | None = None, bandwidth: float | None = None, stats: TunnelStats | None = None
) -> WireSender:
    return WireSender(limits or Limits(), bandwidth, stats or TunnelStats(), 0.0)


def start(stream_id: int = 1) -> Message:
    return Message(MessageType.STREAM_START, stream_id, service_id="SSH", connection_id=1)


def key_of(message: Message) -> ConnectionKey:
    return ConnectionKey(message.service_id, message.stream_id, message.connection_id)


def total(given: Iterable[Credit]) -> Counter[ConnectionKey]:
    counter: Counter[ConnectionKey] = Counter()
    for credit in given:
        counter[credit.key] += credit.size_bytes
    return counter


class CreditIsConserved(RuleBasedStateMachine):
    """Whatever happens, each byte pushed is queued, on its way, or credited: once."""

    limits = Limits(wire_window_bytes=20_000, data_payload_bytes=5_000)

    def __init__(self) -> None:
        super().__init__()
        self.sender = make(self.limits)
        self.now = 0.0
        self.pushed: Counter[ConnectionKey] = Counter()
        self.credited: Counter[ConnectionKey] = Counter()
        self.sent: dict[ConnectionKey, bytes] = dict.fromkeys(KEYS, b"")
        self.expected: dict[ConnectionKey, bytes] = dict.fromkeys(KEYS, b"")
        self.discarded: set[ConnectionKey] = set()
        self.in_flight: deque[Message] = deque()

    @rule(key=st.sampled_from(KEYS), size=st.integers(0, 12_000), join=st.booleans())
    def push(self, key: ConnectionKey, size: int, join: bool) -> None:
        chunk = bytes((len(self.expected[key]) + index) % 251 for index in range(size))
        self.sender.data(key, chunk, self.now, join=join)
        self.pushed[key] += size
        self.expected[key] += chunk

    @rule()
    def control(self) -> None:
        self.sender.control(start())

    @rule()
    def pump(self) -> None:
        messages, wait_seconds = pump(self.sender, self.now)
        assert wait_seconds == 0.0, "no bandwidth is set"
        for message in messages:
            if message.type is MessageType.DATA:
                self.sent[key_of(message)] += message.payload
        self.in_flight.extend(messages)

    @precondition(lambda self: self.in_flight)
    @rule(share=st.floats(0.0, 1.0), blocked=st.booleans(), seconds=st.floats(0.0, 0.3))
    def written(self, share: float, blocked: bool, seconds: float) -> None:
        self.now += seconds
        count = max(1, int(len(self.in_flight) * share))
        left = [self.in_flight.popleft() for _ in range(count)]
        credit = total(self.sender.written(count, self.now, blocked=blocked))
        assert credit == sum_payloads(left)
        self.credited += credit

    @rule(key=st.sampled_from(KEYS))
    def discard(self, key: ConnectionKey) -> None:
        credit = self.sender.discard(key)
        assert credit.key == key
        self.credited[key] += credit.size_bytes
        self.discarded.add(key)

    @rule()
    def connection_lost(self) -> None:
        self.credited += total(self.sender.connection_lost())
        self.in_flight.clear()

    @invariant()
    def every_byte_is_somewhere_once(self) -> None:
        on_its_way = sum_payloads(self.in_flight)
        queued = sum(self.pushed.values()) - on_its_way.total() - self.credited.total()
        assert queued == self.sender._queue.queued_bytes
        for key in KEYS:
            assert self.credited[key] + on_its_way[key] <= self.pushed[key]

    @invariant()
    def nothing_is_reordered(self) -> None:
        for key in KEYS:
            if key not in self.discarded:
                assert self.expected[key].startswith(self.sent[key])

    def teardown(self) -> None:
        self.pump()
        while self.in_flight:
            self.written(1.0, blocked=False, seconds=0.01)
            self.pump()
        assert self.sender.is_idle
        assert +self.credited == +self.pushed
        for key in KEYS:
            assert key in self.discarded or self.sent[key] == self.expected[key]


def sum_payloads(messages: Iterable[Message]) -> Counter[ConnectionKey]:
    counter: Counter[ConnectionKey] = Counter()
    for message in messages:
        if message.payload:
            counter[key_of(message)] += len(message.payload)
    return counter


TestCreditIsConserved = CreditIsConserved.TestCase
TestCreditIsConserved.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def payload_sizes(messages: Iterable[Message]) -> list[int]:
    return [len(message.payload) for message in messages if message.type is MessageType.DATA]


def test_control_leaves_before_the_data_that_waits() -> None:
    sender = make()
    sender.data(COPY, b"bytes", 0.0)
    sender.control(start(1))
    sender.control(start(2))
    messages, _ = pump(sender, 0.0)
    assert [m.type for m in messages] == [
        MessageType.STREAM_START,
        MessageType.STREAM_START,
        MessageType.DATA,
    ]
    assert [m.stream_id for m in messages[:2]] == [1, 2]


def test_control_leaves_although_the_window_is_full() -> None:
    sender = make(Limits(wire_window_bytes=1_000))
    sender.data(COPY, b"x" * 2_000, 0.0)
    pump(sender, 0.0)
    sender.control(start())
    messages, _ = pump(sender, 0.0)
    assert [m.type for m in messages] == [MessageType.STREAM_START]


def test_an_end_leaves_behind_the_bytes_of_its_connection() -> None:
    sender = make()
    sender.data(COPY, b"x" * 200_000, 0.0)
    sender.end(COPY, 0.0)
    messages, _ = pump(sender, 0.0)
    types = [m.type for m in messages]
    assert types[-1] is MessageType.CONNECTION_RESET
    assert types.count(MessageType.CONNECTION_RESET) == 1
    assert sum(payload_sizes(messages)) == 200_000


@given(st.integers(1_000, 300_000), st.integers(1_000, 64_512))
def test_the_window_is_exceeded_by_one_message_at_most(window: int, payload: int) -> None:
    sender = make(Limits(wire_window_bytes=window, data_payload_bytes=payload))
    sender.data(COPY, b"x" * 1_000_000, 0.0)
    on_its_way = sum(size + MESSAGE_OVERHEAD_BYTES for size in payload_sizes(pump(sender, 0.0)[0]))
    assert window <= on_its_way < window + payload + MESSAGE_OVERHEAD_BYTES


def test_a_full_window_opens_by_what_was_written() -> None:
    sender = make(Limits(wire_window_bytes=10_000, data_payload_bytes=5_000))
    sender.data(COPY, b"x" * 100_000, 0.0)
    assert payload_sizes(pump(sender, 0.0)[0]) == [5_000, 5_000]
    assert payload_sizes(pump(sender, 0.0)[0]) == []
    sender.written(1, 0.0, blocked=False)
    assert payload_sizes(pump(sender, 0.0)[0]) == [5_000]


def test_credit_of_one_connection_is_summed() -> None:
    sender = make(Limits(data_payload_bytes=10))
    sender.data(COPY, b"x" * 25, 0.0)
    sender.data(SHELL, b"y" * 5, 0.0)
    messages, _ = pump(sender, 0.0)
    assert total(sender.written(len(messages), 0.0, blocked=False)) == {COPY: 25, SHELL: 5}


def test_control_and_ends_earn_no_credit() -> None:
    sender = make()
    sender.control(start())
    sender.end(COPY, 0.0)
    pump(sender, 0.0)
    assert sender.written(2, 0.0, blocked=False) == []
    assert sender.is_idle


def test_more_written_than_is_on_its_way_is_harmless() -> None:
    sender = make()
    sender.data(COPY, b"abc", 0.0)
    pump(sender, 0.0)
    assert total(sender.written(99, 0.0, blocked=False)) == {COPY: 3}
    assert sender.written(1, 0.0, blocked=False) == []


def test_a_lost_connection_takes_control_and_what_was_on_its_way_but_not_the_queue() -> None:
    sender = make(Limits(wire_window_bytes=10, data_payload_bytes=10))
    sender.data(COPY, b"x" * 30, 0.0)
    pump(sender, 0.0)
    sender.control(start())
    assert total(sender.connection_lost()) == {COPY: 10}
    messages, _ = pump(sender, 0.0)
    assert [m.type for m in messages] == [MessageType.DATA]


def test_a_piece_that_is_no_message_any_more_takes_nothing_of_the_window() -> None:
    sender = WireSender(Limits(), None, TunnelStats(), 0.0)
    sender.data(COPY, b"x" * 100, 0.0)
    sender.end(COPY, 0.0)
    assert pump(sender, 0.0, lambda _key, _payload: []) == ([], 0.0)
    assert sender.is_idle


def test_the_queue_is_counted_for_people() -> None:
    stats = TunnelStats()
    sender = make(Limits(wire_window_bytes=10, data_payload_bytes=10), stats=stats)
    sender.data(COPY, b"x" * 30, 0.0)
    assert stats.queue_bytes == 30
    pump(sender, 2.0)
    assert stats.queue_bytes == 20
    assert stats.queue_wait.total == 2.0
    sender.discard(COPY)
    assert stats.queue_bytes == 0


# -- bandwidth


@settings(max_examples=25)
@given(
    st.floats(10_000.0, 2_000_000.0),
    st.lists(st.integers(1, 30_000), min_size=20, max_size=60),
    st.integers(0, 3),
)
def test_over_time_no_more_leaves_than_the_bandwidth(
    bandwidth: float, chunks: list[int], lateness: int
) -> None:
    """The embedded bucket counts overhead too, and may be overdrawn by one message."""
    sender = make(bandwidth=bandwidth)
    now, wire_bytes, wait = 0.0, 0, 0.0
    largest = 0
    for index, size in enumerate(chunks):
        sender.data(KEYS[index % 3], b"x" * size, now)
        now += wait + lateness * 0.001
        messages, wait = pump(sender, now)
        for message in messages:
            cost = len(message.payload) + MESSAGE_OVERHEAD_BYTES
            wire_bytes += cost
            largest = max(largest, cost)
        sender.written(len(messages), now, blocked=False)
        allowed = PACED_FRACTION * bandwidth * (now + BURST_SECONDS) + largest + 1
        assert wire_bytes <= allowed


def test_a_paced_sender_uses_its_bandwidth() -> None:
    sender = make(bandwidth=100_000.0)
    sender.data(COPY, b"x" * 1_000_000, 0.0)
    now, sent = 0.0, 0
    while now < 5.0:
        messages, wait = pump(sender, now)
        sent += sum(payload_sizes(messages))
        sender.written(len(messages), now, blocked=False)
        now += max(wait, 0.0001)
    assert 0.9 * 95_000 * 5 <= sent <= 95_000 * 5.2


def test_a_paced_sender_says_when_to_ask_again() -> None:
    sender = make(bandwidth=100_000.0)
    sender.data(COPY, b"x" * 100_000, 0.0)
    _, wait = pump(sender, 0.0)
    assert wait > 0
    messages, _ = pump(sender, wait)
    assert payload_sizes(messages), "the wait was too short"


def test_a_keystroke_waits_behind_one_small_payload_only() -> None:
    sender = make(bandwidth=100_000.0)
    sender.data(COPY, b"x" * 1_000_000, 0.0)
    now, wait = 0.0, 0.0
    for _ in range(10):
        now += wait
        messages, wait = pump(sender, now)
        sender.written(len(messages), now, blocked=False)
    sender.data(SHELL, b"k", now)
    asked = now
    while True:
        now += wait
        messages, wait = pump(sender, now)
        sender.written(len(messages), now, blocked=False)
        if any(key_of(m) == SHELL for m in messages):
            break
    assert now - asked < 0.1


def test_the_time_that_is_throttled_is_counted_once_however_often_it_is_asked() -> None:
    stats = TunnelStats()
    sender = make(bandwidth=100_000.0, stats=stats)
    sender.data(COPY, b"x" * 100_000, 0.0)
    _, wait = pump(sender, 0.0)
    for _ in range(50):
        pump(sender, 0.0)
    assert stats.throttled_seconds == pytest.approx(wait)


# -- adapting to the link


class Link:
    """A kernel and a network that take `rate` bytes a second, simulated."""

    def __init__(self, sender: WireSender, rate: float, buffer_bytes: int) -> None:
        self.sender = sender
        self.rate = rate
        self.buffer_bytes = buffer_bytes
        self.now = 0.0
        self.in_kernel = 0.0
        self.with_actor: deque[Message] = deque()
        self.largest_payload = 0

    def run(self, seconds: float, step: float = 0.005) -> None:
        """The copy always has more to send."""
        end = self.now + seconds
        while self.now < end:
            wanted = Limits().send_high_water_bytes - self.sender._queue.queued_bytes
            self.sender.data(COPY, b"x" * wanted, self.now)
            self.largest_payload = 0
            self._pump()
            self.now += step
            self.in_kernel = max(0.0, self.in_kernel - self.rate * step)
            self._write()

    def _pump(self) -> None:
        messages, _ = pump(self.sender, self.now)
        self.with_actor.extend(messages)
        self.largest_payload = max([self.largest_payload, *payload_sizes(messages)])

    def _write(self) -> None:
        count = 0
        while self.with_actor and self.in_kernel < min(
            self.buffer_bytes, self.sender.low_water_bytes
        ):
            self.in_kernel += len(self.with_actor.popleft().payload) + MESSAGE_OVERHEAD_BYTES
            count += 1
        if count:
            self.sender.written(count, self.now, blocked=bool(self.with_actor))


def test_payload_window_and_kernel_queue_shrink_on_a_slow_link() -> None:
    sender = make()
    assert sender.low_water_bytes == Limits().notsent_low_water_bytes
    link = Link(sender, 100_000.0, 131_072)
    link.run(8.0)
    assert link.largest_payload <= 4_096
    assert MIN_WINDOW_BYTES <= sender.low_water_bytes <= 16_384
    assert sum(len(m.payload) for m in link.with_actor) <= 16_384


def test_full_payloads_come_back_when_the_link_is_fast_again() -> None:
    sender = make()
    link = Link(sender, 100_000.0, 131_072)
    link.run(8.0)
    link.rate = 100_000_000.0
    link.run(5.0)
    assert link.largest_payload == MAX_PAYLOAD_BYTES
    assert sender.low_water_bytes == Limits().notsent_low_water_bytes


def test_a_new_connection_starts_without_the_rate_of_the_old_one() -> None:
    sender = make()
    Link(sender, 50_000.0, 131_072).run(8.0)
    assert sender.low_water_bytes < Limits().notsent_low_water_bytes
    sender.connection_lost()
    assert sender.low_water_bytes == Limits().notsent_low_water_bytes


def test_a_measured_rate_is_doubted_while_the_link_takes_all_it_gets() -> None:
    """It is never blocked again, so nothing is measured: the rate grows by trying."""
    sender = make()
    Link(sender, 100_000.0, 131_072).run(8.0)
    sender.data(COPY, b"x" * 10_000_000, 8.0)
    largest = 0
    for step in range(60):
        now = 8.0 + step * 0.001
        messages, _ = pump(sender, now)
        largest = max([largest, *payload_sizes(messages)])
        sender.written(1_000, now, blocked=False)
    assert largest == MAX_PAYLOAD_BYTES


def test_what_has_a_key_is_told_when_it_has_left() -> None:
    sender = make()
    sender.control(start(), COPY)
    sender.control(start(2))
    pump(sender, 0.0)
    assert sender.written(2, 0.0, blocked=False) == []
    assert sender.is_idle


def test_bytes_pass_where_nothing_waits_and_the_window_is_open() -> None:
    sender = make(Limits(wire_window_bytes=1_000, data_payload_bytes=500))
    assert sender.passes(500)
    assert not sender.passes(501), "it would be split"
    sender.sent(to_messages(COPY, b"x" * 960)[0], COPY, 0.0)
    assert not sender.passes(1), "the window is full"
    assert total(sender.written(1, 0.0, blocked=False)) == {COPY: 960}
    assert sender.passes(1)


def test_nothing_passes_what_waits() -> None:
    queued, ended, control = make(), make(), make()
    queued.data(COPY, b"x", 0.0)
    ended.end(COPY, 0.0)
    control.control(start())
    for sender in (queued, ended, control):
        assert sender.has_waiting
        assert not sender.passes(1)
        pump(sender, 0.0)
        assert sender.passes(1)


def test_nothing_passes_a_bandwidth() -> None:
    assert not make(bandwidth=100_000.0).passes(1), "each byte is paced"


@pytest.mark.parametrize(
    ("size", "most"),
    [(FIRST_WINDOW_BYTES // 2, FIRST_WINDOW_BYTES // 2), (100_000, FIRST_WINDOW_BYTES // 8)],
)
def test_what_may_leave_at_once_is_not_cut_into_small_messages(size: int, most: int) -> None:
    for names in ([COPY], [COPY, SHELL]):
        sender = WireSender(Limits(), None, TunnelStats(), 0.0, pacing=True)
        for key in names:
            sender.data(key, bytes(size // len(names)), 0.0)
        messages, _wait_seconds = pump(sender, 0.0)
        sizes = [len(each.payload) for each in messages]
        assert max(sizes) == min(most, size // len(names))
        assert sum(sizes) <= FIRST_WINDOW_BYTES


# -- a queue that is suspected


def suspicious() -> WireSender:
    """A sender that has seen a queue at 1.0, and has handed over all that it had."""
    sender = WireSender(Limits(), None, TunnelStats(), 0.0, pacing=True)
    sender.data(COPY, b"x" * 1_000, 0.9)
    pump(sender, 0.9)
    assert sender.is_ping_due
    sender.ping(0.9)
    sender.in_flight.suspected_since = 1.0
    return sender


@pytest.mark.parametrize("queue", ["data", "messages"])
def test_a_suspicion_lasts_while_the_tunnel_always_has_more_to_send(queue: str) -> None:
    sender = suspicious()
    sender.written(1, 1.5, blocked=False)
    # The application was read only when there was room for it: nothing waited in between.
    payload = b"x" * 1_000
    getattr(sender, queue)(COPY, payload if queue == "data" else [payload], 1.51)
    pump(sender, 1.51)
    assert sender.in_flight.suspected_since == 1.0


@pytest.mark.parametrize("queue", ["data", "messages"])
def test_a_suspicion_ends_where_the_tunnel_has_had_nothing_to_send(queue: str) -> None:
    sender = suspicious()
    sender.written(1, 1.5, blocked=False)
    assert sender.in_flight.suspected_since == 1.0
    payload = b"x" * 1_000
    getattr(sender, queue)(COPY, payload if queue == "data" else [payload], 1.6)
    assert sender.in_flight.suspected_since is None


def test_what_the_kernel_has_not_taken_is_still_to_be_sent() -> None:
    sender = suspicious()
    sender.data(COPY, b"x" * 1_000, 3.0)
    assert sender.in_flight.suspected_since == 1.0


def test_a_suspicion_ends_with_a_silence_that_a_ping_begins_anew_behind() -> None:
    sender = suspicious()
    sender.written(1, 0.9, blocked=False)
    assert sender.in_flight.pong(1, 1_048, 1.1) is not None
    sender.in_flight.suspected_since = 1.1
    sender.sent(to_messages(COPY, b"x" * 40_000)[0], COPY, 5.0)
    assert sender.is_ping_due
    sender.ping(5.0)
    assert sender.in_flight.suspected_since is None


def test_small_messages_count_as_having_left_until_they_are_too_many() -> None:
    sender = make()
    each = 100 + MESSAGE_OVERHEAD_BYTES
    most = UNTOLD_BYTES // each
    for number in range(most):
        assert sender.passes(100)
        assert sender.leaves_untold(100, float(number))
    assert sender.is_idle
    assert not sender.leaves_untold(100, 1.0)
    # The next one is told, and with it those before.
    message = to_messages(SHELL, b"x" * 100)[0]
    sender.sent(message, SHELL, 1.0)
    assert total(sender.written(1, 2.0, blocked=False)) == {SHELL: 100}
    assert sender.leaves_untold(100, 3.0)


def test_nothing_leaves_untold_behind_what_is_on_its_way() -> None:
    sender = make()
    sender.sent(start(), SHELL, 0.0)
    assert not sender.leaves_untold(1, 0.0)
    sender.written(1, 0.0, blocked=False)
    assert sender.leaves_untold(1, 0.0)


def test_on_a_small_window_less_leaves_untold() -> None:
    sender = make(Limits(wire_window_bytes=4 * (100 + MESSAGE_OVERHEAD_BYTES)))
    assert sender.leaves_untold(100, 0.0)
    assert not sender.leaves_untold(1, 0.0)
    sender.connection_lost()
    assert sender.leaves_untold(100, 0.0), "a new link begins anew"


def test_what_leaves_untold_counts_for_the_pace() -> None:
    sender = WireSender(Limits(), None, TunnelStats(), 0.0, pacing=True)
    sent_bytes = 0
    while sender.passes(1_000):
        if not sender.leaves_untold(1_000, 0.0):
            sender.sent(to_messages(COPY, b"x" * 1_000)[0], COPY, 0.0)
            sender.written(1, 0.0, blocked=False)
        sent_bytes += 1_000
        assert sent_bytes < 10 * FIRST_WINDOW_BYTES
