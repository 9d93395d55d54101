"""What a runtime gives to all its tunnels: the present governor and relay, the SSLContext.

The refs change when the supervisor restarts those actors; whoever needs one looks here. Written by
the root supervisor alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

    from pykka import ActorRef

    from .events import TunnelEvent

__all__ = ["Services"]


class Services:
    """The present governor and event relay of a runtime.

    Args:
        ssl_context: for all tunnels that bring none.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self.ssl_context = ssl_context
        self.governor: ActorRef[Any] | None = None
        self.relay: ActorRef[Any] | None = None

    def publish(self, event: TunnelEvent) -> None:
        """Hand an event to the relay, if there is one."""
        if self.relay is not None and self.relay.is_alive():
            self.relay.tell(event)
