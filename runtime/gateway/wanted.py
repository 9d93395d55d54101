"""A tunnel that somebody wants to run, wherever the wish comes from: a file, the API, a message.

Owns the wish as data, which parts of it can change while the tunnel runs, the way from it to the
core's `TunnelConfig`, and which of two wishes listen at one address. It starts and opens nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

from tunnelfleet import runtime
from tunnelfleet.actors.config import NoListener
from tunnelfleet.proto import Mode


class Change(Enum):
    """What it takes to make a running tunnel what is wanted now."""

    NONE = "none"
    IN_PLACE = "in place"
    """Labels and certain limits: no connection notices."""
    NEW_TOKEN = "new token"  # noqa: S105 - a kind of change
    """The link is made again with another token; listeners stay."""
    RESTART = "restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedTunnel:
    """A tunnel that is wanted. Two of them are equal if nothing has to be done to get the other.

    Attributes:
        name: unique in the fleet.
        mode: source or destination.
        endpoint: the tunneling service.
        access_token: of this side.
        client_token: None to have it derived from the deployment's secret.
        services: as `TunnelConfig.services`; None as an address stands for the front door alone.
        bind: source: where it listens on free ports. Destination: where local connections come
            from. None as the core does without.
        version: what a source speaks.
        bandwidth: bytes a second to pace to, or None.
        pacing: whether to find out by pings how fast to send, where `bandwidth` is None.
        marks: whether ends tell each other how a connection ended.
        http_proxy: proxy to the service.
        ca: file or folder of the authorities to trust; None for the system's.
        ca_fingerprint: of what was in it, so that a new content is a change.
        limits: the bounds, with the delays of restarts.
        labels: what people and metrics tell tunnels apart by.
        ssl_context: made of `ca`.
        place: where the wish stands, for people, as in `fleet.toml:12`.
    """

    name: str
    mode: Mode
    endpoint: runtime.Endpoint
    access_token: str = field(repr=False)
    client_token: str | None = field(default=None, repr=False)
    services: Mapping[str, runtime.Address | None] | None = None
    bind: str | None = None
    version: runtime.ProtocolVersion = runtime.ProtocolVersion.V3
    bandwidth: float | None = None
    pacing: bool = True
    marks: bool = True
    http_proxy: runtime.HttpProxy | None = None
    ca: str | None = None
    ca_fingerprint: str = ""
    limits: runtime.Limits = field(default_factory=runtime.Limits)
    labels: Mapping[str, str] = field(default_factory=dict)
    ssl_context: ssl.SSLContext | None = field(default=None, compare=False, repr=False)
    place: str = field(default="", compare=False)

    def with_token(self, access_token: str, client_token: str | None) -> WantedTunnel:
        """Return the same with other tokens."""
        return replace(self, access_token=access_token, client_token=client_token)

    def to_config(self, client_token: str) -> runtime.TunnelConfig:
        """Return what the core runs.

        Args:
            client_token: to be used if the wish has none.

        Raises:
            ConfigError: it cannot be run.
        """
        services: Mapping[str, runtime.Address | NoListener] | None = None
        if self.services is not None:
            services = {
                name: NoListener() if address is None else address
                for name, address in self.services.items()
            }
        given: dict[str, Any] = {
            "name": self.name,
            "mode": self.mode,
            "endpoint": self.endpoint,
            "access_token": self.access_token,
            "client_token": self.client_token or client_token,
            "services": services,
            "version": self.version,
            "bandwidth_bytes_per_second": self.bandwidth,
            "pacing": self.pacing,
            "http_proxy": self.http_proxy,
            "ssl_context": self.ssl_context,
            "limits": self.limits,
        }
        if self.bind is not None:
            given["bind_host" if self.mode is Mode.SOURCE else "local_bind"] = self.bind
        if _HAS_MARKS:
            given["marks"] = self.marks
        return runtime.TunnelConfig(**given)


_HAS_MARKS = any(each.name == "marks" for each in fields(runtime.TunnelConfig))
"""Whether the core can be told to leave the marks out."""
_IN_PLACE = frozenset({"labels"})
_TOKENS = frozenset({"access_token", "client_token"})


def change_between(running: WantedTunnel, wanted: WantedTunnel) -> Change:
    """Return what it takes to get from one to the other; both have one name."""
    differing = _differing(running, wanted)
    if not differing:
        return Change.NONE
    if "limits" in differing and _can_take_over(running.limits, wanted.limits):
        differing.remove("limits")
    differing -= _IN_PLACE
    if not differing:
        return Change.IN_PLACE
    return Change.NEW_TOKEN if differing <= _TOKENS else Change.RESTART


def changed_keys(before: WantedTunnel, after: WantedTunnel) -> list[str]:
    """Return the keys of the entry in which two wishes differ, sorted; `ca` for its content too."""
    return sorted({_KEYS.get(name, name) for name in _differing(before, after)})


_KEYS = {"ca_fingerprint": "ca"}


def _differing(before: WantedTunnel, after: WantedTunnel) -> set[str]:
    return {
        each.name
        for each in fields(WantedTunnel)
        if each.compare and getattr(before, each.name) != getattr(after, each.name)
    }


IN_PLACE_LIMITS = frozenset(
    {
        "announce_timeout_seconds",
        "linger_seconds",
        "local_connect_timeout_seconds",
        "max_connections",
    }
)
"""Limits that a running tunnel takes over: they hold for the connections that come afterwards."""


def _can_take_over(running: runtime.Limits, wanted: runtime.Limits) -> bool:
    differing = {
        each.name
        for each in fields(runtime.Limits)
        if getattr(running, each.name) != getattr(wanted, each.name)
    }
    return differing <= IN_PLACE_LIMITS


_IPV4_ANY = "0.0.0.0"  # noqa: S104  # nosec B104
EVERY_HOST = frozenset({_IPV4_ANY, "::"})
"""What people write for all addresses."""
SAME_HOST = {"localhost": "127.0.0.1"}

Owner = tuple[str, str]
"""A tunnel, and where its entry stands."""


class ListeningPlaces:
    """The addresses that are listened on, and by whom."""

    def __init__(self) -> None:
        self._ports: dict[int, dict[str, Owner]] = {}
        self._paths: dict[str, Owner] = {}

    def claim(self, address: runtime.Address, owner: Owner) -> Owner | None:
        """Note that somebody listens there.

        Returns:
            Who listens there already, or on all addresses of that port; None if nobody does.
        """
        if not isinstance(address, runtime.TcpAddress):
            found = self._paths.setdefault(address.path, owner)
            return None if found is owner else found
        hosts = self._ports.setdefault(address.port, {})
        host = SAME_HOST.get(address.host, address.host)
        for other, found in hosts.items():
            if other == host or other in EVERY_HOST or host in EVERY_HOST:
                return found
        hosts[host] = owner
        return None
