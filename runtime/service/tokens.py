"""The tokens of open tunnels: what was issued, and who may connect with which.

Owns token issue, rotation and docs/protocol.md section 1's token rules: an access token is
single-use, but for the client token it was first used with. Pure: it must not know connections.

Tokens are looked up and compared by their digest, so that no comparison takes longer for a guess
that begins right, and what is kept (``KeptAccess``) tells no token. A token is 32 random bytes, so
its digest needs no salt.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from tunnelfleet.proto import (
    ACCESS_TOKEN_INVALID_TEXT,
    ACCESS_TOKEN_USED_TEXT,
    CLIENT_TOKEN_INVALID_TEXT,
    CLIENT_TOKEN_MISMATCH_TEXT,
    INVALID_REQUEST_TEXT,
    ConfigError,
    Mode,
    RequestAccepted,
    RequestRefused,
)

TOKEN_ENTROPY_BYTES: Final = 32
MAX_SERVICES: Final = 256
MAX_SERVICE_ID_CHARACTERS: Final = 128
MAX_NAME_CHARACTERS: Final = 128


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


@dataclass(frozen=True, slots=True)
class KeptAccess:
    """What is kept of one issued token over a restart. It tells no token.

    Attributes:
        mode: the side that it is for.
        digest: SHA-256 of the access token, in hex.
        used: whether a client connected with it.
        client_digest: SHA-256 of the client token that came with it then, in hex; None without one.
        is_former: whether a newer one was issued when the service was started anew (``reissue``).
    """

    mode: Mode
    digest: str = field(repr=False)
    used: bool = False
    client_digest: str | None = field(default=None, repr=False)
    is_former: bool = False


@dataclass(slots=True)
class _Access:
    """What one side of a tunnel connects with."""

    tunnel: str
    mode: Mode
    digest: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """Only in the process that issued it, for ``TunnelService.tokens``."""
    used: bool = False
    client_digest: str | None = field(default=None, repr=False)


def token_digest(token: str) -> str:
    """Return the SHA-256 of a token in hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


CLIENT_TOKEN_TAKEN_TEXT: Final = (
    f"{CLIENT_TOKEN_INVALID_TEXT}: The provided client token is in use by another tunnel."
)
MODE_MISMATCH_TEXT: Final = (
    f"{INVALID_REQUEST_TEXT}: the access token was issued for the other mode"
)


class IssuedTokens:
    """Which tunnels are open, and what their tokens have been used for.

    Args:
        changed: told the name of a tunnel whose tokens are in a state that ``kept`` says newly.
    """

    def __init__(self, changed: Callable[[str], None] = lambda _: None) -> None:
        self._changed = changed
        self._services: dict[str, tuple[str, ...]] = {}
        self._sides: dict[tuple[str, Mode], _Access] = {}
        self._former: dict[tuple[str, Mode], _Access] = {}
        self._by_digest: dict[str, _Access] = {}
        self._client_tokens: dict[str, str] = {}
        """Digest of a client token -> the tunnel that it is in use for."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._services)

    def __contains__(self, name: str) -> bool:
        return name in self._services

    def __len__(self) -> int:
        return len(self._services)

    def open(self, name: str, services: Sequence[str]) -> TunnelTokens:
        """Open a tunnel and issue its tokens.

        Raises:
            ConfigError: the name or a service id is empty, too long or there already.
        """
        check_names(name, services)
        if name in self._services:
            raise ConfigError(
                f"a tunnel named {name!r} is open already; close it, or choose a name"
            )
        self._services[name] = tuple(services)
        for mode in Mode:
            self._issue(name, mode)
        self._changed(name)
        return self.tokens(name)

    def close(self, name: str) -> None:
        """Close a tunnel and void its tokens. Raises ConfigError if unknown."""
        self.services(name)
        for mode in Mode:
            self._revoke(name, mode)
        del self._services[name]

    def rotate(self, name: str, modes: Sequence[Mode]) -> TunnelTokens:
        """Revoke the tokens of these modes and issue new ones.

        Returns:
            The tunnel's tokens; of a side that was restored and not rotated it is "", for nobody
            but its client knows it.

        Raises:
            ConfigError: the tunnel is unknown.
        """
        self.services(name)
        for mode in modes:
            self._revoke(name, mode)
            self._issue(name, mode)
        self._changed(name)
        return self._tokens(name)

    def set_services(self, name: str, services: Sequence[str]) -> None:
        """Give a tunnel other services. Raises ConfigError if unknown or not usable."""
        self.services(name)
        check_names(name, services)
        self._services[name] = tuple(services)
        self._changed(name)

    # over a restart

    def kept(self, name: str) -> tuple[KeptAccess, ...]:
        """Return what is to be kept of a tunnel's tokens. Raises ConfigError if unknown."""
        self.services(name)
        return tuple(
            KeptAccess(each.mode, each.digest, each.used, each.client_digest, is_former)
            for is_former, sides in ((False, self._sides), (True, self._former))
            for mode in Mode
            if (each := sides.get((name, mode))) is not None
        )

    def restore(self, name: str, services: Sequence[str], kept: Iterable[KeptAccess]) -> None:
        """Take in a tunnel that was kept. Raises ConfigError if it cannot be one."""
        check_names(name, services)
        self._services[name] = tuple(services)
        for each in kept:
            access = _Access(
                name, each.mode, each.digest, used=each.used, client_digest=each.client_digest
            )
            self._put(self._former if each.is_former else self._sides, access)
            if each.client_digest is not None:
                self._client_tokens[each.client_digest] = name
        for mode in Mode:
            if (name, mode) not in self._sides:
                self._issue(name, mode)

    def reissue(self, name: str, services: Sequence[str]) -> TunnelTokens:
        """Issue new tokens for a tunnel that was restored, and let its clients keep theirs.

        A client that was connected comes back with the pair it had; that ends when a client
        connects with the new token of its mode. One pair of each side is kept so, and one that was
        used before one that was not.
        """
        self.set_services(name, services)
        for mode in Mode:
            current, former = self._sides[name, mode], self._former.get((name, mode))
            if former is not None and former.used and not current.used:
                self._drop(self._sides, name, mode)
            else:
                self._drop(self._former, name, mode)
                self._former[name, mode] = current
            self._issue(name, mode)
        self._changed(name)
        return self.tokens(name)

    # who asks

    def services(self, name: str) -> tuple[str, ...]:
        """Return a tunnel's service ids. Raises ConfigError if unknown."""
        try:
            return self._services[name]
        except KeyError:
            raise ConfigError(f"no tunnel is named {name!r}; open it first") from None

    def tokens(self, name: str) -> TunnelTokens:
        """Return a tunnel's current tokens.

        Raises:
            ConfigError: the tunnel is unknown, or was restored: of its tokens only digests are
                known.
        """
        tokens = self._tokens(name)
        if not tokens.source_token or not tokens.destination_token:
            raise ConfigError(
                f"the tokens of {name!r} were issued before the service was started anew and are "
                "known to its clients alone; rotate them to have new ones"
            )
        return tokens

    def _tokens(self, name: str) -> TunnelTokens:
        services = self.services(name)
        source = self._sides[name, Mode.SOURCE].token
        destination = self._sides[name, Mode.DESTINATION].token
        return TunnelTokens(name, services, source or "", destination or "")

    def tunnel_of(self, access_token: str) -> str | None:
        """Return the name of the tunnel whose token this is."""
        access = self._by_digest.get(token_digest(access_token))
        return None if access is None else access.tunnel

    def admit(self, request: RequestAccepted) -> str:
        """Let a well-formed request in, mark its token as used, and return its tunnel's name.

        Raises:
            RequestRefused: by the token rules of docs/protocol.md section 1.
        """
        access = self._by_digest.get(token_digest(request.access_token))
        if access is None:
            raise RequestRefused(HTTPStatus.FORBIDDEN, ACCESS_TOKEN_INVALID_TEXT)
        if access.mode is not request.mode:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, MODE_MISMATCH_TEXT)
        client_token = request.client_token
        client_digest = None if client_token is None else token_digest(client_token)
        self._check_use(access, client_digest)
        self._note_use(access, client_digest)
        return access.tunnel

    def _check_use(self, access: _Access, client_digest: str | None) -> None:
        if access.used:
            if access.client_digest is None or client_digest is None:
                raise RequestRefused(HTTPStatus.FORBIDDEN, ACCESS_TOKEN_USED_TEXT)
            if not hmac.compare_digest(access.client_digest, client_digest):
                raise RequestRefused(HTTPStatus.FORBIDDEN, CLIENT_TOKEN_MISMATCH_TEXT)
        owner = self._client_tokens.get(client_digest or "", access.tunnel)
        if owner != access.tunnel:
            raise RequestRefused(HTTPStatus.FORBIDDEN, CLIENT_TOKEN_TAKEN_TEXT)

    def _note_use(self, access: _Access, client_digest: str | None) -> None:
        side = access.tunnel, access.mode
        ends_former = side in self._former and self._sides[side] is access
        if ends_former:
            self._drop(self._former, *side)
        if access.used and not ends_former:
            return
        access.used = True
        access.client_digest = client_digest
        if client_digest is not None:
            self._client_tokens[client_digest] = access.tunnel
        self._changed(access.tunnel)

    # the tables

    def _issue(self, name: str, mode: Mode) -> None:
        token = secrets.token_hex(TOKEN_ENTROPY_BYTES)
        self._put(self._sides, _Access(name, mode, token_digest(token), token))

    def _revoke(self, name: str, mode: Mode) -> None:
        self._drop(self._sides, name, mode)
        self._drop(self._former, name, mode)

    def _put(self, sides: dict[tuple[str, Mode], _Access], access: _Access) -> None:
        sides[access.tunnel, access.mode] = self._by_digest[access.digest] = access

    def _drop(self, sides: dict[tuple[str, Mode], _Access], name: str, mode: Mode) -> None:
        access = sides.pop((name, mode), None)
        if access is None:
            return
        del self._by_digest[access.digest]
        others = {
            each.client_digest
            for table in (self._sides, self._former)
            for every in Mode
            if (each := table.get((name, every))) is not None
        }
        if access.client_digest is not None and access.client_digest not in others:
            self._client_tokens.pop(access.client_digest, None)


def check_names(name: str, services: Sequence[str]) -> None:
    """Raise ConfigError if a tunnel cannot have this name or these services."""
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
