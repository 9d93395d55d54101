"""EventRelay: takes the events of all tunnels to whoever asked for them.

Actors get them as messages, those that they asked for. Callbacks do not pass here: each tunnel has
a queue of its own to them (`callbacks`). It does not look into events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pykka import ActorDeadError, ActorRef

from .events import TunnelEvent
from .kernel import DispatchedActor


class Subscribe(NamedTuple):
    """Send events to `subscriber` from now on; it replaces an earlier one of the same actor.

    Attributes:
        subscriber: any pykka actor.
        tunnels: names of the tunnels to tell of; None for all.
        kinds: classes of the events to tell of, and their subclasses; None for all.
    """

    subscriber: ActorRef[Any]
    tunnels: frozenset[str] | None = None
    kinds: frozenset[type[TunnelEvent]] | None = None

    def wants(self, event: TunnelEvent) -> bool:
        """Return whether it asked for this one."""
        if self.tunnels is not None and event.tunnel not in self.tunnels:
            return False
        return self.kinds is None or isinstance(event, tuple(self.kinds))


class Unsubscribe(NamedTuple):
    """Stop that."""

    subscriber: ActorRef[Any]


class EventRelay(DispatchedActor):
    """Relays events.

    Args:
        observe: called with each event in the relay's turn; must not block or raise.
        subscriptions: those there are already, as after a restart.
    """

    def __init__(
        self, observe: Callable[[TunnelEvent], None], subscriptions: Iterable[Subscribe] = ()
    ) -> None:
        super().__init__()
        self._observe = observe
        self._subscriptions = {each.subscriber.actor_urn: each for each in subscriptions}

    def on_receive(self, message: Any) -> Any:
        """Relay an event, or change the subscribers."""
        if isinstance(message, TunnelEvent):
            self._relay(message)
        elif isinstance(message, Subscribe):
            self._subscriptions[message.subscriber.actor_urn] = message
        elif isinstance(message, Unsubscribe):
            self._subscriptions.pop(message.subscriber.actor_urn, None)
        else:
            return super().on_receive(message)
        return None

    def _relay(self, event: TunnelEvent) -> None:
        self._observe(event)
        for urn, subscription in list(self._subscriptions.items()):
            if not subscription.subscriber.is_alive():
                del self._subscriptions[urn]
            elif subscription.wants(event):
                try:
                    subscription.subscriber.tell(event)
                except ActorDeadError:
                    del self._subscriptions[urn]
