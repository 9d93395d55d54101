"""Subscriptions: kept for the next relay, told to the present one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tunnelfleet.actors.events import StreamOpened, Subscribe, TunnelEvent, Unsubscribe
from tunnelfleet.actors.tunnel.context import Services
from tunnelfleet.runtime.tunnel import Subscriptions


class Relay:
    """Stands for the relay's ref."""

    def __init__(self, *, alive: bool = True) -> None:
        self.alive = alive
        self.told: list[Any] = []

    def is_alive(self) -> bool:
        return self.alive

    def tell(self, message: Any) -> None:
        self.told.append(message)


def make(relay: Relay | None = None) -> Subscriptions:
    services = Services()
    services.relay = relay  # type: ignore[assignment]
    return Subscriptions(services)


def fake_ref(urn: str) -> Any:
    return SimpleNamespace(actor_urn=urn, is_alive=lambda: True)


A, B = fake_ref("a"), fake_ref("b")


@pytest.mark.parametrize(
    ("tunnels", "kinds", "expected"),
    [
        (None, None, Subscribe(A, None, None)),
        ([], None, Subscribe(A, frozenset(), None)),
        (["one", "two", "one"], None, Subscribe(A, frozenset({"one", "two"}), None)),
        (None, [StreamOpened], Subscribe(A, None, frozenset({StreamOpened}))),
        (iter(["one"]), iter([]), Subscribe(A, frozenset({"one"}), frozenset())),
    ],
)
def test_the_relay_is_told_what_the_next_one_begins_with(
    tunnels: Any, kinds: Any, expected: Subscribe
) -> None:
    relay = Relay()
    subscriptions = make(relay)
    subscriptions.add(A, tunnels, kinds)
    assert subscriptions.present() == [expected]
    assert relay.told == [expected]


def test_an_actor_is_on_the_list_once_with_what_it_asked_last() -> None:
    relay = Relay()
    subscriptions = make(relay)
    for subscriber, tunnels in ((A, ["one"]), (B, None), (A, ["two"])):
        subscriptions.add(subscriber, tunnels)
    latest = {each.subscriber.actor_urn: each.tunnels for each in subscriptions.present()}
    assert latest == {"a": frozenset({"two"}), "b": None}
    assert len(relay.told) == 3


def test_one_that_is_removed_is_gone_and_a_stranger_is_harmless() -> None:
    relay = Relay()
    subscriptions = make(relay)
    subscriptions.add(A)
    subscriptions.add(B, kinds=[TunnelEvent])
    subscriptions.remove(A)
    subscriptions.remove(fake_ref("stranger"))
    assert [each.subscriber for each in subscriptions.present()] == [B]
    assert [type(each) for each in relay.told] == [Subscribe, Subscribe, Unsubscribe, Unsubscribe]
    assert relay.told[2] == Unsubscribe(A)


@pytest.mark.parametrize("relay", [None, Relay(alive=False)], ids=["none", "ended"])
def test_without_a_relay_the_list_is_kept_for_the_next(relay: Relay | None) -> None:
    subscriptions = make(relay)
    subscriptions.add(A)
    subscriptions.add(B)
    subscriptions.remove(B)
    assert subscriptions.present() == [Subscribe(A)]
    assert relay is None or relay.told == []


def test_the_list_is_a_copy() -> None:
    subscriptions = make()
    subscriptions.add(A)
    subscriptions.present().clear()
    assert subscriptions.present() == [Subscribe(A)]


def test_actors_that_have_ended_are_not_kept() -> None:
    subscriptions = make()
    for number in range(100):
        ended = fake_ref(str(number))
        subscriptions.add(ended)
        ended.is_alive = lambda: False
    subscriptions.add(A)
    assert [each.subscriber for each in subscriptions.present()] == [A]
