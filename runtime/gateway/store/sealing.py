"""Sealing what is secret in a state: whoever reads the database alone has no token.

Owns the key, which is derived from the deployment's secret (HKDF-SHA256, RFC 5869), and the form of
what is sealed: AES-256-GCM, with the gateway and the tunnel's name as associated data, so that a
row that was moved to another name does not open. Pure but for the random nonce.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tunnelfleet.proto import TunnelError

FORM = b"\x01"
"""The first byte of what is sealed, for another form one day."""
NONCE_BYTES = 12
KEY_BYTES = 32
KEY_ID_BYTES = 8
_KEY_USE = b"tunnelfleet state: sealed tunnels, AES-256-GCM"
_ID_USE = b"tunnelfleet state: name of the key"


class SealingError(TunnelError):
    """What is sealed does not open; the text says why."""


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
        """Tells keys apart, and tells nothing of them."""

    def __repr__(self) -> str:
        return f"Sealer({self.key_id})"

    def of(self, gateway: str) -> Sealer:
        """The same for another gateway of the deployment."""
        other = copy.copy(self)
        other._gateway = gateway  # noqa: SLF001 - one of this class
        return other

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
