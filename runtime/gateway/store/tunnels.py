"""Tunnels that were added at run time, and those that devices were told of, in their tables.

Owns what is kept of them: the keys of an entry as JSON, what a notification asked for, and secrets,
sealed. A row that cannot be used is told and left out. What a device was told of is kept until the
tunnel is refused or closed, because a notification comes once.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ARRAY, Connection, Integer, any_, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.config import Authorities, read_tunnel
from tunnelfleet.runtime.gateway.config.problems import ConfigProblems
from tunnelfleet.runtime.gateway.devices import DeviceTunnel, Notification
from tunnelfleet.runtime.gateway.placement.shards import SLOTS, slot_of
from tunnelfleet.runtime.gateway.wanted import WantedTunnel

from .database import DEVICES, FLEET, TUNNELS
from .sealing import Sealer, SealingError

if TYPE_CHECKING:
    from .database import Database

SECRET_KEYS = ("access_token", "client_token", "http_proxy")
"""Keys of an entry that are sealed; the address of a proxy may have a password."""
SHARED = ""
"""Whose tunnels those are that gateways share: nobody is called so."""
CHANNEL = "tunnelfleet"
TUNNEL_CHANGED = "tunnel"
"""Where gateways that share a fleet listen, and the first word about a tunnel."""
REPLACED = ("entry", "sealed", "key_id", "changed_at", "slot")
PLACE = "state"
"""Stands for a file, in messages and as the place of the tunnels."""


class StoredTunnels(NamedTuple):
    """The tunnels that were found in a state.

    Attributes:
        tunnels: by name.
        problems: why some cannot be used, by name.
        of_others: how many tunnels other gateways have in the same state.
    """

    tunnels: dict[str, WantedTunnel]
    problems: dict[str, str]
    of_others: int


class TunnelChange(NamedTuple):
    """What a tunnel's row was before a change, and what it is since.

    Attributes:
        name: of the tunnel.
        before: the row; None if there was none.
        written: what is sealed in the new one, which is another text each time; None: it was
            removed.
    """

    name: str
    before: Mapping[str, Any] | None
    written: bytes | None

    @property
    def was_there(self) -> bool:
        """Whether there was a row before."""
        return self.before is not None


class TunnelTable:
    """The tunnels of a gateway.

    Args:
        database: where they are.
        gateway: whose they are.
        sealer: seals what is secret.
        authorities: keeps TLS contexts.

    The tunnels of the gateway `SHARED` are those of all gateways that share the fleet: a change is
    counted, and told on the fleet's channel.
    """

    def __init__(
        self, database: Database, gateway: str, sealer: Sealer, authorities: Authorities
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._sealer = sealer
        self._authorities = authorities

    def save(self, name: str, entry: Mapping[str, Any]) -> TunnelChange:
        """Save a tunnel, in place of one of the same name.

        Args:
            name: of the tunnel.
            entry: the keys of its `[[tunnel]]`.

        Raises:
            StoreError: it is not kept.
        """
        row = {
            "gateway": self._gateway,
            "name": name,
            **seal_entry(self._sealer, name, {**entry, "name": name}),
            "changed_at": time.time(),
            "slot": slot_of(name),
        }
        with self._changing(name) as (connection, before):
            self._write(connection, row)
        return TunnelChange(name, before, row["sealed"])

    def forget(self, name: str) -> TunnelChange:
        """Remove a tunnel, if there is one.

        Raises:
            StoreError: it is still kept.
        """
        with self._changing(name) as (connection, before):
            self._remove(connection, name)
        return TunnelChange(name, before, None)

    def take_back(self, change: TunnelChange) -> bool:
        """Have a row as it was before a change, unless somebody has changed it since.

        Returns:
            Whether that was done.

        Raises:
            StoreError: it may be as it was changed.
        """
        with self._changing(change.name) as (connection, now):
            if (None if now is None else bytes(now["sealed"])) != change.written:
                return False
            if change.before is None:
                self._remove(connection, change.name)
            else:
                self._write(connection, change.before)
            return True

    @contextlib.contextmanager
    def _changing(self, name: str) -> Iterator[tuple[Connection, Mapping[str, Any] | None]]:
        """Begin a change of a row, with what it is now."""
        with self._database.writing() as connection:
            # First: the number of the change lets one gateway after another change what they share.
            self._tell(connection, name)
            query = select(TUNNELS).where(*self._named(name)).with_for_update()
            row = connection.execute(query).mappings().first()
            yield connection, None if row is None else dict(row)

    def _named(self, name: str) -> list[Any]:
        return [TUNNELS.c.gateway == self._gateway, TUNNELS.c.name == name]

    def _write(self, connection: Connection, row: Mapping[str, Any]) -> None:
        insert = (sqlite if self._database.is_sqlite else postgresql).insert(TUNNELS)
        statement = insert.on_conflict_do_update(
            index_elements=[TUNNELS.c.gateway, TUNNELS.c.name],
            set_={key: insert.excluded[key] for key in REPLACED},
        )
        connection.execute(statement, dict(row))

    def _remove(self, connection: Connection, name: str) -> None:
        connection.execute(delete(TUNNELS).where(*self._named(name)))

    def _tell(self, connection: Connection, name: str) -> None:
        if self._gateway != SHARED:
            return
        bump = update(FLEET).values(tunnels_version=FLEET.c.tunnels_version + 1)
        version = connection.execute(bump.returning(FLEET.c.tunnels_version)).scalar()
        # Nobody has joined yet: whoever does reads all there is.
        if version is not None:
            text = f"{TUNNEL_CHANGED} {version} {name}"
            connection.execute(select(func.pg_notify(CHANNEL, text)))

    def load_shards(self, shards: frozenset[int], count: int) -> StoredTunnels:
        """The tunnels in some shards.

        Args:
            shards: their numbers.
            count: into how many shards the fleet is cut.

        Raises:
            StoreError: they cannot be read.
        """
        with self._database.reading() as connection:
            rows = connection.execute(select(TUNNELS).where(*self._in(shards, count))).all()
        return self._read_all(rows, 0)

    def list_shards(
        self, shards: frozenset[int], count: int, limit: int, after: str = ""
    ) -> list[tuple[str, str]]:
        """The names and entries of the tunnels in some shards, as JSON, without what is sealed.

        They are sorted by name, as this program sorts and whatever the database's language is.

        Args:
            shards: their numbers.
            count: into how many shards the fleet is cut.
            limit: at most so many.
            after: only those behind this name.

        Raises:
            StoreError: they cannot be read.
        """
        name = TUNNELS.c.name.collate("C")
        query = select(TUNNELS.c.name, TUNNELS.c.entry).where(*self._in(shards, count))
        with self._database.reading() as connection:
            rows = connection.execute(query.where(name > after).order_by(name).limit(limit)).all()
        return [(row.name, row.entry) for row in rows]

    def _in(self, shards: frozenset[int], count: int) -> list[Any]:
        mine = TUNNELS.c.gateway == self._gateway
        if len(shards) == count:
            return [mine]
        slots = [slot for slot in range(SLOTS) if slot % count in shards]
        # One parameter, for there may be thousands.
        return [mine, TUNNELS.c.slot == any_(bindparam("slots", slots, type_=ARRAY(Integer)))]

    def find(self, name: str) -> WantedTunnel | None:
        """The tunnel of that name, if there is one.

        Raises:
            StoreError: it cannot be read.
            TunnelError: it cannot be used.
        """
        with self._database.reading() as connection:
            row = connection.execute(select(TUNNELS).where(*self._named(name))).first()
        return None if row is None else self._read(row)

    def names_among(self, names: Sequence[str]) -> frozenset[str]:
        """Those of some names that a tunnel has.

        Raises:
            StoreError: they cannot be read.
        """
        mine = (TUNNELS.c.gateway == self._gateway, TUNNELS.c.name.in_(names))
        with self._database.reading() as connection:
            return frozenset(connection.execute(select(TUNNELS.c.name).where(*mine)).scalars())

    def load(self) -> StoredTunnels:
        """Return all tunnels of the gateway.

        Raises:
            StoreError: they cannot be read.
        """
        mine = TUNNELS.c.gateway == self._gateway
        with self._database.reading() as connection:
            rows = connection.execute(select(TUNNELS).where(mine).order_by(TUNNELS.c.name)).all()
            others = connection.execute(select(func.count()).where(~mine).select_from(TUNNELS))
            of_others = int(others.scalar() or 0)
        return self._read_all(rows, of_others)

    def _read_all(self, rows: Iterable[Any], of_others: int) -> StoredTunnels:
        tunnels: dict[str, WantedTunnel] = {}
        problems: dict[str, str] = {}
        for row in rows:
            try:
                tunnels[row.name] = self._read(row)
            except TunnelError as error:
                problems[row.name] = str(error)
        return StoredTunnels(tunnels, problems, of_others)

    def _read(self, row: Any) -> WantedTunnel:
        found = read_entry(self._sealer, row.name, row, self._authorities, PLACE)
        return replace(found, place=PLACE)


def seal_entry(sealer: Sealer, bound_to: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that keep an entry, what is secret in it sealed.

    Args:
        sealer: seals it.
        bound_to: what it is sealed for: it opens for nothing else.
        entry: the keys of a `[[tunnel]]`.
    """
    plain = {key: value for key, value in entry.items() if key not in SECRET_KEYS}
    if isinstance(plain.get("ca"), str):
        # The next start may be in another folder.
        plain["ca"] = str(Path(plain["ca"]).absolute())
    secret = {key: value for key, value in entry.items() if key in SECRET_KEYS}
    return {
        "entry": json.dumps(plain),
        "sealed": sealer.seal(bound_to, secret),
        "key_id": sealer.key_id,
    }


def read_entry(
    sealer: Sealer, bound_to: str, row: Any, authorities: Authorities, place: str
) -> WantedTunnel:
    """Return the tunnel of a row with the columns of `seal_entry`.

    Raises:
        TunnelError: it cannot be used; the text says why, for people.
    """
    try:
        secret = sealer.unseal(bound_to, bytes(row.sealed), row.key_id)
        entry = {**json.loads(row.entry), **secret}
    except SealingError as error:
        raise TunnelError(f"its tokens cannot be opened: {error}") from None
    except (ValueError, RecursionError):
        raise TunnelError("its entry is damaged; add it again") from None
    try:
        return read_tunnel(entry, authorities, place=place)
    except ConfigProblems as error:
        found = "; ".join(f"{each.key}: {each.text}" for each in error.problems)
        raise TunnelError(f"its entry cannot be used: {found}") from None


MAX_HASHES = 500
"""In one statement."""


class DeviceTable:
    """The tunnels of a gateway's devices.

    Args:
        database: where they are.
        gateway: whose they are.
        sealer: seals the tokens.
    """

    def __init__(self, database: Database, gateway: str, sealer: Sealer) -> None:
        self._database = database
        self._gateway = gateway
        self._sealer = sealer

    def save(self, tunnel: DeviceTunnel) -> None:
        """Keep a tunnel, in place of one with the same token.

        Raises:
            StoreError: it is not kept.
        """
        notification = tunnel.notification
        token_hash = notification.token_hash
        values = {
            "name": tunnel.name,
            "broker": tunnel.broker,
            "thing": notification.thing,
            "services": json.dumps(notification.services),
            "region": notification.region,
            "sealed": self._sealer.seal(
                _bound_to(token_hash), {"access_token": notification.access_token}
            ),
            "key_id": self._sealer.key_id,
            "received_at": tunnel.received_at,
        }
        insert = (sqlite if self._database.is_sqlite else postgresql).insert(DEVICES)
        statement = insert.on_conflict_do_update(
            index_elements=[DEVICES.c.gateway, DEVICES.c.token_hash],
            set_={key: insert.excluded[key] for key in values},
        )
        row = {"gateway": self._gateway, "token_hash": token_hash, **values}
        with self._database.writing() as connection:
            connection.execute(statement, row)

    def forget(self, token_hashes: Sequence[str]) -> None:
        """Remove tunnels by the hashes of their tokens.

        Raises:
            StoreError: they are still kept.
        """
        for first in range(0, len(token_hashes), MAX_HASHES):
            some = token_hashes[first : first + MAX_HASHES]
            statement = delete(DEVICES).where(
                DEVICES.c.gateway == self._gateway, DEVICES.c.token_hash.in_(some)
            )
            with self._database.writing() as connection:
                connection.execute(statement)

    def load(self) -> tuple[list[DeviceTunnel], dict[str, str]]:
        """All tunnels of the gateway, the oldest first, and why some cannot be used, by name.

        Raises:
            StoreError: they cannot be read.
        """
        statement = (
            select(DEVICES)
            .where(DEVICES.c.gateway == self._gateway)
            .order_by(DEVICES.c.received_at, DEVICES.c.name)
        )
        with self._database.reading() as connection:
            rows = connection.execute(statement).all()
        found: list[DeviceTunnel] = []
        problems: dict[str, str] = {}
        for row in rows:
            try:
                found.append(self._read(row))
            except SealingError as error:
                problems[row.name] = f"its token cannot be opened: {error}"
            except (ValueError, KeyError, TypeError):
                problems[row.name] = "its row is damaged; rotate its token"
        return found, problems

    def _read(self, row: Any) -> DeviceTunnel:
        secret = self._sealer.unseal(_bound_to(row.token_hash), bytes(row.sealed), row.key_id)
        notification = Notification(
            row.thing,
            secret["access_token"],
            tuple(str(each) for each in json.loads(row.services)),
            row.region,
        )
        return DeviceTunnel(row.name, row.broker, notification, row.received_at)


def _bound_to(token_hash: str) -> str:
    """What a sealed token belongs to, beside the gateway; no tunnel of the API is called so."""
    return f"device\n{token_hash}"
