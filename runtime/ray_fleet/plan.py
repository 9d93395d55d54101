"""What the groups of a fleet on Ray are to run: the files of whoever said `ray up`, as one text.

Owns the way from a configuration to that text and back, on another machine: files with tokens stay
where they are and travel as what is in them; certificates are read where the tunnel runs. It has
the secrets of the fleet, and shows none of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway.config import (
    Authorities,
    ClientTokens,
    ConfigProblems,
    FleetConfig,
    Problem,
    read_tunnel,
)
from tunnelfleet.runtime.gateway.config.entry import entry_of
from tunnelfleet.runtime.gateway.config.fleet import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Mapping


MAX_PLAN_BYTES = 64_000_000
"""The longest text; 20,000 tunnels with long tokens have half of it."""
FOR_LIFE = ("lease_seconds", "shards")
"""What all groups must agree about at all times: it changes with a new fleet only."""
FOR_A_START = ("connect_rate", "connect_concurrency", "metrics", "metrics_token", "metrics_open")
"""What a group takes over when it begins anew."""
_SETTINGS = (*FOR_LIFE, *FOR_A_START, "name", "drain_seconds")
_METRICS = "127.0.0.1:0"


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What is to run.

    Attributes:
        settings: of `[gateway]`, those that count here.
        tunnels: the entries, by name, with their tokens.
        places: where each entry stands, for people.
        secret: that client tokens are derived from.
        groups: how many there are.
        version: grows with each other plan.
    """

    settings: Mapping[str, Any] = field(repr=False)
    tunnels: Mapping[str, Mapping[str, Any]] = field(repr=False)
    places: Mapping[str, str] = field(repr=False)
    secret: bytes = field(repr=False)
    groups: int = 1
    version: int = 0

    @classmethod
    def of_config(cls, config: FleetConfig, secret: bytes, groups: int) -> FleetPlan:
        """Make it of what the files say."""
        given = {name: getattr(config.gateway, name) for name in _SETTINGS}
        given["metrics"] = config.gateway.metrics is not None
        return cls(
            given,
            {name: entry_of(each) for name, each in config.tunnels.items()},
            {name: each.place for name, each in config.tunnels.items()},
            secret,
            groups,
        )

    def to_bytes(self) -> bytes:
        """As it travels.

        Raises:
            ConfigError: it is too large.
        """
        found = {
            "settings": dict(self.settings),
            "tunnels": {name: dict(each) for name, each in self.tunnels.items()},
            "places": dict(self.places),
            "secret": self.secret.hex(),
            "groups": self.groups,
            "version": self.version,
        }
        content = json.dumps(found, separators=(",", ":")).encode()
        if len(content) > MAX_PLAN_BYTES:
            raise ConfigError(
                f"the fleet has {len(content)} bytes as text, and at most {MAX_PLAN_BYTES} are "
                "possible: make two fleets of it, each with a --namespace of its own"
            )
        return content

    @classmethod
    def of_bytes(cls, content: bytes) -> FleetPlan:
        """The same, as it has travelled."""
        found = json.loads(content)
        return cls(**{**found, "secret": bytes.fromhex(found["secret"])})

    @property
    def client_tokens(self) -> ClientTokens:
        """Derives client tokens."""
        return ClientTokens(self.secret)

    def to_config(self, group: str, host: str, authorities: Authorities) -> FleetConfig:
        """What one group runs; a tunnel that cannot run on this machine is a warning.

        Args:
            group: its name.
            host: this machine's address, for the metrics if others may read them.
            authorities: keeps TLS contexts over reloads.
        """
        settings, problems, tunnels = self.settings, list[Problem](), {}
        for name, entry in self.tunnels.items():
            try:
                tunnels[name] = read_tunnel(entry, authorities, place=self.places[name])
            except ConfigProblems as error:
                problems += error.problems
        is_open = settings["metrics_open"] or settings["metrics_token"]
        metrics = TcpAddress(host if is_open else "127.0.0.1", 0)
        given = {name: settings[name] for name in _SETTINGS}
        given |= {"name": group, "metrics": metrics if settings["metrics"] else None}
        return FleetConfig(
            GatewaySettings(admin="off", state_folder=Path(), **given),
            tunnels,
            warnings=tuple(problems),
        )


@dataclass(frozen=True, slots=True)
class PlanChange:
    """What another plan changes.

    Attributes:
        added: tunnels that are new.
        changed: whose entry has changed.
        removed: that are wanted no more.
        at_next_start: settings that a group takes over when it begins anew.
        groups: how many there were, and are.
        version: of the plan that counts now.
    """

    added: int
    changed: int
    removed: int
    at_next_start: tuple[str, ...]
    groups: tuple[int, int]
    version: int


def change_between(before: FleetPlan, after: FleetPlan) -> PlanChange:
    """Compare two plans.

    Raises:
        ConfigError: a fleet cannot become that while it runs.
    """
    differing = [name for name in _SETTINGS if before.settings[name] != after.settings[name]]
    for name in FOR_LIFE:
        if name in differing:
            raise ConfigError(
                f"{name} is {before.settings[name]} in the fleet that runs, and "
                f"{after.settings[name]} in the files: run tunnelfleet ray down first to change it"
            )
    if before.secret != after.secret:
        raise ConfigError(
            "the fleet that runs was begun with another secret: give client_token_secret_file of "
            "the first ray up, or run tunnelfleet ray down first"
        )
    old, new = before.tunnels, after.tunnels
    return PlanChange(
        added=len(set(new) - set(old)),
        changed=sum(old[name] != new[name] for name in set(old) & set(new)),
        removed=len(set(old) - set(new)),
        at_next_start=tuple(name for name in differing if name in FOR_A_START),
        groups=(before.groups, after.groups),
        version=before.version,
    )


def not_on_ray(config: FleetConfig) -> list[str]:
    """Return what the files ask for and a group on Ray does not do, as keys for people."""
    gateway = config.gateway
    found = []
    if gateway.door is not None:
        found.append("gateway.door")
    if gateway.workers > 1:
        found.append("gateway.workers")
    if config.notify:
        found.append("[[notify]]")
    if config.on_demand is not None:
        found.append("[on_demand]")
    return found
