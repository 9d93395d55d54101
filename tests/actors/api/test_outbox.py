"""The outbox: credit, one wake-up for a burst, an answer for everything."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fakes import FakeRef
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.api.messages import (
    ApiEvent,
    ConnectionShutdown,
    Outgoing,
    SendFuture,
    SendMessageComplete,
    SendQueueFull,
    Stopped,
    StreamStopped,
)
from tunnelfleet.actors.api.outbox import Outbox
from tunnelfleet.actors.callbacks import RelayThreads
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.tunnel.messages import ConnectionKey, OutboxFilled
from tunnelfleet.proto import MessageType, TunnelClosed

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = replace(Limits(), send_high_water_bytes=1_000, send_high_water_messages=4)
KEY = ConnectionKey("A", 1, 1, 1)
ALL = frozenset({ConnectionShutdown, SendMessageComplete, Stopped, StreamStopped})


class Setting:
    def __init__(self) -> None:
        self.threads = RelayThreads()
        self.events: list[ApiEvent] = []
        self.callback_queue = self.threads.queue("t", self.events.append, 10_000)
        self.port = Outbox("t", LIMITS, self.callback_queue)
        self.tunnel = FakeRef()

    def attach(self) -> None:
        self.port.attach(self.tunnel)  # type: ignore[arg-type]
        self.tunnel.told.clear()

    def future(self) -> SendFuture[Any]:
        return SendFuture(self.callback_queue)


@pytest.fixture
def setting() -> Iterator[Setting]:
    running = Setting()
    yield running
    running.threads.close(WAIT_SECONDS)


def outgoing(payload: bytes = b"x", waiter: Any = None) -> Outgoing:
    return Outgoing(MessageType.DATA, "A", 1, payload, waiter)


def test_a_burst_wakes_once(setting: Setting) -> None:
    setting.attach()
    entries = [outgoing() for _ in range(3)]
    for entry in entries:
        setting.port.submit([entry], 0)
    assert setting.tunnel.told == [OutboxFilled()]
    assert setting.port.take() == entries
    assert setting.port.take() == []
    setting.port.submit([outgoing()], 0)
    assert setting.tunnel.told == [OutboxFilled()] * 2


@pytest.mark.parametrize(
    ("sizes", "accepted"), [([1] * 9, 4), ([400, 400, 400], 2), ([5_000, 1], 1), ([900, 5_000], 1)]
)
def test_bytes_and_messages_are_limited(setting: Setting, sizes: list[int], accepted: int) -> None:
    setting.attach()
    with pytest.raises(SendQueueFull) as caught:
        setting.port.submit([outgoing(bytes(size)) for size in sizes], 0)
    assert caught.value.accepted == accepted
    assert len(setting.port.take()) == accepted


def test_what_is_done_makes_room_for_who_waits(setting: Setting) -> None:
    setting.attach()
    setting.port.submit([outgoing() for _ in range(4)], 0)
    done = threading.Event()

    def send() -> None:
        setting.port.submit([outgoing()], WAIT_SECONDS)
        done.set()

    thread = threading.Thread(target=send)
    thread.start()
    assert not done.wait(0.05)
    setting.port.complete(setting.port.take(), None)
    assert done.wait(WAIT_SECONDS)
    thread.join()
    assert setting.port.messages_in_flight == 1


def test_room_can_be_asked_for_without_waiting(setting: Setting) -> None:
    setting.attach()
    called: list[int] = []
    setting.port.when_room(lambda: called.append(1))
    assert called == [1]
    setting.port.submit([outgoing() for _ in range(4)], 0)
    setting.port.when_room(lambda: called.append(2))
    entries = setting.port.take()
    setting.port.complete(entries[:1], None)
    assert called == [1]
    setting.port.complete(entries[1:], None)
    assert called == [1, 2]


def test_the_end_answers_everybody_once(setting: Setting) -> None:
    port = setting.port
    port.wanted = ALL
    setting.attach()
    port.is_connected = True
    port.active_services.add("A")
    queued, waiting = setting.future(), setting.future()
    port.pending.queued(KEY, outgoing(waiter=queued))
    port._messages = 1
    port.submit([outgoing(waiter=waiting)], 0)
    assert port.finish(TunnelClosed("over"))
    assert not port.finish(TunnelClosed("again"))
    for future in (queued, waiting):
        assert isinstance(future.exception(WAIT_SECONDS), TunnelClosed)
    with pytest.raises(TunnelClosed, match="over"):
        port.submit([outgoing()], None)
    setting.threads.close(WAIT_SECONDS)
    names = [type(event).__name__ for event in setting.events]
    assert names == [
        "SendMessageComplete",
        "SendMessageComplete",
        "StreamStopped",
        "ConnectionShutdown",
        "Stopped",
    ]


def test_who_waits_for_room_hears_of_the_end(setting: Setting) -> None:
    setting.attach()
    setting.port.submit([outgoing() for _ in range(4)], 0)
    caught: list[BaseException] = []

    def send() -> None:
        try:
            setting.port.submit([outgoing()], None)
        except TunnelClosed as error:
            caught.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    setting.port.close(TunnelClosed("over"))
    thread.join(WAIT_SECONDS)
    assert len(caught) == 1


def test_a_new_tunnel_actor_answers_for_the_old(setting: Setting) -> None:
    setting.port.wanted = ALL
    setting.attach()
    lost = setting.future()
    setting.port.pending.queued(KEY, outgoing(waiter=lost))
    setting.port._messages = 1
    waiting = outgoing()
    setting.port.submit([waiting], 0)
    second = FakeRef()
    setting.port.attach(second)  # type: ignore[arg-type]
    assert isinstance(lost.exception(0), TunnelClosed)
    # What it has not taken yet is for the new one.
    assert second.told == [OutboxFilled()]
    assert setting.port.take() == [waiting]


def test_events_that_nobody_wants_are_not_made(setting: Setting) -> None:
    setting.port.emit(Stopped("t"))
    setting.port.wanted = ALL
    setting.port.emit(Stopped("t"))
    setting.threads.close(WAIT_SECONDS)
    assert setting.events == [Stopped("t")]
