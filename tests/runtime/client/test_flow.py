"""Callbacks that block, raise or are slow, senders that are too fast: who waits, what grows."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.bench.api_bench import run
from tests.support.client_bench import LIMITS, ClientBench, Transcript
from tests.support.memory import rss_bytes
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import (
    Message,
    MessageReceived,
    Mode,
    SecureTunnel,
    SendQueueFull,
    StreamStarted,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

ECHOING = 50
MAX_THREADS = 16


def send_back(tunnel: SecureTunnel, event: MessageReceived) -> None:
    tunnel.send_message(event.message)


class RoundTrips:
    """Measures echoes of one tunnel, one after the other."""

    def __init__(self) -> None:
        self._came = threading.Event()

    def __call__(self, _tunnel: SecureTunnel, _event: MessageReceived) -> None:
        self._came.set()

    def make(self, source: SecureTunnel) -> None:
        self._came.clear()
        source.send_message(Message(b"ping", "SSH", 1))
        assert self._came.wait(WAIT_SECONDS)


def cpu_seconds(echoing: list[tuple[SecureTunnel, RoundTrips]]) -> float:
    """What four round trips of each cost this process: other processes do not count."""
    started = time.process_time()
    for source, trips in echoing * 4:
        trips.make(source)
    return time.process_time() - started


def open_echoing(bench: ClientBench, count: int) -> list[tuple[SecureTunnel, RoundTrips]]:
    found = []
    for number in range(count):
        trips = RoundTrips()
        pair = bench.pair(
            name=f"echo-{number}",
            source={"on_message_received": trips},
            destination={"on_message_received": send_back},
            but=["on_send_message_complete"],
        )
        pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
        pair.at_destination.wait(StreamStarted)
        found.append((pair.source, trips))
    return found


class TestBlockingCallback:
    def test_it_delays_no_other_tunnel(self, bench: ClientBench) -> None:
        echoing = open_echoing(bench, ECHOING)
        entered, release = threading.Event(), threading.Event()
        left = threading.Event()

        def block(_tunnel: SecureTunnel, _event: MessageReceived) -> None:
            entered.set()
            release.wait(WAIT_SECONDS * 3)
            left.set()

        slow = bench.pair(name="slow", destination={"on_message_received": block})
        slow.source.send_stream_start("SSH").result(WAIT_SECONDS)
        cpu_seconds(echoing)
        before = cpu_seconds(echoing)
        slow.source.send_message(Message(b"x", "SSH")).result(WAIT_SECONDS)
        assert entered.wait(WAIT_SECONDS)
        # Each of them comes while the callback blocks, and costs no more than before.
        during = cpu_seconds(echoing)
        assert not left.is_set()
        assert during < before * 2 + 0.2
        assert threading.active_count() <= MAX_THREADS
        release.set()
        assert left.wait(WAIT_SECONDS)

    def test_many_that_block_get_threads_and_the_threads_go(self, bench: ClientBench) -> None:
        release = threading.Event()
        entered = threading.Semaphore(0)

        def block(_tunnel: SecureTunnel, _event: StreamStarted) -> None:
            entered.release()
            release.wait(WAIT_SECONDS * 3)

        for number in range(20):
            pair = bench.pair(name=f"b{number}", destination={"on_stream_started": block})
            pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
        for _ in range(20):
            assert entered.acquire(timeout=WAIT_SECONDS)
        ((source, trips),) = open_echoing(bench, 1)
        trips.make(source)
        assert bench.runtime.callback_threads.thread_count <= 32
        release.set()

    def test_it_does_not_hold_up_stop_of_others(self, bench: ClientBench) -> None:
        release = threading.Event()
        blocked = bench.pair(
            name="blocked",
            destination={"on_stream_started": lambda _t, _e: release.wait(WAIT_SECONDS * 3)},
        )
        blocked.source.send_stream_start("SSH").result(WAIT_SECONDS)
        other = bench.pair(name="other")
        other.destination.stop().result(WAIT_SECONDS)
        stopped = blocked.destination.stop()
        assert not stopped.done()
        release.set()
        stopped.result(WAIT_SECONDS)


class TestRaisingCallback:
    def test_the_tunnel_lives_and_each_is_counted(
        self, bench: ClientBench, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_tunnel: SecureTunnel, event: object) -> None:
            raise ZeroDivisionError(type(event).__name__)

        bad = Transcript().callbacks()
        pair = bench.pair(destination=dict.fromkeys(bad, fail))
        pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
        for _ in range(30):
            pair.source.send_message(Message(b"x", "SSH")).result(WAIT_SECONDS)
        # Success, stream, 30 messages: from then on the connection can be sent on.
        eventually(lambda: pair.destination.callback_stats.errors == 32)
        pair.destination.send_message(Message(b"still there")).result(WAIT_SECONDS)
        (event,) = pair.at_source.wait(MessageReceived)
        assert event.message.payload == b"still there"
        # And one completion.
        eventually(lambda: pair.destination.callback_stats.errors == 33)
        assert pair.destination.status().reconnects == 0
        logged = [record for record in caplog.records if "callback raised" in record.message]
        assert len(logged) == 10

    def test_one_that_exits_the_interpreter_does_not(self, bench: ClientBench) -> None:
        def leave(_tunnel: SecureTunnel, _event: object) -> None:
            raise SystemExit(3)

        pair = bench.pair(destination={"on_message_received": leave})
        pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
        pair.source.send_bytes(bytes(1_000_000), "SSH").result(WAIT_SECONDS)
        eventually(lambda: pair.destination.callback_stats.errors == 16)
        pair.destination.stop().result(WAIT_SECONDS)


class TestSlowCallback:
    def test_reading_is_held_back_and_not_memory(self, bench: ClientBench) -> None:
        release = threading.Event()
        total = [0]

        def take(_tunnel: SecureTunnel, event: MessageReceived) -> None:
            release.wait(WAIT_SECONDS * 3)
            total[0] += len(event.message.payload)

        pair = bench.pair(
            destination={"on_message_received": take}, but=["on_send_message_complete"]
        )
        pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
        gc.collect()
        before = rss_bytes()
        wanted_bytes = 200_000_000
        chunk = bytes(1_000_000)
        futures: list[Future[int]] = []
        while len(futures) * len(chunk) < wanted_bytes:
            try:
                futures.append(pair.source.send_bytes(chunk, "SSH", timeout_seconds=0.5))
            except SendQueueFull:
                if pair.destination.callback_stats.stalls:
                    break
        grown = rss_bytes() - before
        print(f"held after {len(futures)} MB, memory grew by {grown / 1e6:.1f} MB")
        assert len(futures) < 40
        assert grown < 32_000_000
        assert pair.destination.callback_stats.stalls >= 1
        assert pair.destination.status().reconnects == 0
        release.set()
        eventually(lambda: total[0] >= len(futures) * len(chunk))
        pair.source.send_message(Message(b"end", "SSH")).result(WAIT_SECONDS)
        eventually(lambda: total[0] >= len(futures) * len(chunk) + 3)

    def test_tiny_messages_are_bounded_too(self, bench: ClientBench) -> None:
        release = threading.Event()
        count = [0]

        def take(_tunnel: SecureTunnel, _event: MessageReceived) -> None:
            release.wait(WAIT_SECONDS * 3)
            count[0] += 1

        limits = replace(LIMITS, event_backlog_bytes=100_000)
        pair = bench.pair(
            destination={"on_message_received": take, "limits": limits},
            but=["on_send_message_complete"],
        )
        pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
        accepted = 0
        # Of what they cost as events the bytes are a small part, and on the way they fill buffers.
        tiny = [Message(bytes(50), "SSH", 1)] * 5_000
        with pytest.raises(SendQueueFull) as caught:  # noqa: PT012
            while True:
                pair.source.send_messages(tiny, timeout_seconds=0.5)
                accepted += len(tiny)
        accepted += caught.value.accepted
        assert accepted < 300_000
        release.set()
        # Tens of thousands of callbacks: a busy machine takes its time for them.
        eventually(lambda: count[0] == accepted, "all are told", timeout_seconds=90.0)

    def test_completions_hold_back_the_sender(self, bench: ClientBench) -> None:
        release = threading.Event()
        limits = replace(LIMITS, event_backlog_bytes=50_000)
        pair = bench.pair(
            source={
                "on_send_message_complete": lambda _t, _e: release.wait(WAIT_SECONDS * 3),
                "limits": limits,
            }
        )
        pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
        sent = 0
        with pytest.raises(SendQueueFull):  # noqa: PT012
            while sent < 100_000:
                pair.source.send_message(Message(b"x", "SSH"), timeout_seconds=0.3)
                sent += 1
        assert sent < 10_000
        release.set()
        pair.source.send_message(Message(b"x", "SSH")).result(WAIT_SECONDS)


class TestSender:
    def test_over_the_credit_it_fails_at_once_or_waits(self, bench: ClientBench) -> None:
        pair = bench.pair(but=["on_message_received"])
        pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
        bench.service.stall("tunnel", Mode.SOURCE)
        with pytest.raises(SendQueueFull, match="no room"):  # noqa: PT012
            while True:
                pair.source.send_message(Message(bytes(60_000), "SSH"), timeout_seconds=0.5)
        with pytest.raises(SendQueueFull, match="no room for another message after 0 s"):
            pair.source.send_message(Message(bytes(60_000), "SSH"), timeout_seconds=0)
        done = threading.Event()

        def send_waiting() -> None:
            pair.source.send_message(Message(bytes(60_000), "SSH")).result(WAIT_SECONDS)
            done.set()

        waiting = threading.Thread(target=send_waiting)
        waiting.start()
        assert not done.wait(0.2)
        bench.service.resume_reading("tunnel", Mode.SOURCE)
        assert done.wait(WAIT_SECONDS)
        waiting.join()

    def test_messages_are_limited_by_number_too(self, bench: ClientBench) -> None:
        limits = replace(LIMITS, send_high_water_messages=10)
        pair = bench.pair(source={"limits": limits}, but=["on_message_received"])
        pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
        bench.service.stall("tunnel", Mode.SOURCE)
        with pytest.raises(SendQueueFull) as caught:
            pair.source.send_messages(
                (Message(bytes(20_000), "SSH") for _ in range(5_000)), timeout_seconds=0.5
            )
        assert 10 <= caught.value.accepted < 5_000
        # Else its end waits for what was accepted.
        bench.service.resume_reading("tunnel", Mode.SOURCE)

    def test_from_many_threads_in_order_of_each(self, bench: ClientBench) -> None:
        pair = bench.pair(but=["on_send_message_complete"])
        pair.source.send_stream_start("SSH").result(WAIT_SECONDS)

        def send(mark: int) -> None:
            for number in range(500):
                pair.source.send_message(Message(bytes([mark]) + number.to_bytes(4), "SSH", 1))

        threads = [threading.Thread(target=send, args=(mark,)) for mark in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_SECONDS)
        received = pair.at_destination.wait(MessageReceived, 4_000)
        for mark in range(8):
            mine = [e.message.payload[1:] for e in received if e.message.payload[0] == mark]
            assert mine == [number.to_bytes(4) for number in range(500)]


def test_a_hundred_thousand_messages_in_order_in_flat_memory() -> None:
    result = run(100_000)
    print(result)
    assert result["written"] == result["received"] == 100_000
    assert result["wrong"] == 0
    assert result["rss_growth_bytes"] < 8_000_000
    assert result["threads"] <= MAX_THREADS


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_million_messages_in_order_in_flat_memory() -> None:
    result = run(1_000_000)
    print(result)
    assert result["written"] == result["received"] == 1_000_000
    assert result["wrong"] == 0
    assert result["rss_growth_bytes"] < 8_000_000
