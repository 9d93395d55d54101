"""The client in asyncio: events in order, held back, ended; sending never blocks the loop."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.callbacks import RelayThreads
from tunnelfleet.runtime import (
    ApiEvent,
    ConnectionReset,
    ConnectionShutdown,
    ConnectionSuccess,
    Message,
    MessageReceived,
    Mode,
    NoActiveStream,
    SecureTunnel,
    Stopped,
    StreamStarted,
    StreamStopped,
)
from tunnelfleet.runtime.client.options import HIGH_WATER_BYTES, EventStream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.support.client_bench import ClientBench


def both(
    bench: ClientBench, act: Callable[[SecureTunnel, SecureTunnel], Coroutine[None, None, None]]
) -> None:
    """Run a coroutine with the connected ends of a tunnel."""

    async def main() -> None:
        tokens = bench.service.open_tunnel("t", ["SSH"])
        source = bench.client("source", tokens.source_token)
        destination = bench.client("destination", tokens.destination_token)
        await asyncio.wait_for(act(source, destination), WAIT_SECONDS * 3)

    asyncio.run(main())


def test_a_conversation(bench: ClientBench) -> None:
    async def act(source: SecureTunnel, destination: SecureTunnel) -> None:
        events = destination.events()
        async with destination, source:
            assert await destination.connected() == ("SSH",)
            assert await source.connected() == ("SSH",)
            await asyncio.wrap_future(source.send_stream_start("SSH"))
            await source.send(Message(b"hello"))
            got: list[ApiEvent] = []
            async for event in events:
                got.append(event)
                if isinstance(event, MessageReceived):
                    break
        got.extend([event async for event in events])
        assert [type(event) for event in got] == [
            ConnectionSuccess,
            StreamStarted,
            MessageReceived,
            ConnectionReset,
            StreamStopped,
            ConnectionShutdown,
            Stopped,
        ]

    both(bench, act)


def test_errors_are_raised(bench: ClientBench) -> None:
    async def act(source: SecureTunnel, destination: SecureTunnel) -> None:
        async with source, destination:
            await source.connected()
            with pytest.raises(NoActiveStream):
                await source.send(Message(b"x"))

    both(bench, act)


def test_many_senders_without_room_do_not_block_the_loop(bench: ClientBench) -> None:
    async def act(source: SecureTunnel, destination: SecureTunnel) -> None:
        events = destination.events()
        async with source, destination:
            await source.connected()
            await destination.connected()
            await asyncio.wrap_future(source.send_stream_start())
            bench.service.stall("t", Mode.SOURCE)
            sends = [
                asyncio.create_task(source.send(Message(number.to_bytes(4) + bytes(60_000))))
                for number in range(200)
            ]
            # The loop turns while they wait. One that blocked it would do so for ever: the loop has
            # the service read on.
            for _ in range(10):
                await asyncio.sleep(0.01)
            assert not all(task.done() for task in sends)
            bench.service.resume_reading("t", Mode.SOURCE)
            received = []
            async for event in events:
                if isinstance(event, MessageReceived):
                    received.append(int.from_bytes(event.message.payload[:4]))
                if len(received) == 200:
                    break
            await asyncio.gather(*sends)
            assert sorted(received) == list(range(200))

    both(bench, act)


def test_a_loop_that_takes_nothing_holds_the_tunnel_back(bench: ClientBench) -> None:
    async def act(source: SecureTunnel, destination: SecureTunnel) -> None:
        events = destination.events()
        async with source, destination:
            await source.connected()
            await destination.connected()
            await asyncio.wrap_future(source.send_stream_start())
            total = 100
            numbered = (Message(number.to_bytes(4) + bytes(60_000)) for number in range(total))
            sending = asyncio.create_task(asyncio.to_thread(source.send_messages, numbered))
            await asyncio.sleep(0.3)
            waiting = sum(
                len(event.message.payload)
                for event in events._events
                if isinstance(event, MessageReceived)
            )
            assert waiting <= HIGH_WATER_BYTES + 70_000
            received = []
            async for event in events:
                if isinstance(event, MessageReceived):
                    received.append(int.from_bytes(event.message.payload[:4]))
                if len(received) == total:
                    break
            assert received == list(range(total))
            await sending

    both(bench, act)


def test_a_stream_that_is_dropped_lets_the_tunnel_go_on(bench: ClientBench) -> None:
    async def act(source: SecureTunnel, destination: SecureTunnel) -> None:
        dropped, kept = destination.events(), destination.events()
        async with source, destination:
            await source.connected()
            await destination.connected()
            await asyncio.wrap_future(source.send_stream_start())
            sending = asyncio.create_task(
                asyncio.to_thread(source.send_bytes, bytes(4_000_000), "SSH")
            )
            await asyncio.sleep(0.1)
            del dropped
            gc.collect()
            total = 0
            async for event in kept:
                if isinstance(event, MessageReceived):
                    total += len(event.message.payload)
                if total == 4_000_000:
                    break
            await sending

    both(bench, act)


def test_a_closed_stream_takes_nothing_more() -> None:
    threads = RelayThreads()

    async def main() -> None:
        callback_queue = threads.queue("t", print, 1_000)
        stream = EventStream(asyncio.get_running_loop())
        stream.put(ConnectionShutdown("t", None), callback_queue)
        stream.close()
        stream.put(ConnectionShutdown("t", None), callback_queue)
        assert [event async for event in stream] == []

    asyncio.run(main())
    threads.close(1)


def test_a_loop_that_is_gone_is_no_error() -> None:
    threads = RelayThreads()
    callback_queue = threads.queue("t", print, 1_000)

    async def make() -> EventStream:
        return EventStream(asyncio.get_running_loop())

    stream = asyncio.run(make())
    for _ in range(3):
        stream.put(ConnectionShutdown("t", None), callback_queue)
    assert not stream._events
    threads.close(1)
