"""What the actors of a runtime share, and the tokens of a tunnel.

Owns the references that every tunnel is given (governor, relay, TLS) and the pair of tokens with
which a tunnel connects, which can be replaced while it runs. No `repr` shows a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunnelfleet.proto import generate_client_token, validate_access_token, validate_client_token

if TYPE_CHECKING:
    import ssl

    from pykka import ActorRef

    from tunnelfleet.actors.events import TunnelEvent

__all__ = [
    "Credentials",
    "Services",
]


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
