"""From a wanted tunnel back to the keys of its entry, for whoever keeps or changes one.

Owns the inverse of `read_tunnel`: an entry made here and read again is the same wish. It has the
tunnel's secrets.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tunnelfleet.runtime import Address, Backoff, HttpProxy, Limits, ProtocolVersion, UnixAddress

from .schema import DOOR

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel


def entry_of(tunnel: WantedTunnel) -> dict[str, Any]:
    """Return the keys of a `[[tunnel]]` that say the same; what is as by default is left out."""
    services = tunnel.services
    found: dict[str, Any] = {
        "name": tunnel.name,
        "mode": tunnel.mode.value,
        "endpoint": str(tunnel.endpoint),
        "access_token": tunnel.access_token,
        "client_token": tunnel.client_token,
        "services": None if services is None else {k: _target(v) for k, v in services.items()},
        "bind": tunnel.bind,
        "version": None if tunnel.version is ProtocolVersion.V3 else tunnel.version.name,
        "bandwidth": tunnel.bandwidth,
        "pacing": None if tunnel.pacing else False,
        "marks": None if tunnel.marks else False,
        "http_proxy": None if tunnel.http_proxy is None else _proxy(tunnel.http_proxy),
        "ca": tunnel.ca,
        "limits": _differing(tunnel.limits, Limits(), leave_out="backoff"),
        "restart": _differing(tunnel.limits.backoff, Backoff()),
        "labels": dict(tunnel.labels),
    }
    return {key: value for key, value in found.items() if value not in (None, {})}


def _target(address: Address | None) -> str:
    if address is None:
        return DOOR
    return f"unix:{address}" if isinstance(address, UnixAddress) else str(address)


def _proxy(proxy: HttpProxy) -> str:
    scheme, _, host = str(proxy).rpartition("://")
    user = f"{_quoted(proxy.username)}:{_quoted(proxy.password)}@" if proxy.username else ""
    return f"{scheme or 'http'}://{user}{host}"


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")


def _differing(values: Limits | Backoff, defaults: Limits | Backoff, leave_out: str = "") -> Any:
    return {
        each.name: getattr(values, each.name)
        for each in fields(defaults)
        if each.name != leave_out and getattr(values, each.name) != getattr(defaults, each.name)
    }
