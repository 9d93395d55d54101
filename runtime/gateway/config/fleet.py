"""The configuration of a gateway as it runs: settings and wanted tunnels, read and checked.

Owns the data between the files and the actors. It knows neither TOML nor actors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelfleet.runtime import TcpAddress

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

    from .devices import NotifySection
    from .door_users import DoorUsers
    from .fleet_tls import FleetTls
    from .on_demand import OnDemandSettings
    from .problems import Problem


STATIC = "static"
POSTGRES = "postgres"
RAY = "ray"
"""The engines of placement."""
CHANGES_IN_PLACE = frozenset(
    {
        "drain_seconds",
        "door_users_file",
        "door_users",
        "fleet_cert",
        "fleet_key",
        "fleet_ca",
        "fleet_tls",
    }
)
"""Settings of the gateway that a reload takes over; the others need a new start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """The table `[gateway]`, with its defaults in place; see `schema.GatewayKeys`."""

    name: str
    admin: str
    admin_mode: int = 0o600
    admin_group: str | None = None
    admin_token: str | None = field(default=None, repr=False)
    admin_hosts: tuple[str, ...] = ()
    metrics: TcpAddress | None = None
    metrics_token: str | None = field(default=None, repr=False)
    metrics_open: bool = False
    metrics_hosts: tuple[str, ...] = ()
    state: str = ""
    state_folder: Path = Path()
    audit_days: float = 90.0
    audit_rows: int = 200_000
    placement: str = STATIC
    placement_members: int = 1
    placement_ordinal: int = 0
    lease_seconds: float = 10.0
    shards: int = 256
    workers: int = 1
    client_token_secret_file: Path | None = None
    connect_rate: float = 10.0
    connect_concurrency: int = 8
    drain_seconds: float = 30.0
    door: str | None = None
    door_users_file: Path | None = None
    door_users: DoorUsers | None = field(default=None, repr=False)
    fleet_listen: TcpAddress | None = None
    fleet_address: str | None = None
    fleet_cert: Path | None = None
    fleet_key: Path | None = None
    fleet_ca: Path | None = None
    fleet_tls: FleetTls | None = field(default=None, repr=False)

    def needing_restart(self, newer: GatewaySettings) -> list[str]:
        """The settings that differ in `newer` and that a running gateway cannot take over."""
        return [
            each.name
            for each in fields(self)
            if each.name not in CHANGES_IN_PLACE
            and getattr(self, each.name) != getattr(newer, each.name)
        ]


@dataclass(frozen=True, slots=True)
class DoorRule:
    """Who may reach what through the front doors; an empty tuple stands for all."""

    users: tuple[str, ...]
    tunnels: tuple[str, ...]
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """All that the files of a gateway say.

    Attributes:
        gateway: the settings of the process.
        tunnels: what is wanted, by name.
        door_rules: who may reach what.
        warnings: what is worth a look and changes nothing.
        files: that were read, tokens and certificates included, for whoever watches them.
        notify: the brokers that tell devices of their tunnels.
        on_demand: which tunnels are opened when somebody asks; None for none.
    """

    gateway: GatewaySettings
    tunnels: Mapping[str, WantedTunnel] = field(default_factory=dict)
    door_rules: tuple[DoorRule, ...] = ()
    warnings: tuple[Problem, ...] = ()
    files: frozenset[Path] = frozenset()
    notify: tuple[NotifySection, ...] = ()
    on_demand: OnDemandSettings | None = None


def ordinal_in(name: str) -> int | None:
    """Return the number at the end of a gateway's name, which a StatefulSet counts from 0."""
    found = re.search(r"(?:^|[^0-9])([0-9]{1,4})$", name)
    return int(found.group(1)) if found else None
