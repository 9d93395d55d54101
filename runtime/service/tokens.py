"""The tokens of open tunnels: what was issued, and who may connect with which.

Owns token issue, rotation and docs/protocol.md section 1's token rules: an access token is
single-use, but for the client token it was first used with. Pure: it must not know connections.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from tunnelfleet.proto import (
    ACCESS_TOKEN_INVALID_TEXT,
    ACCESS_TOKEN_USED_TEXT,
    CLIENT_TOKEN_INVALID_TEXT,
    CLIENT_TOKEN_MISMATCH_TEXT,
    INVALID_REQUEST_TEXT,
    ConfigError,
    Mode,
    RequestRefused,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tunnelfleet.proto import RequestAccepted


TOKEN_ENTROPY_BYTES: Final = 32
MAX_SERVICES: Final = 256
MAX_SERVICE_ID_CHARACTERS: Final = 128
MAX_NAME_CHARACTERS: Final = 128

CLIENT_TOKEN_TAKEN_TEXT: Final = (
    f"{CLIENT_TOKEN_INVALID_TEXT}: The provided client token is in use by another tunnel."
)
MODE_MISMATCH_TEXT: Final = (
    f"{INVALID_REQUEST_TEXT}: the access token was issued for the other mode"
)


@dataclass(frozen=True, slots=True)
class TunnelTokens:
    """A tunnel as its opener gets it; the only place where the service gives tokens out.

    Attributes:
        name: the tunnel's name, of the opener's choice.
        services: the service ids, in the order in which they are announced.
        source_token: access token of the source.
        destination_token: access token of the destination.
    """

    name: str
    services: tuple[str, ...]
    source_token: str = field(repr=False)
    destination_token: str = field(repr=False)


@dataclass(slots=True)
class _Access:
    """What one side of a tunnel connects with."""

    tunnel: str
    mode: Mode
    token: str = field(repr=False)
    used: bool = False
    client_token: str | None = field(default=None, repr=False)


class IssuedTokens:
    """Which tunnels are open, and what their tokens have been used for."""

    def __init__(self) -> None:
        self._services: dict[str, tuple[str, ...]] = {}
        self._sides: dict[tuple[str, Mode], _Access] = {}
        self._by_token: dict[str, _Access] = {}
        self._client_tokens: dict[str, str] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._services)

    def open(self, name: str, services: Sequence[str]) -> TunnelTokens:
        """Open a tunnel and issue its tokens.

        Raises:
            ConfigError: the name or a service id is empty, too long or there already.
        """
        _check_names(name, services)
        if name in self._services:
            raise ConfigError(
                f"a tunnel named {name!r} is open already; close it, or choose a name"
            )
        self._services[name] = tuple(services)
        for mode in Mode:
            self._issue(name, mode)
        return self.tokens(name)

    def close(self, name: str) -> None:
        """Close a tunnel and void its tokens. Raises ConfigError if unknown."""
        self._known(name)
        for mode in Mode:
            self._revoke(name, mode)
        del self._services[name]

    def rotate(self, name: str, modes: Sequence[Mode]) -> TunnelTokens:
        """Revoke the tokens of these modes and issue new ones. Raises ConfigError if unknown."""
        self._known(name)
        for mode in modes:
            self._revoke(name, mode)
            self._issue(name, mode)
        return self.tokens(name)

    def tokens(self, name: str) -> TunnelTokens:
        """Return a tunnel's current tokens. Raises ConfigError if unknown."""
        services = self._known(name)
        source = self._sides[name, Mode.SOURCE].token
        destination = self._sides[name, Mode.DESTINATION].token
        return TunnelTokens(name, services, source, destination)

    def tunnel_of(self, access_token: str) -> str | None:
        """Return the name of the tunnel whose current token this is."""
        access = self._by_token.get(access_token)
        return None if access is None else access.tunnel

    def admit(self, request: RequestAccepted) -> str:
        """Let a well-formed request in, mark its token as used, and return its tunnel's name.

        Raises:
            RequestRefused: by the token rules of docs/protocol.md section 1.
        """
        access = self._by_token.get(request.access_token)
        if access is None:
            raise RequestRefused(HTTPStatus.FORBIDDEN, ACCESS_TOKEN_INVALID_TEXT)
        if access.mode is not request.mode:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, MODE_MISMATCH_TEXT)
        self._check_use(access, request.client_token)
        access.used = True
        access.client_token = request.client_token
        if request.client_token is not None:
            self._client_tokens[request.client_token] = access.tunnel
        return access.tunnel

    def _check_use(self, access: _Access, client_token: str | None) -> None:
        if access.used and (access.client_token is None or client_token is None):
            raise RequestRefused(HTTPStatus.FORBIDDEN, ACCESS_TOKEN_USED_TEXT)
        if access.used and access.client_token != client_token:
            raise RequestRefused(HTTPStatus.FORBIDDEN, CLIENT_TOKEN_MISMATCH_TEXT)
        owner = self._client_tokens.get(client_token or "", access.tunnel)
        if owner != access.tunnel:
            raise RequestRefused(HTTPStatus.FORBIDDEN, CLIENT_TOKEN_TAKEN_TEXT)

    def _issue(self, name: str, mode: Mode) -> None:
        access = _Access(name, mode, secrets.token_hex(TOKEN_ENTROPY_BYTES))
        self._sides[name, mode] = self._by_token[access.token] = access

    def _revoke(self, name: str, mode: Mode) -> None:
        access = self._sides.pop((name, mode))
        del self._by_token[access.token]
        others = {side.client_token for (tunnel, _), side in self._sides.items() if tunnel == name}
        if access.client_token is not None and access.client_token not in others:
            self._client_tokens.pop(access.client_token, None)

    def _known(self, name: str) -> tuple[str, ...]:
        try:
            return self._services[name]
        except KeyError:
            raise ConfigError(f"no tunnel is named {name!r}; open it first") from None


def _check_names(name: str, services: Sequence[str]) -> None:
    if not name or not name.isprintable() or len(name) > MAX_NAME_CHARACTERS:
        raise ConfigError(
            f"a tunnel needs a name of printable characters, at most {MAX_NAME_CHARACTERS}"
        )
    if isinstance(services, str):
        raise ConfigError("services must be a sequence of service ids, not one string")
    if len(services) > MAX_SERVICES or len(set(services)) != len(services):
        raise ConfigError(f"tunnel {name!r}: at most {MAX_SERVICES} services, none of them twice")
    for service in services:
        if not service or not service.isprintable() or len(service) > MAX_SERVICE_ID_CHARACTERS:
            raise ConfigError(
                f"tunnel {name!r}: service ids are printable, 1 to {MAX_SERVICE_ID_CHARACTERS} long"
            )
