"""WebSocketContext: what every connection of a tunnel has in common.

Owns nothing: it says whom a WebSocketActor tells, whose threads it connects on, and as whom. It
must not know any one connection, so that it outlives them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .connector import ConnectRequest

if TYPE_CHECKING:
    import ssl

    from pykka import ActorRef

    from .config import TunnelConfig
    from .connector import Connector
    from .credentials import Credentials
    from .stats import TunnelStats

__all__ = ["WebSocketContext"]


class WebSocketContext(NamedTuple):
    """Given to every WebSocketActor of a tunnel.

    Attributes:
        config: the tunnel; an SSLContext of its own goes before the shared one.
        credentials: its tokens; they may be replaced between two attempts.
        tunnel: the TunnelActor.
        governor: the ConnectGovernor, which grants the permit to connect.
        supervisor: learns that the connection stands.
        connector: on whose threads attempts run.
        ssl_context: the runtime's shared one, or None.
        stats: counts attempts, connects and pings.
    """

    config: TunnelConfig
    credentials: Credentials
    tunnel: ActorRef[Any]
    governor: ActorRef[Any]
    supervisor: ActorRef[Any]
    connector: Connector
    ssl_context: ssl.SSLContext | None
    stats: TunnelStats

    @property
    def permit_group(self) -> str:
        """Where the TCP connection goes, and on to: permits are shared fairly over these."""
        config = self.config
        if config.http_proxy is None:
            return str(config.endpoint)
        return f"{config.endpoint} by {config.http_proxy}"

    def connect_request(self) -> ConnectRequest:
        """What an attempt of this tunnel asks for, with the tokens of this moment.

        `local_bind` is not in it: as localproxy's `-b` it is for the application's side alone.
        """
        config = self.config
        access_token, client_token = self.credentials.current()
        return ConnectRequest(
            config.endpoint,
            config.mode,
            access_token,
            client_token,
            config.ssl_context or self.ssl_context,
            config.http_proxy,
            config.user_agent,
            config.limits.connect_timeout_seconds,
        )
