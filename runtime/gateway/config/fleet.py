"""The configuration of a gateway as it runs: settings and wanted tunnels, read and checked.

Owns the data between the files and the actors, and which things may get a tunnel on demand. It
knows neither TOML nor actors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelfleet.runtime import TcpAddress

from .problems import WHOLE_FILE, Problem

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

    from .devices import NotifySection
    from .door_users import DoorUsers
    from .fleet_tls import FleetTls


MAX_THING_CHARACTERS = 128
_THING = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class CloudPlace:
    """Whose OpenTunnel it is: what a client of boto3 is made of.

    Attributes:
        region: of AWS; None with an `endpoint_url` that needs none.
        endpoint_url: of another management API than AWS's own.
        profile: whose credentials; None for what boto3 finds.
    """

    region: str | None
    endpoint_url: str | None = None
    profile: str | None = None

    def __str__(self) -> str:
        return self.endpoint_url or f"AWS in {self.region}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandLimits:
    """How long tunnels on demand live, and how many there may be; see `schema.OnDemandKeys`."""

    wait_seconds: float = 60.0
    idle_seconds: float = 900.0
    lifetime_minutes: int = 720
    max_open: int = 50
    max_opens_per_hour: int = 100
    opens_per_second: float = 1.0
    negative_seconds: float = 30.0

    @property
    def lifetime_seconds(self) -> float:
        """How long a tunnel may be open."""
        return self.lifetime_minutes * 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemandSettings:
    """The table, with its defaults in place; see `schema.OnDemandKeys`.

    `tunnel` is what all tunnels on demand have in common; its name and its tokens stand for theirs.
    """

    place: CloudPlace
    things: tuple[str, ...]
    services: tuple[str, ...]
    tunnel: WantedTunnel = field(repr=False)
    limits: DemandLimits = DemandLimits()
    keep_on_stop: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)

    def thing_of(self, text: str) -> str | None:
        """The thing that is meant by a name, if it may have a tunnel; None if not.

        `*` stands for no colon, so that `press-4:SSH` is not taken for a thing. Things that are
        listed without wildcards are found in whatever case: browsers write names in lower case.
        """
        if _THING.fullmatch(text) is None:
            return None
        colons = text.count(":")
        for pattern in self.things:
            if pattern.count(":") == colons and fnmatchcase(text, pattern):
                return text
        folded = text.casefold()
        found = {each for each in self.things if each.casefold() == folded}
        return found.pop() if len(found) == 1 and not _WILD.search(text) else None


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
TOKEN_FILES = {"admin_token": "admin_token_file", "metrics_token": "metrics_token_file"}
"""Tokens, and the keys of their files. A reload takes over another token, and none that is new or
gone: whether clients have to send one is up to the start."""


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
        differing = [
            each.name
            for each in fields(self)
            if each.name not in CHANGES_IN_PLACE
            and getattr(self, each.name) != getattr(newer, each.name)
        ]
        return [
            TOKEN_FILES.get(name, name)
            for name in differing
            if name not in TOKEN_FILES or None in (getattr(self, name), getattr(newer, name))
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
        empty: those of the files with nothing in them.
        files: that were read, tokens and certificates included, for whoever watches them.
        notify: the brokers that tell devices of their tunnels.
        on_demand: which tunnels are opened when somebody asks; None for none.
    """

    gateway: GatewaySettings
    tunnels: Mapping[str, WantedTunnel] = field(default_factory=dict)
    door_rules: tuple[DoorRule, ...] = ()
    warnings: tuple[Problem, ...] = ()
    files: frozenset[Path] = frozenset()
    empty: frozenset[Path] = frozenset()
    notify: tuple[NotifySection, ...] = ()
    on_demand: OnDemandSettings | None = None

    def emptied_since(self, before: FleetConfig) -> list[Problem]:
        """The files that had something in them and have nothing now, as problems.

        A full disk leaves such files, and programs that write a file in its place: it is no wish to
        end a fleet.
        """
        hint = "it is empty, and was not before; if there is to be nothing, write a comment into it"
        emptied = (self.empty & before.files) - before.empty
        return [Problem(str(path), 1, WHOLE_FILE, hint) for path in sorted(emptied)]

    @property
    def things(self) -> int:
        """How many things may be told of tunnels."""
        return sum(len(section.things) for section in self.notify)

    @property
    def demanded(self) -> Sequence[str]:
        """The names, perhaps with wildcards, of the things that get a tunnel on demand."""
        return () if self.on_demand is None else self.on_demand.things


def ordinal_in(name: str) -> int | None:
    """Return the number at the end of a gateway's name, which a StatefulSet counts from 0."""
    found = re.search(r"(?:^|[^0-9])([0-9]{1,4})$", name)
    return int(found.group(1)) if found else None
