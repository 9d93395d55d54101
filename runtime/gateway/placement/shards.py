"""Which part of the fleet is this gateway's: shards, and who assigns them.

A fleet is cut into shards by the names of its tunnels; a shard has one owner at a time. Owns the
cut, the rendezvous hashing that spreads shards over members, and the interface behind which an
engine says who owns what: it tells `Assigned` and `Revoked`. `StaticPlacement` is the simplest
engine. Pure, but that an engine calls back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tunnelfleet.proto import ConfigError, counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


SHARDS = 256
"""Into how many shards a fleet is cut. All gateways of a fleet need the same number."""
SERIAL_MARK = "~"
"""`press-4~2` is the second tunnel of `press-4`, and is in the same shard."""
SLOTS = 65_536
"""The greatest number of shards; others are divisors of it."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """These shards are this gateway's, besides those that it has.

    Attributes:
        shards: numbers from 0.
        epoch: grows with each assignment of a shard, so that a late message can be told from a new
            one.
    """

    shards: frozenset[int]
    epoch: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """These shards are not this gateway's any more: their tunnels must end here.

    Attributes:
        shards: their numbers.
        may_drain: nobody has them yet, and nobody will before they are vacated: what is open may
            go on for `drain_seconds`. Otherwise another gateway has them already.
        rate_part: what of the fleet's connect rate those have who get the tunnels: no more end here
            in a second, so that each is away for a moment only.
    """

    shards: frozenset[int]
    may_drain: bool = False
    rate_part: float = 1.0


@dataclass(frozen=True, slots=True)
class Vacated:
    """No tunnel of these shards, which were revoked, runs here any more. From the fleet."""

    shards: frozenset[int]


@dataclass(frozen=True, slots=True)
class FleetLeaves:
    """The gateway is about to stop: its shards are for others, one by one. From the fleet."""


@dataclass(frozen=True, slots=True)
class Member:
    """A gateway of the fleet, as another one sees it.

    Attributes:
        name: of the gateway.
        address: where other gateways reach it, as `HOST:PORT`; None for nowhere.
        epoch: of its life in the fleet.
        fresh: whether its lease holds, as far as this gateway knows.
        shards: how many it owns.
        version: of its program.
    """

    name: str
    address: str | None
    epoch: int
    fresh: bool
    shards: int
    version: str = ""


class Placement(Protocol):
    """An engine that says who owns which shards. None of its methods waits, but `close`."""

    def start(self, tell: Callable[[Assigned | Revoked], None]) -> None:
        """Begin to tell. `tell` may be called from any thread, at once or later.

        After a failure of who listens this is called again, with another `tell`, and without a
        `stop` before: all has to be told anew, what is not assigned as well.
        """

    def vacated(self, shards: frozenset[int]) -> None:
        """The tunnels of these shards, which were revoked, have ended here."""

    def look(self) -> None:
        """Called each second: cut off what hangs."""

    def members(self) -> tuple[Member, ...]:
        """The gateways of the fleet, sorted by name; nobody where each knows of itself alone."""

    def owner(self, name: str) -> Member | None:
        """The gateway that has a tunnel of this name; None if nobody has it, or nobody knows."""

    def status(self) -> dict[str, Any] | None:
        """How a share in the fleet is, for `/readyz`; None where nothing can be wrong with it."""

    def leave(self) -> None:
        """Give up all shards, each when it is vacated, and take no other."""

    def stop(self) -> None:
        """Tell nothing more, and give up what is owned."""

    def close(self) -> None:
        """Wait for the end of what was started. Called after `stop`, by no actor."""


class StaticPlacement:
    """Each member has a part that follows from its number alone.

    Args:
        ordinal: which member this gateway is, from 0.
        members: how many there are; 1 has all shards.
        shards: into how many the fleet is cut.

    Raises:
        ConfigError: there is no such member.
    """

    def __init__(self, ordinal: int = 0, members: int = 1, shards: int = SHARDS) -> None:
        if not 0 <= ordinal < members:
            raise ConfigError(
                f"of {counted(members, 'gateway')} the ordinals are 0 to {members - 1}"
            )
        self._mine = shards_of_member(ordinal, members, shards)

    def start(self, tell: Callable[[Assigned | Revoked], None]) -> None:
        """Tell what is this member's, once."""
        tell(Assigned(self._mine, epoch=1))

    def vacated(self, shards: frozenset[int]) -> None:
        """Nothing is ever revoked."""

    def look(self) -> None:
        """Nothing hangs."""

    def members(self) -> tuple[Member, ...]:
        """Nobody: each knows its own part alone."""
        return ()

    def owner(self, name: str) -> Member | None:  # noqa: ARG002 - of the interface
        """Nobody knows."""
        return None

    def status(self) -> dict[str, Any] | None:
        """Nothing can be wrong with it."""
        return None

    def leave(self) -> None:
        """There is nothing to give up: nobody else would take it."""

    def stop(self) -> None:
        """As above."""

    def close(self) -> None:
        """Nothing was started."""


def shard_of(name: str, shards: int = SHARDS) -> int:
    """The shard that a tunnel is in; it never changes while the number of shards is the same.

    Args:
        name: of the tunnel.
        shards: into how many the fleet is cut.
    """
    first, mark, number = name.rpartition(SERIAL_MARK)
    if mark and first and number.isdecimal():
        name = first
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shards


def slot_of(name: str) -> int:
    """A number that never changes; modulo a number of shards that divides `SLOTS` it is the shard.

    So a store can find the tunnels of a shard, however many shards there are.
    """
    return shard_of(name, SLOTS)


def owner_of(shard: int, members: Sequence[str]) -> str:
    """The member that a shard belongs to, by rendezvous hashing.

    Each member draws a number for each shard, and the highest has it. So when a member comes, it
    takes shards from all others and no others move; when one goes, only its own do.

    Args:
        shard: its number.
        members: the names of all members, at least one.
    """
    return max(members, key=lambda member: (_draw(member, shard), member))


def shards_of_member(ordinal: int, members: int, shards: int = SHARDS) -> frozenset[int]:
    """The shards of member `ordinal` of so many, who are known by their numbers."""
    names = [str(number) for number in range(members)]
    mine = names[ordinal]
    return frozenset(shard for shard in range(shards) if owner_of(shard, names) == mine)


def worker_of(name: str, workers: int) -> int:
    """Which of so many worker processes of a gateway has a tunnel, from 0.

    It follows from the name alone, and not from the shard: what is one gateway's of several is
    spread over all of its workers.
    """
    return max(range(workers), key=lambda number: (_draw(f"worker {number}", name), number))


def _draw(member: str, shard: object) -> bytes:
    return hashlib.blake2b(f"{shard}/{member}".encode(), digest_size=8).digest()
