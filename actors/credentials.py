"""The tokens of one tunnel: kept for its reconnects, replaced on rotation, never shown.

Owns the rule of PROTOCOL.md section 1 that every retry sends the same client token, and that a new
access token needs a new one.
"""

from __future__ import annotations

from tunnelfleet.proto import generate_client_token, validate_access_token, validate_client_token

__all__ = ["Credentials"]


class Credentials:
    """An access token and the client token that belongs to it.

    Args:
        access_token: the client access token.
        client_token: its client token; one is generated when it is None.

    Raises:
        ConfigError: a token is malformed.
    """

    __slots__ = ("_access_token", "_client_token")

    def __init__(self, access_token: str, client_token: str | None = None) -> None:
        self.replace(access_token, client_token)

    def __repr__(self) -> str:
        return "Credentials(...)"

    def current(self) -> tuple[str, str]:
        """The access token and the client token to send."""
        return self._access_token, self._client_token

    def replace(self, access_token: str, client_token: str | None = None) -> None:
        """Use another access token from the next attempt on, as after `Credentials(...)`."""
        validate_access_token(access_token)
        if client_token is not None:
            validate_client_token(client_token)
        self._access_token = access_token
        self._client_token = client_token or generate_client_token()
