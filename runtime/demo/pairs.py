"""A demo tunnel: its source and its destination, and whether anything disturbed it lately.

Owns the judgement that tells a connection which chaos broke, and which may therefore end early,
from one that lost bytes for no reason. Must not know sockets, nor how the tunnels work.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from tunnelfleet.actors.stats import TunnelState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.runtime.runtime import TunnelStatus

SETTLE_SECONDS: Final = 1.0
"""For so long after a disturbance an early end is still its doing."""


class TunnelLike(Protocol):
    """What a pair needs of a tunnel of the runtime."""

    def status(self) -> TunnelStatus:
        """Look at it."""


class TunnelPair:
    """Both ends of one demo tunnel. May be used from several threads.

    Args:
        name: the demo tunnel's name.
        source: its source.
        destination: its destination.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        name: str,
        source: TunnelLike,
        destination: TunnelLike,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.source = source
        self.destination = destination
        self._clock = clock
        self._disturbed_at = float("-inf")
        self._counters: tuple[int, ...] | None = None

    def is_whole(self) -> bool:
        """Whether both ends are connected."""
        return all(end.status().state is TunnelState.CONNECTED for end in self._ends())

    def strike(self) -> None:
        """Note that the tunnel is about to be broken on purpose; call it before doing so."""
        self._disturbed_at = self._clock()

    def was_disturbed_since(self, moment: float) -> bool:
        """Whether anything happened to the tunnel's connections since `moment`, by its clock.

        A disturbance stays in force until both ends are connected, and `SETTLE_SECONDS` longer.
        """
        self._observe()
        return self._disturbed_at >= moment - SETTLE_SECONDS

    def now(self) -> float:
        """Return the time for `was_disturbed_since`, having looked at the tunnel."""
        self._observe()
        return self._clock()

    def _observe(self) -> None:
        statuses = [end.status() for end in self._ends()]
        whole = all(status.state is TunnelState.CONNECTED for status in statuses)
        counters = tuple(n for each in statuses for n in (each.reconnects, each.session_resets))
        if not whole or counters != (self._counters or counters):
            self._disturbed_at = self._clock()
        self._counters = counters

    def _ends(self) -> tuple[TunnelLike, TunnelLike]:
        return self.source, self.destination
