"""The book of a service's tunnels: which are open, with what, until when.

Owns what is true of a tunnel whether or not anybody is connected: its tokens, bandwidth, the end of
its lifetime, and that all of it is written where it survives a restart. Must not know connections.
It is not safe for threads; the service calls it on its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from tunnelfleet.proto import ConfigError, Mode

from .tokens import IssuedTokens, KeptAccess, TunnelTokens, check_names


class Origin(StrEnum):
    """Who opened a tunnel, and so who ends it after a restart."""

    CALL = "call"
    """A call, of a program or of the management API: it stays until it is closed or over."""
    START = "start"
    """The start of the service named it: it goes when a later start does not."""


@dataclass(frozen=True, slots=True)
class KeptTunnel:
    """What is kept of a tunnel over a restart.

    Attributes:
        name: its name.
        services: its service ids.
        origin: who opened it.
        bandwidth_bytes_per_second: limit of each direction; None is no limit.
        closes_at: unix time at which its lifetime ends; None: never.
        accesses: its tokens, as digests.
    """

    name: str
    services: tuple[str, ...]
    origin: Origin = Origin.CALL
    bandwidth_bytes_per_second: float | None = None
    closes_at: float | None = None
    accesses: tuple[KeptAccess, ...] = ()


class TunnelArchive(Protocol):
    """Where tunnels are kept. No method of it blocks, but for ``flush``."""

    def load_tunnels(self) -> list[KeptTunnel]:
        """Return what is kept; called once, before anything is put."""

    def put_tunnel(self, name: str, tunnel: KeptTunnel | None) -> None:
        """Keep this soon in the place of what is kept of a tunnel; None forgets it."""

    def flush(self) -> None:
        """Return when everything that was put is kept."""


class _KeepsNothing:
    def load_tunnels(self) -> list[KeptTunnel]:
        return []

    def put_tunnel(self, name: str, tunnel: KeptTunnel | None) -> None:
        """Forget."""

    def flush(self) -> None:
        """Nothing is pending."""


@dataclass(slots=True)
class _Terms:
    origin: Origin
    bandwidth: float | None
    closes_at: float | None


STALE_DEADLINES: Final = 1_000
"""So many deadlines of tunnels that are closed wait at most, besides as many as there are open."""


class TunnelBook:
    """The tunnels of one service.

    Args:
        keeper: where they are kept; None keeps nothing.

    Attributes:
        issued: their tokens.

    Raises:
        ConfigError: what is kept cannot be read.
    """

    def __init__(self, keeper: TunnelArchive | None = None) -> None:
        self._keeper: TunnelArchive = keeper or _KeepsNothing()
        self._entries: dict[str, _Terms] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._unclaimed: set[str] = set()
        self.issued = IssuedTokens(self._keep)
        for kept in self._keeper.load_tunnels():
            self.issued.restore(kept.name, kept.services, kept.accesses)
            self._entries[kept.name] = _Terms(
                kept.origin, kept.bandwidth_bytes_per_second, kept.closes_at
            )
            self._note_deadline(kept.name)
            if kept.origin is Origin.START:
                self._unclaimed.add(kept.name)

    def flush(self) -> None:
        """Return when all that changed so far is kept."""
        self._keeper.flush()

    def open(
        self,
        name: str,
        services: Sequence[str],
        *,
        bandwidth_bytes_per_second: float | None,
        closes_at: float | None = None,
        origin: Origin = Origin.CALL,
    ) -> TunnelTokens:
        """Open a tunnel. One that a former start named, and this one does too, gets new tokens.

        Raises:
            ConfigError: a name or service id is not usable, or the name is taken.
        """
        check_names(name, services)
        is_known = origin is Origin.START and name in self._unclaimed
        if name not in self.issued or is_known:
            self._entries[name] = _Terms(origin, bandwidth_bytes_per_second, closes_at)
        self._unclaimed.discard(name)
        if is_known:
            return self.issued.reissue(name, services)
        tokens = self.issued.open(name, services)
        self._note_deadline(name)
        return tokens

    def take_unclaimed(self) -> set[str]:
        """Return the tunnels that a former start named and this one does not; once."""
        unclaimed, self._unclaimed = self._unclaimed, set()
        return unclaimed

    def close(self, name: str) -> None:
        """Close a tunnel and void its tokens. Raises ConfigError if unknown."""
        self.issued.close(name)
        del self._entries[name]
        self._unclaimed.discard(name)
        self._keeper.put_tunnel(name, None)

    def rotate(
        self, name: str, mode: Mode | None, services: Sequence[str] | None = None
    ) -> TunnelTokens:
        """Issue new tokens for a mode (None: both), and give it other services if there are some.

        Raises:
            ConfigError: the tunnel is unknown, or a service id is not usable.
        """
        if services is not None:
            self.issued.set_services(name, services)
        return self.issued.rotate(name, list(Mode) if mode is None else [mode])

    def bandwidth(self, name: str) -> float | None:
        """Return a tunnel's limit in bytes a second, each way; None is no limit."""
        return self._entries[name].bandwidth

    def set_bandwidth(self, name: str, bytes_per_second: float | None) -> None:
        """Remember a tunnel's limit."""
        self._entries[name].bandwidth = bytes_per_second
        self._keep(name)

    # lifetimes

    def next_deadline(self) -> float | None:
        """Return the unix time at which the next lifetime ends."""
        self._drop_stale()
        return self._deadlines[0][0] if self._deadlines else None

    def take_expired(self, now: float) -> list[str]:
        """Return the tunnels whose lifetime is over, each once; the caller closes them."""
        expired: list[str] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            expired.append(heapq.heappop(self._deadlines)[1])
        return expired

    def _note_deadline(self, name: str) -> None:
        closes_at = self._entries[name].closes_at
        if closes_at is None:
            return
        heapq.heappush(self._deadlines, (closes_at, name))
        if len(self._deadlines) > 2 * len(self._entries) + STALE_DEADLINES:
            self._deadlines = [each for each in self._deadlines if self._is_deadline(*each)]
            heapq.heapify(self._deadlines)

    def _drop_stale(self) -> None:
        while self._deadlines and not self._is_deadline(*self._deadlines[0]):
            heapq.heappop(self._deadlines)

    def _is_deadline(self, closes_at: float, name: str) -> bool:
        entry = self._entries.get(name)
        return entry is not None and entry.closes_at == closes_at

    # keeping

    def _keep(self, name: str) -> None:
        entry = self._entries[name]
        kept = KeptTunnel(
            name,
            self.issued.services(name),
            entry.origin,
            entry.bandwidth,
            entry.closes_at,
            self.issued.kept(name),
        )
        self._keeper.put_tunnel(name, kept)


MAX_LIFETIME_SECONDS: Final = 10 * 365 * 86_400.0
"""What is longer was not meant."""


def checked_lifetime(seconds: float | None) -> float | None:
    """Return a lifetime; raise ConfigError if it is none."""
    if seconds is not None and not 0 < seconds <= MAX_LIFETIME_SECONDS:
        raise ConfigError(
            f"a lifetime is above 0 and at most {MAX_LIFETIME_SECONDS:g} seconds, not {seconds:g}"
        )
    return seconds
