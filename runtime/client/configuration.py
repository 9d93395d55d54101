"""From the options of a tunnel client to the configuration of its tunnel.

Owns the checks and defaults that are the client's own; `TunnelConfig` has the rest. It opens
nothing.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunnelfleet.actors.config import (
    ANY_SERVICE,
    ApiService,
    HttpProxy,
    Limits,
    TunnelConfig,
    parse_address,
)
from tunnelfleet.proto import (
    ConfigError,
    Endpoint,
    Mode,
    ProtocolVersion,
    generate_client_token,
)
from tunnelfleet.runtime.tls import make_ssl_context

from .arguments import check_text
from .options import CALLBACKS, SecureTunnelOptions, Services

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from tunnelfleet.actors.api_events import ApiEvent
    from tunnelfleet.actors.config import Address

__all__ = ["callbacks_of", "make_config"]


def callbacks_of(
    options: SecureTunnelOptions,
) -> dict[type[ApiEvent], Callable[[Any, Any], object]]:
    """The callbacks among the options, by the event that each gets.

    Raises:
        ConfigError: one cannot be called.
    """
    given: Mapping[str, Any] = options
    found: dict[type[ApiEvent], Callable[[Any, Any], object]] = {}
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
    options: SecureTunnelOptions,
) -> TunnelConfig:
    """The configuration of a client's tunnel; see `SecureTunnel` for the arguments.

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
        # Kept for as long as the client is: an access token takes no second one.
        client_token=options.get("client_token") or generate_client_token(),
        services=_targets(options.get("services", {})),
        version=version,
        bandwidth_bytes_per_second=options.get("bandwidth"),
        http_proxy=HttpProxy.parse(proxy) if isinstance(proxy, str) else proxy,
        ssl_context=_ssl_context(options),
        limits=options.get("limits") or Limits(),
        marks=options.get("marks", True),
    )


def _targets(services: Services) -> Mapping[str, Address | ApiService]:
    targets: dict[str, Address | ApiService] = {
        service_id: parse_address(target) if isinstance(target, str) else target
        for service_id, target in services.items()
    }
    targets.setdefault(ANY_SERVICE, ApiService())
    return targets


def _ssl_context(options: SecureTunnelOptions) -> ssl.SSLContext | None:
    root_ca, context = options.get("root_ca"), options.get("tls_context")
    if root_ca is None:
        return context
    if context is not None:
        raise ConfigError("root_ca and tls_context exclude each other: give one of them")
    return make_ssl_context(Path(root_ca))
