"""What the gateways of a fleet know of each other, and who should have which shard. Pure.

Owns the picture that a store gives at one moment, by the store's clock, and what follows from it:
who counts as a member, which shards are free, which a gateway should claim and which it should hand
over. Nothing here asks a store or decides about connects.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from .shards import Member, owner_of

_REMEMBERED = 64
"""Sets of members whose shares are remembered: working one out takes 256 hashes a member."""


class Owner(NamedTuple):
    """Who has a shard: a gateway, and which of its lives."""

    name: str
    epoch: int


class GatewayRow(NamedTuple):
    """A gateway in the store.

    Attributes:
        name: of the gateway.
        epoch: of its life in the fleet.
        lease_until: by the store's clock.
        is_leaving: whether it hands over all that it has.
        address: where other gateways reach it, as `HOST:PORT`; None for nowhere.
        version: of its program.
    """

    name: str
    epoch: int
    lease_until: float
    is_leaving: bool = False
    address: str | None = None
    version: str = ""


@dataclass(frozen=True)
class FleetTable:
    """What a store says of a fleet at one moment.

    Attributes:
        now: the store's clock.
        gateways: those it knows.
        owners: who has each shard, by number; None for nobody.
        version: grows whenever a gateway joins, begins to leave, or has left.
        grace_until: until then nobody loses anything: the store itself was away.
        tunnels_version: grows with each change of a tunnel that was added at run time.
    """

    now: float
    gateways: tuple[GatewayRow, ...]
    owners: tuple[Owner | None, ...]
    version: int = 0
    grace_until: float = 0.0
    tunnels_version: int = 0

    def expires_at(self, row: GatewayRow) -> float:
        """When others may take what a gateway has, by the store's clock."""
        return max(row.lease_until, self.grace_until)

    @functools.cached_property
    def present(self) -> frozenset[Owner]:
        """The gateways that nobody may take anything from."""
        return frozenset(
            Owner(row.name, row.epoch) for row in self.gateways if self.expires_at(row) > self.now
        )

    @functools.cached_property
    def members(self) -> tuple[str, ...]:
        """The names of those that share the fleet, sorted."""
        return tuple(
            sorted(
                row.name
                for row in self.gateways
                if not row.is_leaving and self.expires_at(row) > self.now
            )
        )

    def is_free(self, shard: int) -> bool:
        """Whether a shard may be claimed."""
        owner = self.owners[shard]
        return owner is None or owner not in self.present

    @property
    def has_owners(self) -> bool:
        """Whether anybody has a shard that nobody may take."""
        return any(not self.is_free(shard) for shard in range(len(self.owners)))

    def claims_of(self, name: str) -> frozenset[int]:
        """The free shards that a gateway should have."""
        if name not in self.members:
            return frozenset()
        shares = _shares(self.members, len(self.owners))
        return frozenset(
            shard for shard, owner in enumerate(shares) if owner == name and self.is_free(shard)
        )

    def handovers_of(self, name: str, shards: frozenset[int]) -> frozenset[int]:
        """Those of some shards that another member than this one should have."""
        if not self.members:
            return frozenset()
        shares = _shares(self.members, len(self.owners))
        return frozenset(shard for shard in shards if shares[shard] != name)

    def shards_of(self, owner: Owner) -> frozenset[int]:
        """What a gateway has in this life."""
        return frozenset(shard for shard, each in enumerate(self.owners) if each == owner)

    def as_members(self, elapsed_seconds: float = 0.0) -> tuple[Member, ...]:
        """The gateways for others to look at, sorted by name.

        Args:
            elapsed_seconds: since the store has told this.
        """
        now = self.now + elapsed_seconds
        counts = Counter(self.owners)
        return tuple(
            Member(
                name=row.name,
                address=row.address,
                epoch=row.epoch,
                fresh=row.lease_until > now,
                shards=counts[Owner(row.name, row.epoch)],
                version=row.version,
            )
            for row in sorted(self.gateways)
        )

    def unowned(self, elapsed_seconds: float = 0.0) -> frozenset[int]:
        """The shards that no gateway with a fresh lease has.

        Args:
            elapsed_seconds: since the store has told this.
        """
        now = self.now + elapsed_seconds
        fresh = {Owner(row.name, row.epoch) for row in self.gateways if row.lease_until > now}
        return frozenset(shard for shard, owner in enumerate(self.owners) if owner not in fresh)


@functools.lru_cache(_REMEMBERED)
def _shares(members: tuple[str, ...], shards: int) -> tuple[str, ...]:
    return tuple(owner_of(shard, members) for shard in range(shards))
