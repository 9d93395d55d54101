"""Which actors of a host are told of a runtime's events.

Owns the list that outlives the event relay: one that is started again begins with it. It must not
know events, nor who starts the relay; who gets what is `tunnelfleet.actors.event_relay`.

No lock: each change is one step of a dict, and the relay is told of it afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunnelfleet.actors.event_relay import Subscribe, Unsubscribe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pykka import ActorRef

    from tunnelfleet.actors.events import TunnelEvent
    from tunnelfleet.actors.services import Services

__all__ = ["Subscriptions"]


class Subscriptions:
    """The subscribers of a runtime. Any thread.

    Args:
        services: where the present relay is.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._by_urn: dict[str, Subscribe] = {}

    def present(self) -> list[Subscribe]:
        """All of them, for a relay that starts."""
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
