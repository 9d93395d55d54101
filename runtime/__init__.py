"""What people hold: the runtime of tunnels, its configuration, its events, TLS."""

from tunnelfleet.actors.config import (
    ANY_SERVICE,
    Address,
    HttpProxy,
    Limits,
    TcpAddress,
    TunnelConfig,
    UnixAddress,
    parse_address,
)
from tunnelfleet.actors.events import (
    ConnectionClosed,
    ConnectionOpened,
    ListenerClosed,
    ListenerOpened,
    ServiceIdsReceived,
    SessionWasReset,
    StreamClosed,
    StreamOpened,
    TunnelEvent,
    TunnelStateChanged,
)
from tunnelfleet.actors.kernel import Backoff
from tunnelfleet.actors.stats import TunnelState
from tunnelfleet.proto import (
    ConfigError,
    Endpoint,
    HandshakeError,
    LocalProtocolError,
    Mode,
    ProtocolVersion,
    RemoteProtocolError,
    TunnelClosed,
    TunnelError,
)

from .runtime import RuntimeStats, Tunnel, TunnelRuntime, TunnelStatus
from .tls import make_ssl_context

__all__ = [
    "ANY_SERVICE",
    "Address",
    "Backoff",
    "ConfigError",
    "ConnectionClosed",
    "ConnectionOpened",
    "Endpoint",
    "HandshakeError",
    "HttpProxy",
    "Limits",
    "ListenerClosed",
    "ListenerOpened",
    "LocalProtocolError",
    "Mode",
    "ProtocolVersion",
    "RemoteProtocolError",
    "RuntimeStats",
    "ServiceIdsReceived",
    "SessionWasReset",
    "StreamClosed",
    "StreamOpened",
    "TcpAddress",
    "Tunnel",
    "TunnelClosed",
    "TunnelConfig",
    "TunnelError",
    "TunnelEvent",
    "TunnelRuntime",
    "TunnelState",
    "TunnelStateChanged",
    "TunnelStatus",
    "UnixAddress",
    "make_ssl_context",
    "parse_address",
]
