"""What may be asked of the actors of a gateway, and what they answer.

Owns the messages by which files, the admin API, signals and other sources of wishes talk to
FleetActor. All of them can be asked (`fleet.ask(...)`) or told; an error comes back to who asks.
No message and no answer shows a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime import TunnelRuntime

if TYPE_CHECKING:
    from .config import FleetConfig, Problem
    from .reconcile import Difference
    from .snapshot import Entry, TunnelRow
    from .wanted import WantedTunnel


class UnknownTunnel(TunnelError):  # noqa: N818 - says what was found
    """The fleet has no tunnel of this name.

    Args:
        name: that was asked for.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"there is no tunnel {self.name!r} in this fleet"


# -- wishes

FILES = "files"
"""The source whose wishes are those of the files."""


class SetWanted(NamedTuple):
    """This is all that a source wants. Answers the `Difference` of what is wanted in all."""

    source: str
    tunnels: Mapping[str, WantedTunnel]


class SetWantedInShards(NamedTuple):
    """This is all that a source wants in some shards. Answers the `Difference`."""

    source: str
    shards: frozenset[int]
    tunnels: Mapping[str, WantedTunnel]


class PutWanted(NamedTuple):
    """A source wants this tunnel too, or wants it otherwise. Answers the `Difference`."""

    source: str
    tunnel: WantedTunnel


class RemoveWanted(NamedTuple):
    """A source does not want this tunnel any more. Answers the `Difference`.

    Raises `UnknownTunnel` at the asker if the source does not want it.
    """

    source: str
    name: str


class RuntimeStarted(NamedTuple):
    """The root to the store and others: the core runs, and its events can be asked for."""


class FilesTaken(NamedTuple):
    """FleetActor to sources of wishes: the files were read again, and are taken over."""


class Reload(NamedTuple):
    """Read the files again. Answers a `ReloadResult`; a mistake in them changes nothing."""


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What a reload found and did.

    Attributes:
        difference: of what is wanted in all; None if there are mistakes, and nothing has changed.
        problems: mistakes, or warnings.
        needs_restart: settings of `[gateway]` that have changed and are taken over at the next
            start only.
    """

    difference: Difference | None
    problems: tuple[Problem, ...] = ()
    needs_restart: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether the files were taken over."""
        return self.difference is not None


# -- commands of operators


class DrainTunnels(NamedTuple):
    """Let these tunnels (None: all) take no new connections and end with the last one.

    They stay down, over reloads, until `RetryTunnels`. Answers the names. Raises `UnknownTunnel`.
    """

    names: tuple[str, ...] | None


class RetryTunnels(NamedTuple):
    """Start or connect these tunnels (None: all) now, if they are down for whatever reason.

    What is connected or connects anyway is left alone. Answers the names of those that are tried.
    Raises `UnknownTunnel`.
    """

    names: tuple[str, ...] | None


class ReplaceTunnelToken(NamedTuple):
    """Give a tunnel another access token, after a rotation; it connects at once.

    The new one counts until the entry of the tunnel brings another than the one that is replaced.
    Raises `UnknownTunnel`, or `ConfigError` for a malformed token.
    """

    name: str
    access_token: str
    client_token: str | None = None

    def __repr__(self) -> str:
        return f"ReplaceTunnelToken({self.name!r}, ...)"


# -- looking at the fleet, and leaving it


class TakeSnapshot(NamedTuple):
    """Answers a `Snapshot` of these tunnels (None: all); unknown names are left out."""

    names: tuple[str, ...] | None = None


class CompareWanted(NamedTuple):
    """What would change if this were all that a source wants. Answers the `Difference`."""

    source: str
    tunnels: Mapping[str, WantedTunnel]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every tunnel of the fleet at one moment.

    Attributes:
        entries: what FleetActor knows, by name, sorted.
        config: of the gateway.
    """

    entries: tuple[Entry, ...]
    config: FleetConfig

    def rows(self, runtime: TunnelRuntime) -> list[TunnelRow]:
        """The tunnels with their states and counters, read on the caller's thread.

        Thousands of tunnels take a moment, which FleetActor's thread does not have.
        """
        return [entry.row(runtime) for entry in self.entries]


class Leave(NamedTuple):
    """End all tunnels: no new connections, and so many seconds for those that are open.

    Answers `Left` when all have ended, or the time is over. Nothing is started any more.
    """

    drain_seconds: float


class Left(NamedTuple):
    """The fleet is left. `cut` are the tunnels that still had connections when time was over."""

    cut: tuple[str, ...]
