"""The tunnels of a service while it runs: the book, and who relays for each.

Owns that the two agree: what is opened is relayed, what is closed, rotated or over disconnects its
clients, and what a forgotten tunnel did stays in the sums. All of it runs on the service's thread,
or on any while the service does not run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from tunnelfleet.proto import ConfigError, Mode

from .book import Origin, TunnelArchive, TunnelBook
from .events import ServiceEvent, ServiceEventKind
from .relay import RelayedTunnel
from .stats import StatsKeeper

if TYPE_CHECKING:
    from .tokens import TunnelTokens

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

    # life

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
            self.stats.retire(tunnel)
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
        """Open a tunnel (``TunnelService.open_tunnel``)."""
        tokens = self.book.open(
            name,
            services,
            bandwidth_bytes_per_second=bandwidth_bytes_per_second or self._bandwidth,
            closes_at=None if lifetime_seconds is None else time.time() + lifetime_seconds,
            origin=origin,
        )
        if self._loop is not None:
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
            self.stats.retire(tunnel)
        self._tell(ServiceEventKind.TUNNEL_CLOSED, name, detail)

    def close_unclaimed(self) -> None:
        """Close what a former start opened as its own and this one did not open."""
        for name in self.book.take_unclaimed():
            self.close(name, "the tunnel was closed", "no longer wanted at the start")

    def rotate(self, name: str, mode: Mode | None, services: Sequence[str] | None) -> TunnelTokens:
        """Issue new tokens and disconnect whose are void (``TunnelService.rotate``)."""
        is_other = services is not None and tuple(services) != self.book.issued.services(name)
        tokens = self.book.rotate(name, mode, services)
        tunnel = self.relayed.get(name)
        if tunnel is not None:
            for client in tunnel.clients(mode):
                client.wire.close("its access token was rotated")
            if is_other:
                for client in tunnel.clients(None):
                    client.wire.close("the tunnel has other services")
                tunnel.set_services(tokens.services)
        self._tell(ServiceEventKind.TOKEN_ROTATED, name, mode=mode)
        return tokens

    def running(self, name: str) -> RelayedTunnel:
        """Return who relays for a tunnel. Raises ConfigError if nobody does."""
        if name not in self.relayed:
            raise ConfigError(f"no tunnel is named {name!r}, or the service is not running")
        return self.relayed[name]

    # lifetimes

    def _watch_expiry(self) -> None:
        """Look again when the next lifetime ends; the clock may be set meanwhile."""
        self.pause()
        deadline = self.book.next_deadline()
        if deadline is not None and self._loop is not None:
            wait_seconds = min(max(deadline - time.time(), 0.0), EXPIRY_SECONDS)
            self._expiry = self._loop.call_later(wait_seconds, self._close_expired)

    def _close_expired(self) -> None:
        for name in self.book.take_expired(time.time()):
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
