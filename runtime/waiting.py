"""Waiting for a tunnel to be in a state, and subscribing to what happens.

Owns the condition that `Tunnel.wait_for` and its like wait on, and the subscriptions of actors to
the events of a runtime. Must not know what the events mean.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pykka import ActorRef

from tunnelfleet.actors.event_relay import Subscribe, Unsubscribe
from tunnelfleet.actors.events import TunnelEvent

if TYPE_CHECKING:
    from tunnelfleet.actors.tunnel.context import Services

WAIT_SLICE_SECONDS = 0.5
WAIT_REST = 4
"""`wait_until` rests so many times as long as its condition took."""


class Changes:
    """What has happened so far, as a number. Any thread.

    Args:
        check: raises where nothing can happen any more.
    """

    def __init__(self, check: Callable[[], object] = lambda: None) -> None:
        self._check = check
        self._changed = threading.Condition()
        self._count = 0
        """Events so far; `_changed` guards it."""

    def note(self, _event: object = None) -> None:
        """Something has happened: let those who wait look again. Does not block."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        """Wait until `condition()` holds, looking at it whenever something has happened.

        Returns:
            Whether it held within the time; it is looked at once even if there is none.
        """
        self._check()
        looked = time.monotonic()
        deadline = looked + timeout_seconds
        seen = self._count
        while not condition():
            now = time.monotonic()
            if now >= deadline:
                return False
            # Over thousands of tunnels it takes a while, and each of them brings several events.
            time.sleep(min((now - looked) * WAIT_REST, deadline - now, WAIT_SLICE_SECONDS))
            slice_seconds = min(max(deadline - time.monotonic(), 0.0), WAIT_SLICE_SECONDS)
            with self._changed:
                if self._count == seen:
                    self._changed.wait(slice_seconds)
                seen = self._count
            looked = time.monotonic()
        return True


class Subscriptions:
    """The subscribers of a runtime. Any thread.

    Args:
        services: where the present relay is.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._by_urn: dict[str, Subscribe] = {}

    def present(self) -> list[Subscribe]:
        """Return all subscriptions, for a relay that starts."""
        return list(self._by_urn.values())

    def add(
        self,
        subscriber: ActorRef[Any],
        tunnels: Iterable[str] | None = None,
        kinds: Iterable[type[TunnelEvent]] | None = None,
    ) -> None:
        """Tell an actor of events; it replaces what the actor asked for before.

        Args:
            subscriber: any pykka actor.
            tunnels: the names of those to tell of; None for all, later ones too.
            kinds: the classes of events to tell of; None for all.
        """
        self._forget_the_dead()
        self._by_urn[subscriber.actor_urn] = subscription = Subscribe(
            subscriber,
            None if tunnels is None else frozenset(tunnels),
            None if kinds is None else frozenset(kinds),
        )
        self._tell_relay(subscription)

    def remove(self, subscriber: ActorRef[Any]) -> None:
        """Stop that; harmless for an actor that is none."""
        self._by_urn.pop(subscriber.actor_urn, None)
        self._tell_relay(Unsubscribe(subscriber))

    def _forget_the_dead(self) -> None:
        # The relay watches them; here nobody tells of their end.
        for urn, subscription in list(self._by_urn.items()):
            if not subscription.subscriber.is_alive():
                self._by_urn.pop(urn, None)

    def _tell_relay(self, message: Subscribe | Unsubscribe) -> None:
        relay = self._services.relay
        if relay is not None and relay.is_alive():
            relay.tell(message)
