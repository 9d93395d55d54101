"""The options of a tunnel client, and the configuration of its tunnel that follows.

Owns names and types, once for the builder and for the keyword call, what callbacks look like, and
the checks and defaults that are the client's own. It opens nothing.
"""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar

from pykka import ActorRef

from tunnelfleet.actors.addresses import Address, HttpProxy, parse_address
from tunnelfleet.actors.api import events
from tunnelfleet.actors.config import ANY_SERVICE, ApiService, Limits, TunnelConfig
from tunnelfleet.proto import ConfigError, Endpoint, Mode, ProtocolVersion, generate_client_token
from tunnelfleet.runtime.runtime import TunnelRuntime
from tunnelfleet.runtime.tls import make_ssl_context

from .sending import check_text

Services: TypeAlias = "Mapping[str, Address | ApiService | str]"


_Client = TypeVar("_Client")


class SecureTunnelOptions(TypedDict, Generic[_Client], total=False):
    """The options of a tunnel client beside its token, mode and endpoint.

    A callback gets the client as its first argument, a `SecureTunnel`.
    """

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
    pacing: bool
    runtime: TunnelRuntime
    events_to: ActorRef[Any]
    on_connection_success: Callable[[_Client, events.ConnectionSuccess], object]
    on_connection_failure: Callable[[_Client, events.ConnectionFailure], object]
    on_connection_shutdown: Callable[[_Client, events.ConnectionShutdown], object]
    on_send_message_complete: Callable[[_Client, events.SendMessageComplete], object]
    on_message_received: Callable[[_Client, events.MessageReceived], object]
    on_stream_started: Callable[[_Client, events.StreamStarted], object]
    on_stream_stopped: Callable[[_Client, events.StreamStopped], object]
    on_connection_started: Callable[[_Client, events.ConnectionStarted], object]
    on_connection_reset: Callable[[_Client, events.ConnectionReset], object]
    on_input_ended: Callable[[_Client, events.InputEnded], object]
    on_session_reset: Callable[[_Client, events.SessionReset], object]
    on_stopped: Callable[[_Client, events.Stopped], object]


CALLBACKS: Mapping[str, type[events.ApiEvent]] = {
    "on_connection_success": events.ConnectionSuccess,
    "on_connection_failure": events.ConnectionFailure,
    "on_connection_shutdown": events.ConnectionShutdown,
    "on_send_message_complete": events.SendMessageComplete,
    "on_message_received": events.MessageReceived,
    "on_stream_started": events.StreamStarted,
    "on_stream_stopped": events.StreamStopped,
    "on_connection_started": events.ConnectionStarted,
    "on_connection_reset": events.ConnectionReset,
    "on_input_ended": events.InputEnded,
    "on_session_reset": events.SessionReset,
    "on_stopped": events.Stopped,
}
"""The event that each callback gets."""


def callbacks_of(
    options: SecureTunnelOptions[Any],
) -> dict[type[events.ApiEvent], Callable[[Any, Any], object]]:
    """Return the callbacks among the options, by the event that each gets.

    Raises:
        ConfigError: one cannot be called.
    """
    given: Mapping[str, Any] = options
    found: dict[type[events.ApiEvent], Callable[[Any, Any], object]] = {}
    for name, kind in CALLBACKS.items():
        callback = given.get(name)
        if callback is not None and not callable(callback):
            raise ConfigError(f"{name} is not a function: it is called with (tunnel, event)")
        if callback is not None:
            found[kind] = callback
    return found


def make_config(
    access_token: str,
    mode: Mode | str,
    endpoint: Endpoint | str,
    options: SecureTunnelOptions[Any],
) -> TunnelConfig:
    """Return the configuration of a client's tunnel; see `SecureTunnel` for the arguments.

    Raises:
        ConfigError: an option cannot work.
    """
    unknown = set(options) - set(SecureTunnelOptions.__annotations__)
    if unknown:
        raise ConfigError(f"a SecureTunnel has no option {', '.join(sorted(unknown))}")
    check_text("access_token", access_token)
    try:
        mode = Mode(mode)
    except ValueError:
        raise ConfigError(f"bad mode {mode!r}: it is 'source' or 'destination'") from None
    if isinstance(endpoint, str):
        endpoint = Endpoint.parse(endpoint)
    try:
        version = ProtocolVersion(options.get("version", ProtocolVersion.V3))
    except ValueError:
        raise ConfigError("bad version: it is ProtocolVersion.V1, V2 or V3") from None
    proxy = options.get("http_proxy")
    return TunnelConfig(
        name=options.get("name") or f"{mode}-{uuid.uuid4().hex[:8]}",
        mode=mode,
        endpoint=endpoint,
        access_token=access_token,
        # It is kept as long as the client, as an access token accepts only one client token.
        client_token=options.get("client_token") or generate_client_token(),
        services=_targets(options.get("services", {})),
        version=version,
        bandwidth_bytes_per_second=options.get("bandwidth"),
        http_proxy=HttpProxy.parse(proxy) if isinstance(proxy, str) else proxy,
        ssl_context=_ssl_context(options),
        limits=options.get("limits") or Limits(),
        marks=options.get("marks", True),
        pacing=options.get("pacing", True),
    )


def _targets(services: Services) -> Mapping[str, Address | ApiService]:
    targets: dict[str, Address | ApiService] = {
        service_id: parse_address(target) if isinstance(target, str) else target
        for service_id, target in services.items()
    }
    targets.setdefault(ANY_SERVICE, ApiService())
    return targets


def _ssl_context(options: SecureTunnelOptions[Any]) -> ssl.SSLContext | None:
    root_ca, context = options.get("root_ca"), options.get("tls_context")
    if root_ca is None:
        return context
    if context is not None:
        raise ConfigError("root_ca and tls_context exclude each other: give one of them")
    return make_ssl_context(Path(root_ca))
