"""The tunnels that the admin API wants: created, replaced, deleted, given other tokens.

Owns the entries that clients have sent, and the order of the steps: check, keep in the store, tell
FleetActor. Its methods wait, and are called one at a time. Entries of files win; the API
changes none of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
from typing import TYPE_CHECKING, Any, Protocol

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.config import Authorities, ConfigProblems, read_tunnel
from tunnelfleet.runtime.gateway.config.loader import MAX_TUNNELS
from tunnelfleet.runtime.gateway.gateway import FILES
from tunnelfleet.runtime.gateway.messages import (
    PutWanted,
    RemoveWanted,
    ReplaceTunnelToken,
    SetWanted,
    UnknownTunnel,
)

from .problem import ApiProblem, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunnelfleet.runtime.gateway.gateway import Gateway
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

    from .requests import Condition

__all__ = ["API", "ApiWishes", "Keeper", "keeper_of"]

API = "api"
"""The source of these wishes."""
PLACE = "request"
"""Where such an entry stands, in messages."""
TOKEN_KEYS = ("access_token", "client_token")
KEY_BYTES = 32
TAG_CHARACTERS = 32

logger = logging.getLogger(__name__)


class Keeper(Protocol):
    """What the API needs of a gateway's store. All of it waits, and may raise a `TunnelError`."""

    def save_tunnel(self, name: str, entry: Mapping[str, Any]) -> None:
        """Keep the entry of a tunnel, over restarts."""

    def forget_tunnel(self, name: str) -> None:
        """Forget it."""

    def load_tunnels(self) -> Mapping[str, Mapping[str, Any]]:
        """All that are kept, by name."""


def keeper_of(gateway: Gateway) -> Any:
    """The gateway's store, or None."""
    return getattr(gateway, "store", None)


class ApiWishes:
    """What clients of the admin API want.

    Args:
        gateway: is told.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._authorities = Authorities()
        self._entries: dict[str, dict[str, Any]] = {}
        self._key = os.urandom(KEY_BYTES)

    def restore(self) -> None:
        """Want again what was wanted before the process ended, as far as the store has it.

        Raises:
            TunnelError: the store or the fleet does not answer.
        """
        keeper = keeper_of(self._gateway)
        if keeper is None:
            return
        tunnels: dict[str, WantedTunnel] = {}
        for name, entry in keeper.load_tunnels().items():
            try:
                tunnels[name] = self._read(dict(entry))
            except ConfigProblems as error:
                logger.error(
                    "it was added through the admin API and cannot run any more: %s",
                    error,
                    extra={"tunnel": name},
                )
            else:
                self._entries[name] = dict(entry)
        if tunnels:
            self._gateway.ask(SetWanted(API, tunnels))

    def tag(self, name: str) -> str | None:
        """What changes when the entry of a tunnel does, its tokens included; None without one."""
        wish = self._gateway.state.wish(name)
        if wish is None:
            return None
        proxy = wish.http_proxy
        secrets = [wish.access_token, wish.client_token or ""]
        secrets += [] if proxy is None else [proxy.username, proxy.password]
        text = "\0".join([repr(wish), *secrets])
        # Keyed, so that it tells nothing about a token.
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:TAG_CHARACTERS]

    def create(self, entry: dict[str, Any]) -> str:
        """Want a tunnel that is not there; returns its name.

        Raises:
            ApiProblem: there is one of this name.
            ConfigProblems: the entry has mistakes.
            TunnelError: the store or the fleet does not answer.
        """
        name = str(entry.get("name"))
        source = self._gateway.state.source_of(name)
        if source:
            raise ApiProblem(
                Kind.EXISTS,
                "choose another name, or replace the tunnel with PUT"
                if source == API
                else f"choose another name: the tunnel comes from {self._origin(name)}",
            )
        wish = self._read(entry)
        self._put(wish, entry)
        return wish.name

    def put(self, name: str, entry: dict[str, Any], condition: Condition) -> bool:
        """Want a tunnel, in place of one of this name; returns whether there was none.

        An entry without an access token keeps the tokens that the tunnel has.

        Raises:
            ApiProblem: the condition does not hold, or the tunnel comes from elsewhere.
            ConfigProblems: the entry has mistakes.
            TunnelError: the store or the fleet does not answer.
        """
        if entry.setdefault("name", name) != name:
            raise ApiProblem(Kind.WRONG_ENTRY, "the name in the body is not the one in the path")
        condition.check(self.tag(name))
        is_new = not self._is_ours(name)
        before = self._entries.get(name, {})
        if "access_token" not in entry and "access_token" in before:
            kept = {key: before[key] for key in TOKEN_KEYS if key in before}
            entry = {**kept, **entry}
        self._put(self._read(entry), entry)
        return is_new

    def delete(self, name: str, condition: Condition) -> None:
        """Want a tunnel no more.

        Raises:
            UnknownTunnel: there is none.
            ApiProblem: the condition does not hold, or the tunnel comes from elsewhere.
            TunnelError: the store or the fleet does not answer.
        """
        if not self._is_ours(name):
            raise UnknownTunnel(name)
        condition.check(self.tag(name))
        keeper = keeper_of(self._gateway)
        if keeper is not None:
            keeper.forget_tunnel(name)
        self._gateway.ask(RemoveWanted(API, name))
        self._entries.pop(name, None)

    def replace_token(self, name: str, access_token: str, client_token: str | None) -> None:
        """Give a tunnel another token; it connects at once.

        For a tunnel of the files it counts until their token changes, or the process ends.

        Raises:
            UnknownTunnel: there is none.
            ConfigError: a token is malformed.
            TunnelError: the store or the fleet does not answer.
        """
        if self._gateway.state.source_of(name) != API:
            self._gateway.ask(ReplaceTunnelToken(name, access_token, client_token))
            return
        entry = {k: v for k, v in self._entries[name].items() if k not in TOKEN_KEYS}
        entry["access_token"] = access_token
        if client_token is not None:
            entry["client_token"] = client_token
        self._put(self._read(entry), entry)

    def _is_ours(self, name: str) -> bool:
        """Whether the API wants it; an error if somebody else does."""
        source = self._gateway.state.source_of(name)
        if source not in ("", API):
            raise ApiProblem(
                Kind.NOT_OURS,
                f"it comes from {self._origin(name)}; change it there, and reload",
            )
        return source == API

    def _origin(self, name: str) -> str:
        state = self._gateway.state
        wish, source = state.wish(name), state.source_of(name)
        if source != FILES:
            return source
        return f"the files ({wish.place})" if wish is not None and wish.place else "the files"

    def _read(self, entry: dict[str, Any]) -> WantedTunnel:
        return read_tunnel(entry, self._authorities, place=PLACE)

    def _put(self, wish: WantedTunnel, entry: dict[str, Any]) -> None:
        name = wish.name
        if name not in self._entries and len(self._gateway.state.names()) >= MAX_TUNNELS:
            raise ApiProblem(Kind.FULL, f"a fleet has at most {MAX_TUNNELS} tunnels")
        # Through JSON: what is kept is what was sent, whatever happens to the object.
        entry = json.loads(json.dumps(entry))
        keeper = keeper_of(self._gateway)
        if keeper is not None:
            keeper.save_tunnel(name, entry)
        try:
            self._gateway.ask(PutWanted(API, wish))
        except TunnelError:
            # The client is told that nothing has changed: so it must be.
            if keeper is not None:
                self._take_back(keeper, name)
            raise
        self._entries[name] = entry

    def _take_back(self, keeper: Keeper, name: str) -> None:
        with contextlib.suppress(TunnelError):
            if name in self._entries:
                keeper.save_tunnel(name, self._entries[name])
            else:
                keeper.forget_tunnel(name)
