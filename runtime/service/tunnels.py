"""The tunnels of a service: what is true of each, until when, and who relays for it.

`TunnelBook` has what is true of a tunnel without connections: its tokens, its bandwidth, the end of
its lifetime, and that all of it is kept over a restart. `ServiceTunnels` has those that relay, and
sees that the two agree. All of it runs on the service's thread, or on any while none runs.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from tunnelfleet.actors.kernel.moments import CLOCK, Clock
from tunnelfleet.proto import ConfigError, Mode

from .events import ServiceEvent, ServiceEventKind, StatsKeeper
from .relay import RelayedTunnel
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
        closes_at: unix time at which its lifetime ends, by the clock when it was kept; None: never.
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
    """As it is kept."""
    due: float | None = None
    """The same as a moment."""
    is_restored: bool = False
    """An earlier process has kept it: only what the clock said then is known of its end."""


STALE_DEADLINES: Final = 1_000
"""So many deadlines of tunnels that are closed wait at most, besides as many as there are open."""


class TunnelBook:
    """The tunnels of one service.

    Args:
        keeper: where they are kept; None keeps nothing.
        clock: what it says of the time, and when it is set.

    Attributes:
        issued: their tokens.

    Raises:
        ConfigError: what is kept cannot be read.
    """

    def __init__(self, keeper: TunnelArchive | None = None, clock: Clock = CLOCK) -> None:
        self._keeper: TunnelArchive = keeper or _KeepsNothing()
        self._clock = clock
        self._offset = clock.offset
        self._entries: dict[str, _Terms] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._unclaimed: set[str] = set()
        self.issued = IssuedTokens(self._keep)
        for kept in self._keeper.load_tunnels():
            self.issued.restore(kept.name, kept.services, kept.accesses)
            self._entries[kept.name] = _Terms(
                kept.origin,
                kept.bandwidth_bytes_per_second,
                kept.closes_at,
                is_restored=True,
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
        tokens = (self.issued.reissue if is_known else self.issued.open)(name, services)
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
        """Return the moment at which the next lifetime ends."""
        self._drop_stale()
        return self._deadlines[0][0] if self._deadlines else None

    def take_expired(self, now: float) -> list[str]:
        """Return the tunnels whose lifetime is over, each once; the caller closes them.

        Args:
            now: the moment.
        """
        expired: list[str] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            expired.append(heapq.heappop(self._deadlines)[1])
        return expired

    def look_at_clock(self) -> None:
        """See whether the clock was set: no lifetime of this process becomes another one by it.

        What is kept of them has to say the same to the next process, so it is kept anew. Those that
        an earlier process has kept end by the clock, as it goes now.
        """
        offset = self._clock.offset
        if offset == self._offset:
            return
        self._offset = offset
        for name, entry in self._entries.items():
            if entry.due is None:
                continue
            if entry.is_restored:
                self._note_deadline(name)
            else:
                entry.closes_at = self._clock.unix(entry.due)
                self._keep(name)

    def _note_deadline(self, name: str) -> None:
        entry = self._entries[name]
        if entry.closes_at is None:
            return
        entry.due = self._clock.moment(entry.closes_at)
        heapq.heappush(self._deadlines, (entry.due, name))
        if len(self._deadlines) > 2 * len(self._entries) + STALE_DEADLINES:
            self._deadlines = [each for each in self._deadlines if self._is_deadline(*each)]
            heapq.heapify(self._deadlines)

    def _drop_stale(self) -> None:
        while self._deadlines and not self._is_deadline(*self._deadlines[0]):
            heapq.heappop(self._deadlines)

    def _is_deadline(self, due: float, name: str) -> bool:
        entry = self._entries.get(name)
        return entry is not None and entry.due == due

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


EXPIRY_SECONDS: Final = 30.0
"""The clock is looked at so often at least, since somebody may set it."""


class ServiceTunnels:
    """The tunnels of one service.

    Args:
        archive: where they are kept; None keeps them in memory.
        bandwidth_bytes_per_second: limit of a tunnel that has none of its own.
        emit: takes events.

    Attributes:
        book: what is true of them without connections.
        relayed: who relays, by name; empty while the service does not run.
        stats: what they did.
    """

    def __init__(
        self,
        archive: TunnelArchive | None,
        bandwidth_bytes_per_second: float | None,
        emit: Callable[[ServiceEvent], None],
    ) -> None:
        self.book = TunnelBook(archive)
        self.relayed: dict[str, RelayedTunnel] = {}
        self.stats = StatsKeeper()
        self._bandwidth = bandwidth_bytes_per_second
        self._emit = emit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._expiry: asyncio.TimerHandle | None = None

    # start and end

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Relay for every open tunnel on this loop from now on."""
        self._loop = loop
        for name in self.book.issued:
            self._relay(name)
        self._close_expired()

    def pause(self) -> None:
        """Look at no clock any more; on the loop's thread, which ends."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def end(self) -> None:
        """Relay for nobody; the loop has ended."""
        self._loop = None
        for tunnel in self.relayed.values():
            self.stats.retire(tunnel.snapshot())
        self.relayed.clear()

    # what is done to them

    def open(
        self,
        name: str,
        services: Sequence[str],
        *,
        bandwidth_bytes_per_second: float | None,
        lifetime_seconds: float | None,
        origin: Origin,
    ) -> TunnelTokens:
        """Open a tunnel (``TunnelService.open_tunnel``).

        One that was kept is relayed for already, and clients may be back. They stay, unless they
        were told of other services.
        """
        running = self.relayed.get(name)
        former_bandwidth = None if running is None else self.book.bandwidth(name)
        tokens = self.book.open(
            name,
            services,
            bandwidth_bytes_per_second=bandwidth_bytes_per_second or self._bandwidth,
            closes_at=None if lifetime_seconds is None else time.time() + lifetime_seconds,
            origin=origin,
        )
        if running is not None:
            self._give_services(running, tokens.services)
            if (bandwidth := self.book.bandwidth(name)) != former_bandwidth:
                running.set_bandwidth(bandwidth)
        elif self._loop is not None:
            self._relay(name)
        self._watch_expiry()
        self._tell(ServiceEventKind.TUNNEL_OPENED, name, ", ".join(tokens.services))
        return tokens

    def close(self, name: str, reason: str, detail: str = "") -> None:
        """Close a tunnel and disconnect its clients. Raises ConfigError if unknown.

        Args:
            name: the tunnel.
            reason: why its clients are disconnected.
            detail: what its event says.
        """
        self.book.close(name)
        tunnel = self.relayed.pop(name, None)
        if tunnel is not None:
            for client in tunnel.clients(None):
                client.wire.close(reason)
            self.stats.retire(tunnel.snapshot())
        self._tell(ServiceEventKind.TUNNEL_CLOSED, name, detail)

    def close_unclaimed(self) -> None:
        """Close what a former start opened as its own and this one did not open."""
        for name in self.book.take_unclaimed():
            self.close(name, "the tunnel was closed", "no longer wanted at the start")

    def rotate(self, name: str, mode: Mode | None, services: Sequence[str] | None) -> TunnelTokens:
        """Issue new tokens and disconnect whose are void (``TunnelService.rotate``)."""
        tokens = self.book.rotate(name, mode, services)
        tunnel = self.relayed.get(name)
        if tunnel is not None:
            for client in tunnel.clients(mode):
                client.wire.close("its access token was rotated")
            self._give_services(tunnel, tokens.services)
        self._tell(ServiceEventKind.TOKEN_ROTATED, name, mode=mode)
        return tokens

    @staticmethod
    def _give_services(tunnel: RelayedTunnel, services: tuple[str, ...]) -> None:
        """Disconnect the clients of a tunnel if they were told of other services than these."""
        if services == tunnel.services:
            return
        for client in tunnel.clients(None):
            client.wire.close("the tunnel has other services")
        tunnel.set_services(services)

    def running(self, name: str) -> RelayedTunnel:
        """Return who relays for a tunnel. Raises ConfigError if nobody does."""
        if name not in self.relayed:
            raise ConfigError(f"no tunnel is named {name!r}, or the service is not running")
        return self.relayed[name]

    # lifetimes

    def _watch_expiry(self) -> None:
        """Look again when the next lifetime ends; the clock may be set, the machine may sleep."""
        self.pause()
        deadline = self.book.next_deadline()
        if deadline is not None and self._loop is not None:
            wait_seconds = min(max(deadline - CLOCK.now(), 0.0), EXPIRY_SECONDS)
            self._expiry = self._loop.call_later(wait_seconds, self._close_expired)

    def _close_expired(self) -> None:
        self.book.look_at_clock()
        for name in self.book.take_expired(CLOCK.now()):
            self.close(name, "the tunnel's lifetime ended", "its lifetime ended")
        self._watch_expiry()

    def _relay(self, name: str) -> None:
        assert self._loop is not None
        tunnel = RelayedTunnel(name, self.book.issued.services(name), self._loop, self._emit)
        if (bandwidth := self.book.bandwidth(name)) is not None:
            tunnel.set_bandwidth(bandwidth)
        self.relayed[name] = tunnel

    def _tell(
        self, kind: ServiceEventKind, name: str, detail: str = "", mode: Mode | None = None
    ) -> None:
        self._emit(ServiceEvent(kind, name, mode, detail))
