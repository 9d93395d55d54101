"""Two gateways in this process that share a fleet without PostgreSQL: a book says who has what."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.doors import DoorFleet
from tests.support.fleet import FakePlacement
from tests.support.forwarding import Authority
from tunnelfleet.actors.addresses import parse_address
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway import Assigned, Revoked, WantedTunnel
from tunnelfleet.runtime.gateway.config.fleet_tls import read_fleet_tls
from tunnelfleet.runtime.gateway.door import Door
from tunnelfleet.runtime.gateway.forward import Forwarding
from tunnelfleet.runtime.gateway.placement import SHARDS, Member, owner_of, shard_of

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.config.fleet_tls import FleetTls

ONLY_DOOR: dict[str, None] = {"SSH": None}
NAMES = ("one", "two")


class Book:
    """Who has which shard, as the store of a fleet would tell all."""

    def __init__(self) -> None:
        self.owners: list[str | None] = [owner_of(shard, NAMES) for shard in range(SHARDS)]
        self.addresses: dict[str, str | None] = {}
        self.away: set[str] = set()

    def members(self) -> tuple[Member, ...]:
        """Both."""
        return tuple(
            Member(name, self.addresses.get(name), 1, name not in self.away, SHARDS // 2)
            for name in NAMES
        )

    def name_of(self, owner: str, number: int = 0) -> str:
        """A name of a tunnel that a gateway has."""
        names = (f"press-{each}" for each in range(1_000))
        return [each for each in names if self.owners[shard_of(each)] == owner][number]


class BookPlacement(FakePlacement):
    """The engine of one gateway, which goes by the book."""

    def __init__(self, book: Book, name: str) -> None:
        super().__init__()
        self._book = book
        self._name = name
        self.believes: dict[str, str] = {}
        """The owner of a tunnel that this gateway takes for it, against the book."""

    def start(self, tell: Any) -> None:
        """Tell what is its own."""
        super().start(tell)
        mine = [shard for shard, owner in enumerate(self._book.owners) if owner == self._name]
        tell(Assigned(frozenset(mine), 1))

    def announce(self, address: str | None) -> None:
        """Write it into the book."""
        self._book.addresses[self._name] = address

    def members(self) -> tuple[Member, ...]:
        """Both."""
        return self._book.members()

    def owner(self, name: str) -> Member | None:
        """As the book says."""
        owner = self.believes.get(name) or self._book.owners[shard_of(name)]
        return next((each for each in self.members() if each.name == owner), None)

    def owner_names(self) -> tuple[str | None, ...]:
        """As the book says."""
        return tuple(self._book.owners)


class PairFleet(DoorFleet):
    """One of the two."""

    def __init__(
        self, folder: Path, name: str, book: Book, authority: Authority, secret: Path
    ) -> None:
        super().__init__(folder)
        self.name = name
        self.book = book
        self.engine = BookPlacement(book, name)
        self._placement = self.engine
        self._authority = authority
        self.forwarding: Forwarding
        self.files.settings = replace(
            self.files.settings,
            name=name,
            placement="postgres",
            drain_seconds=0.0,
            client_token_secret_file=secret,
        )

    def tls(self, authority: Authority | None = None, name: str | None = None) -> FleetTls:
        """The contexts of a gateway's files."""
        name = name or self.name
        files = (authority or self._authority).keys(name)
        cert, key, ca = (Path(files[f"fleet_{each}"]) for each in ("cert", "key", "ca"))
        tls, _warning = read_fleet_tls(cert, key, ca, name)
        return tls

    def open_with(self, tunnels: dict[str, WantedTunnel], *, forwards: bool = True) -> None:
        """Start the gateway with these tunnels in its files."""
        self.files.tunnels = tunnels
        if forwards:
            self.files.settings = replace(
                self.files.settings,
                fleet_listen=TcpAddress("127.0.0.1", 0),
                fleet_tls=self.tls(),
            )
        settings = self.files.settings
        self.forwarding = self._stack.enter_context(Forwarding(settings))
        others = self.forwarding.for_doors
        self.door = Door(settings, self.limits, self.denied.append, self.resolver, others)
        self._stack.enter_context(self.door)
        self.start(
            more_children=lambda gateway: [
                self.door.child(gateway),
                *self.forwarding.children(gateway, self.door),
            ]
        )

    @property
    def fleet_address(self) -> TcpAddress:
        """Where the other one reaches it."""
        address = parse_address(self.book.addresses[self.name] or "")
        assert isinstance(address, TcpAddress)
        return address


class GatewayPair:
    """Both; a context manager.

    Args:
        folder: for what is made.
        authority: of the fleet; it has issued both certificates.
    """

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.book = Book()
        self._stack = contextlib.ExitStack()
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text("s" * 40)
        self.one, self.two = (
            PairFleet(folder / name, name, self.book, authority, secret) for name in NAMES
        )
        self.tunnels: dict[str, WantedTunnel] = {}

    def __enter__(self) -> Self:
        for each in (self.one, self.two):
            self._stack.enter_context(each)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def add(self, owner: str, number: int = 0, **given: Any) -> str:
        """A tunnel that this gateway has, in the files of both; call it before `open`."""
        name = self.book.name_of(owner, number)
        self.tunnels[name] = self.one.tunnel(name, services=ONLY_DOOR, **given)
        return name

    def open(self, *, forwards: bool = True) -> None:
        """Start both, and wait until the tunnels are connected."""
        self.one.open_with(self.tunnels, forwards=forwards)
        self.two.open_with(self.tunnels, forwards=forwards)
        for name in self.tunnels:
            owner = self.book.owners[shard_of(name)]
            (self.one if owner == "one" else self.two).wait_state(name, "connected")

    def move(self, name: str, old: PairFleet, new: PairFleet) -> None:
        """Give a tunnel's shard to the other one, as a takeover does."""
        shard = shard_of(name)
        self.book.owners[shard] = new.name
        old.engine.tell(Revoked(frozenset({shard})))
        new.engine.tell(Assigned(frozenset({shard}), 2))
