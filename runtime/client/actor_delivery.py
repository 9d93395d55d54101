"""Events of a tunnel to an actor of the host, with as many on their way as it keeps up with.

Owns the window: each event is asked, not told, so that an actor which is slow holds back its tunnel
and not memory. It knows no tunnel.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pykka import ActorRef, Future

    from tunnelfleet.actors.api_events import ApiEvent

__all__ = ["ActorDelivery"]

MAX_UNHANDLED = 64
"""Events that the actor may have in its inbox before the tunnel waits for it."""


class ActorDelivery:
    """Delivers to one actor; a callable for callback threads.

    Args:
        receiver: any pykka actor. What its handler returns is ignored, what it raises is counted
            and logged as an error of a callback.
    """

    def __init__(self, receiver: ActorRef[Any]) -> None:
        self._receiver = receiver
        self._unhandled: deque[Future[Any]] = deque()

    def __call__(self, event: ApiEvent) -> None:
        """Send one event, once the actor has handled those long before it."""
        if not self._receiver.is_alive():
            self._unhandled.clear()
            return
        self._unhandled.append(self._receiver.ask(event, block=False))
        if len(self._unhandled) > MAX_UNHANDLED:
            self._unhandled.popleft().get()
