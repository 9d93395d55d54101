"""How fast the demo sends, and what went through.

Owns the plan of the traffic, the pace of each conversation and the meters of bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(slots=True)
class Meter:
    """The counters of all clients and servers of a demo.

    Attributes:
        sent_bytes: written by clients into the tunnels.
        received_bytes: read by clients from the tunnels.
        verified_bytes: compared with what they must be and found right, at either end.
        mismatched_bytes: wrong ones, and missing ones of connections that nothing had disturbed.
        exchanges_completed: requests, transfers and conversations that ran to their end.
        exchanges_broken: those that ended early because a tunnel was disturbed.
        exchanges_cut: those that were under way when the traffic was stopped at once.
        first_fault: which bytes were wrong first, for people; empty when none were.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    verified_bytes: int = 0
    mismatched_bytes: int = 0
    exchanges_completed: int = 0
    exchanges_broken: int = 0
    exchanges_cut: int = 0
    first_fault: str = ""

    def compared(self, total_bytes: int, wrong_bytes: int, where: str) -> None:
        """Count `total_bytes` that were compared, of which `wrong_bytes` were wrong."""
        self.verified_bytes += total_bytes - wrong_bytes
        if wrong_bytes:
            self.fault(wrong_bytes, f"{where}: {wrong_bytes} of {total_bytes} bytes were wrong")

    def fault(self, wrong_bytes: int, text: str) -> None:
        """Count wrong or missing bytes; the first `text` is kept."""
        self.mismatched_bytes += wrong_bytes
        self.first_fault = self.first_fault or text


FLEET_BYTES_PER_SECOND: Final = 4_000_000.0
"""The rate of all clients together, both directions added."""
MAX_TUNNEL_BYTES_PER_SECOND: Final = 500_000.0
MIN_TUNNEL_BYTES_PER_SECOND: Final = 4_000.0
FLEET_ECHOES_PER_SECOND: Final = 150.0
MAX_TUNNEL_ECHOES_PER_SECOND: Final = 10.0


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """What the clients of one tunnel do.

    Attributes:
        bytes_per_second: of all its clients, both directions added.
        echo_pause_seconds: between two rounds of its echo client.
    """

    bytes_per_second: float
    echo_pause_seconds: float

    @classmethod
    def for_fleet(cls, tunnels: int) -> TrafficPlan:
        """Return the plan that is each tunnel's share of the fleet's traffic."""
        share = FLEET_BYTES_PER_SECOND / tunnels
        rate = max(MIN_TUNNEL_BYTES_PER_SECOND, min(MAX_TUNNEL_BYTES_PER_SECOND, share))
        echoes = min(MAX_TUNNEL_ECHOES_PER_SECOND, FLEET_ECHOES_PER_SECOND / tunnels)
        return cls(rate, 1.0 / echoes)

    @property
    def page_bytes(self) -> int:
        """Size of a usual HTTP response."""
        return max(512, int(self.bytes_per_second / 12))

    @property
    def bulk_bytes(self) -> int:
        """Size of a usual bulk transfer: about a second's worth."""
        return max(2_048, int(self.bytes_per_second * 0.7))


class Pacer:
    """Lets bytes pass at a rate, for any number of tasks of one event loop.

    Args:
        bytes_per_second: the rate.
        clock: seconds that only grow; the running loop's by default.
    """

    def __init__(self, bytes_per_second: float, clock: Callable[[], float] | None = None) -> None:
        self._rate = bytes_per_second
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._free_at = 0.0

    def reserve(self, count_bytes: int) -> float:
        """Count bytes that are sent, and return how many seconds to wait afterwards."""
        now = self._clock()
        self._free_at = max(now, self._free_at) + count_bytes / self._rate
        return self._free_at - now

    async def spend(self, count_bytes: int) -> None:
        """Count bytes that are sent, and wait as long as they take at the rate."""
        await asyncio.sleep(self.reserve(count_bytes))
