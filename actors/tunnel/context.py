"""What a tunnel's actors are given: what all tunnels share, its tokens, the makers of its parts.

Owns the references that every tunnel is given (governor, relay, TLS) and the pair of tokens with
which a tunnel connects, which can be replaced while it runs. No `repr` shows a token. The actors of
a tunnel start the parts below them (the WebSocket, listeners, streams, the client API) through
makers, and so know none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.proto import generate_client_token, validate_access_token, validate_client_token

if TYPE_CHECKING:
    import ssl

    from pykka import ActorRef

    from tunnelfleet.actors.addresses import Address
    from tunnelfleet.actors.callbacks import CallbackQueue
    from tunnelfleet.actors.config import Limits, TunnelConfig
    from tunnelfleet.actors.counters import TunnelStats
    from tunnelfleet.actors.events import TunnelEvent

    from .parts import ApiHandler, ApiShell


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


class Credentials:
    """An access token and the client token that belongs to it.

    Args:
        access_token: the client access token.
        client_token: its client token; one is generated when it is None.

    Raises:
        ConfigError: a token is malformed.
    """

    __slots__ = ("_access_token", "_client_token")

    def __init__(self, access_token: str, client_token: str | None = None) -> None:
        self.replace(access_token, client_token)

    def __repr__(self) -> str:
        return "Credentials(...)"

    def current(self) -> tuple[str, str]:
        """The access token and the client token to send."""
        return self._access_token, self._client_token

    def replace(self, access_token: str, client_token: str | None = None) -> None:
        """Use another access token from the next attempt on, as after `Credentials(...)`."""
        validate_access_token(access_token)
        if client_token is not None:
            validate_client_token(client_token)
        self._access_token = access_token
        self._client_token = client_token or generate_client_token()


class TunnelParts(NamedTuple):
    """The makers of the parts of a tunnel, which its actors call and do not know.

    Each maker of an actor starts it and returns its reference. A test gives others.

    Attributes:
        websocket: starts one attempt to connect and its link; called with what the tunnel shares,
            the TunnelActor, the supervisor and the number of the attempt.
        listener: starts to listen; called with the service id, the address, the TunnelActor, the
            limits and the ports that are kept.
        stream: starts the far end of a stream at local sockets; called with the TunnelActor, the
            address to connect to (None in source mode), the source address of that, and the limits.
        api: makes what serves the client API in the turns of a TunnelActor; None when the tunnel
            has no such client.
    """

    websocket: Callable[[TunnelContext, ActorRef[Any], ActorRef[Any], int], ActorRef[Any]]
    listener: Callable[[str, Address, ActorRef[Any], Limits, dict[str, Address]], ActorRef[Any]]
    stream: Callable[[ActorRef[Any], Address | None, str | None, Limits], ActorRef[Any]]
    api: Callable[[TunnelConfig, ApiShell], ApiHandler] | None = None


class TunnelContext(NamedTuple):
    """What the actors of a tunnel share, over their restarts.

    `parts` makes what the tunnel is put together of. `bound` keeps listeners' ports.
    `callback_queue` leads to the callback of the runtime, if it has one.
    """

    config: TunnelConfig
    credentials: Credentials
    stats: TunnelStats
    parts: TunnelParts
    services: Services
    bound: dict[str, Address]
    callback_queue: CallbackQueue | None = None

    def with_limits(self, limits: Limits) -> TunnelContext:
        """The same with other limits, for the actors that are started from now on."""
        return self._replace(config=replace(self.config, limits=limits))

    def publish(self, event: TunnelEvent) -> None:
        """Tell whoever wants to know what happens to the tunnel."""
        self.services.publish(event)
        if self.callback_queue is not None:
            self.callback_queue.put(event, may_drop=True)
