"""EventRelay: who gets which event."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.events import (
    EventRelay,
    SessionWasReset,
    StreamClosed,
    StreamOpened,
    Subscribe,
    TunnelEvent,
    Unsubscribe,
)
from tunnelfleet.actors.kernel import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTS = [StreamOpened("a", "SSH", 1), StreamClosed("a", "SSH", 1, "x"), SessionWasReset("b")]


class Inbox(pykka.ThreadingActor):
    def __init__(self) -> None:
        super().__init__()
        self.got: queue.Queue[Any] = queue.Queue()

    def on_receive(self, message: Any) -> Any:
        if message == "what":
            return list(self.got.queue)
        self.got.put(message)
        return None


@pytest.fixture
def inbox() -> Iterator[pykka.ActorRef[Inbox]]:
    ref = Inbox.start()
    yield ref
    ref.stop()


@pytest.fixture
def seen() -> list[TunnelEvent]:
    return []


@pytest.fixture
def relay(seen: list[TunnelEvent]) -> Iterator[pykka.ActorRef[EventRelay]]:
    with Dispatcher("relay").start() as dispatcher:
        yield EventRelay.start(seen.append, dispatcher=dispatcher)


def settle_relay(
    relay: pykka.ActorRef[EventRelay], inbox: pykka.ActorRef[Inbox]
) -> list[TunnelEvent]:
    relay.ask(Unsubscribe(relay), timeout=WAIT_SECONDS)
    got: list[TunnelEvent] = inbox.ask("what", block=True, timeout=WAIT_SECONDS)
    return got


@pytest.mark.parametrize(
    ("subscription", "expected"),
    [
        ({}, EVENTS),
        ({"tunnels": frozenset({"a"})}, EVENTS[:2]),
        ({"kinds": frozenset({StreamClosed})}, EVENTS[1:2]),
        ({"kinds": frozenset({TunnelEvent})}, EVENTS),
        ({"tunnels": frozenset({"b"}), "kinds": frozenset({StreamOpened})}, []),
    ],
)
def test_a_subscriber_gets_what_it_asked_for(
    relay: pykka.ActorRef[EventRelay],
    inbox: pykka.ActorRef[Inbox],
    seen: list[TunnelEvent],
    subscription: dict[str, Any],
    expected: list[TunnelEvent],
) -> None:
    relay.tell(Subscribe(inbox, **subscription))
    for event in EVENTS:
        relay.tell(event)
    assert settle_relay(relay, inbox) == expected
    assert seen == EVENTS


def test_the_last_subscription_of_an_actor_counts(
    relay: pykka.ActorRef[EventRelay], inbox: pykka.ActorRef[Inbox]
) -> None:
    relay.tell(Subscribe(inbox))
    relay.tell(Subscribe(inbox, tunnels=frozenset({"b"})))
    relay.tell(EVENTS[0])
    relay.tell(EVENTS[2])
    assert settle_relay(relay, inbox) == [EVENTS[2]]
    relay.tell(Unsubscribe(inbox))
    relay.tell(EVENTS[2])
    assert settle_relay(relay, inbox) == [EVENTS[2]]


def test_a_subscriber_that_has_ended_is_forgotten(
    relay: pykka.ActorRef[EventRelay], inbox: pykka.ActorRef[Inbox], seen: list[TunnelEvent]
) -> None:
    gone = Inbox.start()
    relay.tell(Subscribe(gone))
    relay.tell(Subscribe(inbox))
    gone.stop()
    relay.tell(EVENTS[0])
    assert settle_relay(relay, inbox) == [EVENTS[0]]
    assert relay.is_alive()


def test_subscriptions_outlive_a_restart(
    inbox: pykka.ActorRef[Inbox], seen: list[TunnelEvent]
) -> None:
    with Dispatcher("relay").start() as dispatcher:
        relay = EventRelay.start(seen.append, [Subscribe(inbox)], dispatcher=dispatcher)
        relay.tell(EVENTS[0])
        assert settle_relay(relay, inbox) == [EVENTS[0]]
