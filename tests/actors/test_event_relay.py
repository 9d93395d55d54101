"""EventRelay: events go to the observer and to the actors that asked for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.actors.fakes import Recorder, settle
from tests.actors.kernel.helpers import HostActor, Log
from tunnelfleet.actors.event_relay import EventRelay, Subscribe, Unsubscribe
from tunnelfleet.actors.events import SessionWasReset, StreamOpened, TunnelEvent

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Dispatcher

FIRST = SessionWasReset("press-4")
SECOND = StreamOpened("press-5", "SSH", 1)


class Relay:
    """An EventRelay and what was observed."""

    def __init__(self, dispatcher: Dispatcher, *subscriptions: Subscribe) -> None:
        self.dispatcher = dispatcher
        self.observed: list[TunnelEvent] = []
        self.ref = EventRelay.start(self.observed.append, subscriptions, dispatcher=dispatcher)

    def tell(self, *messages: object) -> None:
        for message in messages:
            self.ref.tell(message)
        settle(self.dispatcher)


@pytest.fixture
def relay(dispatcher: Dispatcher) -> Relay:
    return Relay(dispatcher)


def subscriber(dispatcher: Dispatcher) -> tuple[ActorRef[Recorder], Log]:
    ref = Recorder.start(dispatcher=dispatcher)
    return ref, ref.ask(lambda actor: actor.log)


def test_the_observer_sees_every_event_in_order(relay: Relay) -> None:
    relay.tell(FIRST, SECOND, FIRST)
    assert relay.observed == [FIRST, SECOND, FIRST]


def test_who_asked_gets_events_until_it_asks_no_more(relay: Relay, dispatcher: Dispatcher) -> None:
    ref, log = subscriber(dispatcher)
    relay.tell(FIRST, Subscribe(ref), SECOND, FIRST, Unsubscribe(ref), SECOND)
    assert log.items == [SECOND, FIRST]


def test_who_asked_twice_gets_each_event_once(relay: Relay, dispatcher: Dispatcher) -> None:
    ref, log = subscriber(dispatcher)
    relay.tell(Subscribe(ref), Subscribe(ref), FIRST)
    assert log.items == [FIRST]


@pytest.mark.parametrize(
    ("tunnels", "kinds", "expected"),
    [
        (None, None, [FIRST, SECOND]),
        ({"press-4"}, None, [FIRST]),
        (None, {StreamOpened}, [SECOND]),
        (None, {TunnelEvent}, [FIRST, SECOND]),
        ({"press-4"}, {StreamOpened}, []),
        (set(), None, []),
    ],
)
def test_who_asked_for_some_gets_those(
    relay: Relay,
    dispatcher: Dispatcher,
    tunnels: set[str] | None,
    kinds: set[type[TunnelEvent]] | None,
    expected: list[TunnelEvent],
) -> None:
    ref, log = subscriber(dispatcher)
    wanted = (None if choice is None else frozenset(choice) for choice in (tunnels, kinds))
    relay.tell(Subscribe(ref, *wanted), FIRST, SECOND)  # type: ignore[arg-type]
    assert log.items == expected


def test_a_later_choice_replaces_the_earlier_one(relay: Relay, dispatcher: Dispatcher) -> None:
    ref, log = subscriber(dispatcher)
    relay.tell(Subscribe(ref, frozenset({"press-4"})), Subscribe(ref), SECOND)
    assert log.items == [SECOND]


def test_what_was_asked_before_a_restart_still_counts(dispatcher: Dispatcher) -> None:
    ref, log = subscriber(dispatcher)
    Relay(dispatcher, Subscribe(ref)).tell(FIRST)
    assert log.items == [FIRST]


def test_a_thread_of_the_host_gets_events_too(relay: Relay) -> None:
    log = Log()
    host = HostActor.start(log)
    try:
        relay.tell(Subscribe(host), FIRST)
        assert log.wait(1) == [FIRST]
    finally:
        host.stop()


@pytest.mark.parametrize("kind", [Recorder, HostActor])
def test_who_has_ended_is_forgotten_and_hurts_nobody(
    relay: Relay, dispatcher: Dispatcher, kind: type
) -> None:
    dead = kind.start(**({"dispatcher": dispatcher} if kind is Recorder else {}))
    alive, log = subscriber(dispatcher)
    relay.tell(Subscribe(dead), Subscribe(alive))
    dead.stop()
    relay.tell(FIRST, SECOND)
    assert log.items == [FIRST, SECOND]
    assert list(relay.ref.cell.actor._subscriptions) == [alive.actor_urn]


def test_what_is_no_event_is_not_relayed(relay: Relay, dispatcher: Dispatcher) -> None:
    ref, log = subscriber(dispatcher)
    relay.tell(Subscribe(ref), "gossip")
    assert (relay.observed, log.items) == ([], [])
