"""Tunnels that were added at run time, in their table; what is secret in a row is sealed.

Owns what is kept of them, the keys of their entry as JSON, and the seal: AES-256-GCM under a key
that is derived from the deployment's secret (HKDF-SHA256, RFC 5869), with the gateway and the
tunnel's name as associated data, so that a row that was moved to another name does not open.
Whoever reads the database alone has no token. A row that cannot be used is told and left out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.config import Authorities, read_tunnel
from tunnelfleet.runtime.gateway.config.problems import ConfigProblems

from .tables import TUNNELS

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

    from .database import Database


class SealingError(TunnelError):
    """What is sealed does not open; the text says why."""


FORM = b"\x01"
"""The first byte of what is sealed, for another form one day."""
NONCE_BYTES = 12
KEY_BYTES = 32
KEY_ID_BYTES = 8
_KEY_USE = b"tunnelfleet state: sealed tunnels, AES-256-GCM"
_ID_USE = b"tunnelfleet state: name of the key"


class Sealer:
    """Seals and opens the secrets of one gateway's tunnels.

    Args:
        secret: of the deployment.
        gateway: whose tunnels they are.
    """

    def __init__(self, secret: bytes, gateway: str) -> None:
        self._cipher = AESGCM(_derive(secret, _KEY_USE, KEY_BYTES))
        self._gateway = gateway
        self.key_id = _derive(secret, _ID_USE, KEY_ID_BYTES).hex()
        """A digest that tells keys apart without giving them away."""

    def __repr__(self) -> str:
        return f"Sealer({self.key_id})"

    def seal(self, name: str, values: Mapping[str, str]) -> bytes:
        """Seal the secrets of a tunnel."""
        nonce = os.urandom(NONCE_BYTES)
        plain = json.dumps(dict(values), sort_keys=True).encode()
        return FORM + nonce + self._cipher.encrypt(nonce, plain, self._bound_to(name))

    def unseal(self, name: str, sealed: bytes, key_id: str) -> dict[str, str]:
        """Open what was sealed.

        Args:
            name: of the tunnel.
            sealed: what `seal` made.
            key_id: of the key that it was made with.

        Raises:
            SealingError: it was another key, or it is not what was sealed for this tunnel.
        """
        if key_id != self.key_id:
            raise SealingError(
                "they were sealed with another secret than this deployment's; start with that one "
                "(client_token_secret_file), or add the tunnel again"
            )
        nonce, content = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        if sealed[:1] != FORM or len(nonce) < NONCE_BYTES:
            raise SealingError("they are in a form that this program does not know")
        try:
            plain = self._cipher.decrypt(nonce, content, self._bound_to(name))
        except InvalidTag:
            raise SealingError(
                "they were changed, or belong to another tunnel or gateway; add the tunnel again"
            ) from None
        values: dict[str, str] = json.loads(plain)
        return values

    def _bound_to(self, name: str) -> bytes:
        return json.dumps([self._gateway, name]).encode()


def _derive(secret: bytes, use: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=use).derive(secret)


SECRET_KEYS = ("access_token", "client_token", "http_proxy")
"""Keys of an entry that are sealed; the address of a proxy may have a password."""
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


class TunnelTable:
    """The tunnels of a gateway.

    Args:
        database: where they are.
        gateway: whose they are.
        sealer: seals what is secret.
        authorities: keeps TLS contexts.
    """

    def __init__(
        self, database: Database, gateway: str, sealer: Sealer, authorities: Authorities
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._sealer = sealer
        self._authorities = authorities

    def save(self, name: str, entry: Mapping[str, Any]) -> None:
        """Save a tunnel, in place of one of the same name.

        Args:
            name: of the tunnel.
            entry: the keys of its `[[tunnel]]`.

        Raises:
            StoreError: it is not kept.
        """
        plain = {key: value for key, value in entry.items() if key not in SECRET_KEYS}
        if isinstance(plain.get("ca"), str):
            # The next start may be in another folder.
            plain["ca"] = str(Path(plain["ca"]).absolute())
        secret = {key: value for key, value in entry.items() if key in SECRET_KEYS}
        row = {
            "gateway": self._gateway,
            "name": name,
            "entry": json.dumps({**plain, "name": name}),
            "sealed": self._sealer.seal(name, secret),
            "key_id": self._sealer.key_id,
            "changed_at": time.time(),
        }
        insert = (sqlite if self._database.is_sqlite else postgresql).insert(TUNNELS)
        statement = insert.on_conflict_do_update(
            index_elements=[TUNNELS.c.gateway, TUNNELS.c.name],
            set_={key: insert.excluded[key] for key in ("entry", "sealed", "key_id", "changed_at")},
        )
        with self._database.writing() as connection:
            connection.execute(statement, row)

    def forget(self, name: str) -> bool:
        """Remove a tunnel; return whether there was one.

        Raises:
            StoreError: it is still kept.
        """
        statement = delete(TUNNELS).where(
            TUNNELS.c.gateway == self._gateway, TUNNELS.c.name == name
        )
        with self._database.writing() as connection:
            return connection.execute(statement).rowcount > 0

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
        tunnels: dict[str, WantedTunnel] = {}
        problems: dict[str, str] = {}
        for row in rows:
            try:
                tunnels[row.name] = self._read(row)
            except TunnelError as error:
                problems[row.name] = str(error)
        return StoredTunnels(tunnels, problems, of_others)

    def _read(self, row: Any) -> WantedTunnel:
        try:
            secret = self._sealer.unseal(row.name, bytes(row.sealed), row.key_id)
            entry = {**json.loads(row.entry), **secret}
        except SealingError as error:
            raise TunnelError(f"its tokens cannot be opened: {error}") from None
        except ValueError:
            raise TunnelError("its entry is damaged; add it again") from None
        try:
            return replace(read_tunnel(entry, self._authorities, place=PLACE), place=PLACE)
        except ConfigProblems as error:
            found = "; ".join(f"{each.key}: {each.text}" for each in error.problems)
            raise TunnelError(f"its entry cannot be used: {found}") from None
