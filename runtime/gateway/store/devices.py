"""Tunnels that devices were told of, in their table.

Owns what is kept of a notification: whose it is and what it asks for, and its token, sealed. It is
kept until the tunnel is refused or closed, because a notification comes once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from tunnelfleet.runtime.gateway.devices import DeviceTunnel, Notification

from .sealing import SealingError
from .tables import DEVICES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .database import Database
    from .sealing import Sealer

__all__ = ["DeviceTable"]

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
