"""StoreActor: the store among the actors of a gateway.

Owns the way of the tunnels' events into the audit, and that stored tunnels reach the fleet when the
state could not be reached at the start. It waits for no database: the store has a thread for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tunnelfleet.actors.kernel import DispatchedActor
from tunnelfleet.proto import TunnelClosed
from tunnelfleet.runtime.gateway.messages import RuntimeStarted

from .audit import AUDITED_EVENTS

if TYPE_CHECKING:
    from tunnelfleet.runtime import TunnelRuntime

__all__ = ["StoreActor"]


class TakesEvents(Protocol):
    """What this actor asks of a store."""

    def note(self, event: Any) -> None:
        """Take an event down. Never waits."""


class StoreActor(DispatchedActor):
    """Takes down what happens to connections.

    Args:
        store: outlives it.
        runtime: whose events, or did before another took its place.
    """

    def __init__(self, store: TakesEvents, runtime: TunnelRuntime) -> None:
        super().__init__()
        self._store = store
        self._runtime = runtime

    def on_start(self) -> None:
        """Ask for the events, if the core runs already."""
        self._subscribe()

    def on_receive(self, message: Any) -> Any:
        """Take an event down, or ask for them."""
        if isinstance(message, AUDITED_EVENTS):
            self._store.note(message)
        elif isinstance(message, RuntimeStarted):
            self._subscribe()
        else:
            return super().on_receive(message)
        return None

    def _subscribe(self) -> None:
        try:
            self._runtime.present.subscribe(self.actor_ref, kinds=AUDITED_EVENTS)
        except TunnelClosed:
            # It is started after this actor, so that the last ends are heard: then comes a message.
            return
