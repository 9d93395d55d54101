"""Who sends late, to the ids of an event, reaches the connection of then or none.

Callbacks, actors and `async for` alike take events when they please; by then another connection may
have the ids of the one that an event told of.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import pickle
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.client_bench import ClientBench, ClientPair
from tests.support.waiting import WAIT_SECONDS
from tests.support.witness import actor, crash_and_wait
from tunnelfleet.actors.api.messages import ConnectionId
from tunnelfleet.actors.tunnel.messages import ConnectionKey
from tunnelfleet.proto import ConnectionIdUnknown, Mode, NoActiveStream, ProtocolVersion
from tunnelfleet.runtime import (
    ConnectionStarted,
    ConnectionSuccess,
    Message,
    MessageReceived,
    SessionReset,
    StreamStarted,
    StreamStopped,
)

if TYPE_CHECKING:
    from tunnelfleet.runtime.client.options import EventStream


@pytest.fixture
def bench() -> Iterator[ClientBench]:
    with ClientBench() as bench:
        yield bench


def reset_session(bench: ClientBench, pair: ClientPair) -> None:
    bench.service.session_reset(pair.name)
    pair.at_source.wait(SessionReset)
    pair.at_destination.wait(SessionReset)


def crash_actor(bench: ClientBench, pair: ClientPair) -> None:
    """The next one begins to number its connections anew."""
    successes = len(pair.at_destination.of(ConnectionSuccess))
    crash_and_wait(actor(bench.runtime, "TunnelActor", pair.destination.name))
    pair.at_destination.wait(ConnectionSuccess, successes + 1)


def start_again(bench: ClientBench, pair: ClientPair) -> None:
    pair.destination.stop().result(WAIT_SECONDS)
    pair.destination.start().result(WAIT_SECONDS)


def start_stream_again(bench: ClientBench, pair: ClientPair) -> None:
    """The stream that `ask` starts takes the place of the one before."""


WAYS = (reset_session, crash_actor, start_again, start_stream_again)


def ask(pair: ClientPair, text: bytes, times: int) -> Message:
    """The source starts a stream and sends; return what the destination was told of it."""
    pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
    pair.source.send_message(Message(text, "SSH", 1)).result(WAIT_SECONDS)
    event = pair.at_destination.wait(MessageReceived, times)[-1]
    assert event.message == Message(text, "SSH", 1)
    return event.message


@pytest.mark.parametrize("end_it", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("version", list(ProtocolVersion), ids=lambda version: f"V{version:d}")
def test_a_late_answer_reaches_no_later_connection(
    bench: ClientBench,
    version: ProtocolVersion,
    end_it: Callable[[ClientBench, ClientPair], None],
) -> None:
    pair = bench.pair(source={"version": version})
    former = ask(pair, b"former", 1)
    end_it(bench, pair)
    present = ask(pair, b"present", 2)
    assert former.connection_id == present.connection_id == 1

    def answer(text: bytes, connection_id: int | None) -> BaseException | None:
        message = Message(text, "SSH", connection_id)
        return pair.destination.send_message(message).exception(WAIT_SECONDS)

    assert isinstance(answer(b"late", former.connection_id), ConnectionIdUnknown)
    reset = pair.destination.send_connection_reset("SSH", former.connection_id)
    assert isinstance(reset.exception(WAIT_SECONDS), ConnectionIdUnknown)
    assert answer(b"to the present one", present.connection_id) is None
    assert answer(b"to whichever has it", 1) is None
    assert answer(b"to the only one", None) is None
    came = [each.message.payload for each in pair.at_source.wait(MessageReceived, 3)]
    assert came == [b"to the present one", b"to whichever has it", b"to the only one"]


@pytest.mark.parametrize("end_it", WAYS, ids=lambda way: way.__name__)
def test_a_late_reset_of_a_stream_reaches_no_later_one(
    bench: ClientBench, end_it: Callable[[ClientBench, ClientPair], None]
) -> None:
    pair = bench.pair()
    former = ask(pair, b"former", 1)
    end_it(bench, pair)
    present = ask(pair, b"present", 2)
    reset = pair.destination.send_stream_reset
    for late in (
        reset("SSH", former.connection_id),
        reset(Message(b"", "SSH", former.connection_id)),
        reset("SSH", 2),
    ):
        assert isinstance(late.exception(WAIT_SECONDS), ConnectionIdUnknown)
    pair.destination.send_message(Message(b"it goes on", "SSH", 1)).result(WAIT_SECONDS)
    assert pair.at_source.wait(MessageReceived)[0].message.payload == b"it goes on"
    # Any connection of the stream stands for it, and all end.
    second = pair.source.send_connection_start("SSH").result(WAIT_SECONDS)
    pair.at_destination.wait(ConnectionStarted)
    before = len(pair.at_source.of(StreamStopped))
    reset("SSH", present.connection_id).result(WAIT_SECONDS)
    pair.at_source.wait(StreamStopped, before + 1)
    gone = pair.source.send_message(Message(b"late", "SSH", second)).exception(WAIT_SECONDS)
    assert isinstance(gone, NoActiveStream | ConnectionIdUnknown)


def test_a_source_knows_those_that_it_has_started(bench: ClientBench) -> None:
    pair = bench.pair()
    former = pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
    present = pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
    second = pair.source.send_connection_start("SSH", 2).result(WAIT_SECONDS)
    assert (former, present, second) == (1, 1, 2)
    late = pair.source.send_message(Message(b"late", "SSH", former))
    assert isinstance(late.exception(WAIT_SECONDS), ConnectionIdUnknown)
    sent = [Message(b"first", "SSH", present), Message(b"second", "SSH", second)]
    assert pair.source.send_messages(sent).result(WAIT_SECONDS) == 2
    events = pair.at_destination.wait(MessageReceived, 2)
    assert [each.message for each in events] == sent


def test_each_event_of_a_connection_tells_of_it(bench: ClientBench) -> None:
    """Those of starts, too: a server that speaks first sends to what it was told of."""
    pair = bench.pair()
    pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
    pair.source.send_connection_start("SSH").result(WAIT_SECONDS)
    (stream,) = pair.at_destination.wait(StreamStarted)
    (connection,) = pair.at_destination.wait(ConnectionStarted)
    assert (stream.connection_id, connection.connection_id) == (1, 2)
    reset_session(bench, pair)
    pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
    pair.source.send_connection_start("SSH").result(WAIT_SECONDS)
    pair.at_destination.wait(ConnectionStarted, 2)
    for event in (stream, connection):
        late = pair.destination.send_bytes(b"late", event.service_id, event.connection_id)
        assert isinstance(late.exception(WAIT_SECONDS), ConnectionIdUnknown)


def test_an_async_for_that_takes_its_events_late_reaches_no_later_connection(
    bench: ClientBench,
) -> None:
    async def next_message(events: EventStream) -> Message:
        async for event in events:
            if isinstance(event, MessageReceived):
                return event.message
        raise AssertionError

    async def main() -> None:
        pair = bench.pair(start=False)
        events = pair.destination.events()
        async with pair.destination, pair.source:
            await pair.destination.connected()
            await pair.source.connected()
            # All of it happens before the first event is taken.
            await asyncio.to_thread(ask, pair, b"former", 1)
            await asyncio.to_thread(reset_session, bench, pair)
            await asyncio.to_thread(ask, pair, b"present", 2)
            for _ in range(2):
                message = await next_message(events)
                answer = dataclasses.replace(message, payload=b"re: " + message.payload)
                if message.payload == b"former":
                    with pytest.raises(ConnectionIdUnknown):
                        await pair.destination.send(answer)
                else:
                    await pair.destination.send(answer)
            events.close()
            came = await asyncio.to_thread(pair.at_source.wait, MessageReceived)
            assert [each.message.payload for each in came] == [b"re: present"]

    asyncio.run(main())


def test_at_another_client_it_is_a_number(bench: ClientBench) -> None:
    """A test that has both ends in hand may tell one of them what the other one was told."""
    pair = bench.pair()
    started = pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
    pair.at_destination.wait(StreamStarted)
    pair.destination.send_message(Message(b"x", "SSH", started)).result(WAIT_SECONDS)
    (event,) = pair.at_source.wait(MessageReceived)
    assert event.message == Message(b"x", "SSH", 1)


def test_it_is_a_number_to_everybody_else() -> None:
    made = ConnectionId(ConnectionKey("SSH", 7, 3, 1), ("t", Mode.SOURCE))
    assert made == 3
    assert hash(made) == hash(3)
    assert {("SSH", 3): "found"}["SSH", made] == "found"
    assert [repr(made), str(made), f"{made:02d}", json.dumps([made])] == ["3", "3", "03", "[3]"]
    assert type(made + 0) is int


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda made: made], ids=["copy", "deepcopy", "itself"]
)
def test_a_copied_event_tells_of_the_same_connection(copied: Callable[[Any], Any]) -> None:
    made = ConnectionId(ConnectionKey("SSH", 7, 3, 1), ("t", Mode.SOURCE))
    event = copied(ConnectionStarted("t", "SSH", made))
    assert event.connection_id is made
    assert dataclasses.asdict(event)["connection_id"] is made


def test_a_pickled_event_has_the_number() -> None:
    made = ConnectionId(ConnectionKey("SSH", 7, 3, 1), ("t", Mode.SOURCE))
    event = pickle.loads(pickle.dumps(ConnectionStarted("t", "SSH", made)))
    assert event == ConnectionStarted("t", "SSH", 3)
    assert type(event.connection_id) is int
