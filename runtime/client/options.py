"""The options of a tunnel client, and what its callbacks look like.

Owns names and types, once for the builder and for the keyword call. No behaviour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from tunnelfleet.actors.api_events import (
    ApiEvent,
    ConnectionFailure,
    ConnectionReset,
    ConnectionShutdown,
    ConnectionStarted,
    ConnectionSuccess,
    InputEnded,
    MessageReceived,
    SendMessageComplete,
    SessionReset,
    Stopped,
    StreamStarted,
    StreamStopped,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pykka import ActorRef

    from tunnelfleet.actors.config import Address, ApiService, HttpProxy, Limits
    from tunnelfleet.proto import ProtocolVersion
    from tunnelfleet.runtime.runtime import TunnelRuntime

    from .secure_tunnel import SecureTunnel

__all__ = ["CALLBACKS", "SecureTunnelOptions", "Services"]

Services: TypeAlias = "Mapping[str, Address | ApiService | str]"

CALLBACKS: Mapping[str, type[ApiEvent]] = {
    "on_connection_success": ConnectionSuccess,
    "on_connection_failure": ConnectionFailure,
    "on_connection_shutdown": ConnectionShutdown,
    "on_send_message_complete": SendMessageComplete,
    "on_message_received": MessageReceived,
    "on_stream_started": StreamStarted,
    "on_stream_stopped": StreamStopped,
    "on_connection_started": ConnectionStarted,
    "on_connection_reset": ConnectionReset,
    "on_input_ended": InputEnded,
    "on_session_reset": SessionReset,
    "on_stopped": Stopped,
}
"""The event that each callback gets."""


class SecureTunnelOptions(TypedDict, total=False):
    """What may be said of a tunnel client beside its token, mode and endpoint."""

    name: str
    client_token: str
    root_ca: str | Path
    tls_context: ssl.SSLContext
    http_proxy: HttpProxy | str
    bandwidth: float
    version: ProtocolVersion
    services: Services
    limits: Limits
    half_close: bool
    marks: bool
    runtime: TunnelRuntime
    events_to: ActorRef[Any]
    on_connection_success: Callable[[SecureTunnel, ConnectionSuccess], object]
    on_connection_failure: Callable[[SecureTunnel, ConnectionFailure], object]
    on_connection_shutdown: Callable[[SecureTunnel, ConnectionShutdown], object]
    on_send_message_complete: Callable[[SecureTunnel, SendMessageComplete], object]
    on_message_received: Callable[[SecureTunnel, MessageReceived], object]
    on_stream_started: Callable[[SecureTunnel, StreamStarted], object]
    on_stream_stopped: Callable[[SecureTunnel, StreamStopped], object]
    on_connection_started: Callable[[SecureTunnel, ConnectionStarted], object]
    on_connection_reset: Callable[[SecureTunnel, ConnectionReset], object]
    on_input_ended: Callable[[SecureTunnel, InputEnded], object]
    on_session_reset: Callable[[SecureTunnel, SessionReset], object]
    on_stopped: Callable[[SecureTunnel, Stopped], object]
