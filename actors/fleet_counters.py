"""Counters of many tunnels, and which of them is in which state since when.

Owns the sums that a scrape reads: the tunnels' own counters count into these, so that a scrape
costs the same for ten tunnels and for ten thousand, and a tunnel that is closed leaves its share
behind. The counters have one writer, as `Counters` says; states come from any thread, under a
lock. It knows no names of tunnels and no Prometheus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .counters import (
    CONNECT_SECONDS_BOUNDS,
    PING_SECONDS_BOUNDS,
    QUEUE_WAIT_SECONDS_BOUNDS,
    Counters,
    Histogram,
    ServiceCounters,
)
from .stats import TunnelState

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from .stats import TunnelStats

__all__ = ["FleetCounters"]


class FleetCounters(Counters):
    """What the tunnels of one mode on one dispatcher come to.

    Args:
        mode: source or destination.
        service_label: service id -> the name under which it is counted; few names in all.
        lock: held while a tunnel changes its state.
    """

    __slots__ = ("_label", "_lock", "_members", "mode")

    connect_seconds: Histogram
    ping_seconds: Histogram
    queue_wait: Histogram

    def __init__(
        self, mode: str, service_label: Callable[[str], str], lock: threading.Lock
    ) -> None:
        super().__init__()
        self.mode = mode
        self.connect_seconds = Histogram(CONNECT_SECONDS_BOUNDS)
        self.ping_seconds = Histogram(PING_SECONDS_BOUNDS)
        self.queue_wait = Histogram(QUEUE_WAIT_SECONDS_BOUNDS)
        self._label = service_label
        self._lock = lock
        # In the order in which they entered: the first of a state has been in it longest.
        self._members: dict[TunnelState, dict[TunnelStats, None]] = {s: {} for s in TunnelState}

    def service(self, service_id: str) -> ServiceCounters:
        """The counters of all services with the label of `service_id`."""
        return super().service(self._label(service_id))

    # -- states

    def join(self, stats: TunnelStats) -> None:
        """A tunnel is open. Its caller holds the lock."""
        self._members[stats.state][stats] = None

    def leave(self, stats: TunnelStats) -> None:
        """A tunnel is closed: of what is, not was, nothing remains. Its caller holds the lock."""
        for members in self._members.values():
            members.pop(stats, None)

    def move(self, stats: TunnelStats, before: TunnelState) -> None:
        """A tunnel was in the state `before` and is in another now."""
        with self._lock:
            if stats in self._members[before]:
                del self._members[before][stats]
                self._members[stats.state][stats] = None

    def states(self) -> dict[TunnelState, tuple[int, float]]:
        """By state that a tunnel is in: how many are, and the first one's `since`.

        Its caller holds the lock.
        """
        return {
            state: (len(members), next(iter(members)).since)
            for state, members in self._members.items()
            if members
        }
