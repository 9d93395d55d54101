"""The metrics of a shared fleet: how old the lease is, what is owned here, and what by nobody.

Owns what the thread of the lease counts. Names and meanings are in the catalogue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnelfleet.runtime.metrics.families import numbers, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric


class PlacementCounters:
    """What the thread of the lease has counted; only it writes this."""

    def __init__(self) -> None:
        self.requests = 0
        self.failures = 0
        self.seconds = 0.0
        self.takeovers = 0

    def asked(self, seconds: float, *, failed: bool) -> None:
        """The store was asked, and has answered after so long, or not."""
        self.requests += 1
        self.failures += failed
        self.seconds += seconds


def placement_metrics(
    counters: PlacementCounters, age_seconds: float, owned: int, members: int, unowned: int
) -> Iterator[Metric]:
    """The families of a placement by leases.

    Args:
        counters: of its thread.
        age_seconds: since the lease was confirmed; infinite if it never was.
        owned: shards of this gateway.
        members: gateways with a fresh lease.
        unowned: shards that no such gateway has.
    """
    yield numbers("placement_lease_age_seconds", [((), age_seconds)])
    yield numbers("placement_shards", [((), owned)])
    yield numbers("placement_members", [((), members)])
    yield numbers("placement_shards_without_owner", [((), unowned)])
    yield numbers("placement_takeovers", [((), counters.takeovers)])
    yield numbers("placement_request_failures", [((), counters.failures)])
    yield table("placement_request_seconds", [()], [counters.requests], [counters.seconds])
