"""What the routes of the admin API work with, kept in their application.

A handler gets the parts with `parts(request)`. `Work` has the threads for what waits (for actors,
files, the store), with a limit on how much may wait; `ApiWishes` the tunnels that the API wants:
checked, kept in the store, told to FleetActor, in this order and one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aiohttp import web

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.admin import Readiness
from tunnelfleet.runtime.gateway.config import Authorities, read_tunnel
from tunnelfleet.runtime.gateway.config.entry import entry_of
from tunnelfleet.runtime.gateway.config.loader import MAX_TUNNELS
from tunnelfleet.runtime.gateway.gateway import Gateway
from tunnelfleet.runtime.gateway.messages import (
    FILES,
    PutWanted,
    RemoveWanted,
    ReplaceTunnelToken,
    UnknownTunnel,
)
from tunnelfleet.runtime.gateway.supervisor import NOTIFY
from tunnelfleet.runtime.gateway.wanted import WantedTunnel

from .feed import EventFeed, EventReaders
from .operations import ApiProblem, ProblemKind

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.store import TunnelChange

    from .requests import Condition


class Keeper(Protocol):
    """What the API needs of a gateway's store. All of it waits, and may raise a `TunnelError`."""

    def save_tunnel(self, name: str, entry: Mapping[str, Any]) -> TunnelChange:
        """Keep the entry of a tunnel, over restarts."""

    def forget_tunnel(self, name: str) -> TunnelChange:
        """Forget it, if it is there."""

    def take_back(self, change: TunnelChange) -> bool:
        """Undo one of these, and return True, unless somebody has changed the tunnel since."""


API = "api"
"""The source of these wishes."""
PLACE = "request"
"""Where such an entry stands, in messages."""
TOKEN_KEYS = ("access_token", "client_token")
KEY_BYTES = 32
TAG_CHARACTERS = 32


class ApiWishes:
    """What clients of the admin API want.

    Args:
        gateway: is told.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._keeper: Keeper | None = gateway.store
        self._authorities = Authorities()
        self._key = os.urandom(KEY_BYTES)

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
        digest = hmac.new(self._key, text.encode(errors="surrogatepass"), hashlib.sha256)
        return digest.hexdigest()[:TAG_CHARACTERS]

    def create(self, entry: dict[str, Any]) -> str:
        """Want a tunnel that is not there; returns its name.

        Raises:
            ApiProblem: there is one of this name, or the store does not take it.
            ConfigProblems: the entry has mistakes.
            TunnelError: the fleet does not answer.
        """
        name = entry.get("name")
        source = self._gateway.state.source_of(name) if isinstance(name, str) else ""
        if isinstance(name, str) and source:
            raise ApiProblem(
                ProblemKind.EXISTS,
                "it was added before: choose another name, or replace it (PUT, or `add --replace`)"
                if source == API
                else f"it comes from {self._origin(name)}: choose another name, or change it there",
            )
        if isinstance(name, str) and self._elsewhere(name) is not None:
            raise ApiProblem(
                ProblemKind.EXISTS,
                "it was added at another gateway of the fleet: choose another name, or replace it "
                "(PUT, or `add --replace`)",
            )
        wish = self._read(entry)
        self._put(wish, entry)
        return wish.name

    def put(self, name: str, entry: dict[str, Any], condition: Condition) -> bool:
        """Want a tunnel, in place of one of this name; returns whether there was none.

        An entry without an access token keeps the tokens that the tunnel has.

        Raises:
            ApiProblem: the condition does not hold, the tunnel comes from elsewhere, or the store
                does not take it.
            ConfigProblems: the entry has mistakes.
            TunnelError: the fleet does not answer.
        """
        if entry.setdefault("name", name) != name:
            raise ApiProblem(
                ProblemKind.WRONG_ENTRY, "the name in the body is not the one in the path"
            )
        before = self._present(name)
        if before is not None and "access_token" not in entry:
            kept = entry_of(before)
            entry = {**{key: kept[key] for key in TOKEN_KEYS if key in kept}, **entry}
        wish = self._read(entry)
        # Last: a condition is about a request that would be carried out, RFC 9110 section 13.2.1.
        condition.check(self.tag(name))
        self._put(wish, entry)
        return before is None

    def delete(self, name: str, condition: Condition) -> None:
        """Want a tunnel no more.

        Raises:
            UnknownTunnel: there is none.
            ApiProblem: the condition does not hold, the tunnel comes from elsewhere, or the store
                does not let go of it.
            TunnelError: the fleet does not answer.
        """
        wish = self._present(name)
        if wish is None:
            raise UnknownTunnel(name)
        condition.check(self.tag(name))
        change = self._forget(name)
        try:
            self._ask(name, RemoveWanted(API, name))
        except UnknownTunnel:
            # The store tells all gateways of a fleet, this one too: the one that runs the tunnel
            # may have heard already.
            if change is None or not change.was_there:
                raise
        except TunnelError:
            # The client is told that nothing has changed: so it must be.
            self._take_back(change)
            raise

    def replace_token(self, name: str, access_token: str, client_token: str | None) -> None:
        """Give a tunnel another token; it connects at once.

        For a tunnel of the files it counts until their token changes, or the process ends.

        Raises:
            UnknownTunnel: there is none.
            ConfigError: a token is malformed.
            ApiProblem: the store does not take it.
            TunnelError: the fleet does not answer.
        """
        state = self._gateway.state
        wish = state.wish(name) or self._elsewhere(name)
        if wish is None or state.source_of(name) not in ("", API):
            self._gateway.ask(ReplaceTunnelToken(name, access_token, client_token))
            return
        entry = {key: v for key, v in entry_of(wish).items() if key not in TOKEN_KEYS}
        entry["access_token"] = access_token
        if client_token is not None:
            entry["client_token"] = client_token
        self._put(self._read(entry), entry)

    def _present(self, name: str) -> WantedTunnel | None:
        """Return what the API wants under a name.

        Raises:
            ApiProblem: somebody else wants it.
        """
        state = self._gateway.state
        source = state.source_of(name)
        if source not in ("", API):
            advice = "change it there, and reload"
            if source == NOTIFY:
                advice = "close it at the service, or drain it"
            raise ApiProblem(ProblemKind.NOT_OURS, f"it comes from {self._origin(name)}; {advice}")
        return state.wish(name) or self._elsewhere(name)

    def _elsewhere(self, name: str) -> WantedTunnel | None:
        """A tunnel that was added at another gateway of the same fleet.

        Raises:
            ApiProblem: nobody knows, for the store does not answer.
        """
        store = self._gateway.store
        if self._gateway.state.source_of(name) or not getattr(store, "is_shared", False):
            return None
        try:
            assert store is not None
            return store.find_tunnel(name)
        except TunnelError as error:
            raise ApiProblem(ProblemKind.STORE_FAILED, f"nothing was changed: {error}") from None

    def _origin(self, name: str) -> str:
        state = self._gateway.state
        wish, source = state.wish(name), state.source_of(name)
        if source == NOTIFY:
            return "a notification to its device"
        if source != FILES:
            return source
        return f"the files ({wish.place})" if wish is not None and wish.place else "the files"

    def _read(self, entry: dict[str, Any]) -> WantedTunnel:
        return read_tunnel(entry, self._authorities, place=PLACE)

    def _put(self, wish: WantedTunnel, entry: Mapping[str, Any]) -> None:
        name, state = wish.name, self._gateway.state
        if name not in state.sources.get(API, {}) and len(state.names()) >= MAX_TUNNELS:
            raise ApiProblem(ProblemKind.FULL, f"a fleet has at most {MAX_TUNNELS} tunnels")
        change = self._save(name, entry)
        try:
            self._ask(name, PutWanted(API, wish))
        except TunnelError:
            self._take_back(change)
            raise

    def _ask(self, name: str, message: PutWanted | RemoveWanted) -> None:
        try:
            self._gateway.ask(message)
        finally:
            # Another gateway of the fleet may have changed the store since, and its change may have
            # been heard before this message.
            self._gateway.look_again(name)

    # -- the store

    def _save(self, name: str, entry: Mapping[str, Any]) -> TunnelChange | None:
        if self._keeper is None:
            return None
        try:
            return self._keeper.save_tunnel(name, entry)
        except TunnelError as error:
            raise ApiProblem(ProblemKind.STORE_FAILED, f"nothing was changed: {error}") from None

    def _forget(self, name: str) -> TunnelChange | None:
        if self._keeper is None:
            return None
        try:
            return self._keeper.forget_tunnel(name)
        except TunnelError as error:
            raise ApiProblem(ProblemKind.STORE_FAILED, f"nothing was changed: {error}") from None

    def _take_back(self, change: TunnelChange | None) -> None:
        """Have the store as it was. What another gateway has written since is newer, and stays."""
        if self._keeper is not None and change is not None:
            with contextlib.suppress(TunnelError):
                self._keeper.take_back(change)


T = TypeVar("T")


class Work:
    """Runs functions that may block, on threads of their own.

    Args:
        name: of the threads.
        threads: at most so many at once; with one, they run one after another.
        max_waiting: more requests than that at once are refused.
    """

    def __init__(self, name: str, threads: int, max_waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._max_waiting = max_waiting
        self._guard = threading.Lock()
        self._waiting = 0

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call the function on a thread and wait for it.

        Raises:
            ApiProblem: too much waits already, or the end has come.
            Exception: what the function raised.
        """
        with self._guard:
            if self._waiting >= self._max_waiting:
                raise ApiProblem(ProblemKind.BUSY, "too many requests wait already; ask again")
            self._waiting += 1
        try:
            future = self._executor.submit(function, *args)
        except RuntimeError:
            self._is_done()
            raise ApiProblem(ProblemKind.UNAVAILABLE, "the admin API is being stopped") from None
        future.add_done_callback(self._is_done)
        return await asyncio.wrap_future(future)

    def _is_done(self, _future: Future[Any] | None = None) -> None:
        with self._guard:
            self._waiting -= 1

    def stop(self) -> None:
        """Start nothing more. What runs has limits of its own, and is not waited for."""
        with self._guard:
            is_idle = self._waiting == 0
        self._executor.shutdown(wait=is_idle, cancel_futures=True)


QUESTION_THREADS = 4
MAX_QUESTIONS = 64
MAX_CHANGES = 64
MAX_RELOADS = 8
MAX_SURVEYS = 8
READY_FRACTION = 0.9
READY_HYSTERESIS = 0.1
"""As `/readyz` judges."""


@dataclass(slots=True)
class ApiPlaces:
    """Where the gateway's other doors are, for whoever asks.

    Attributes:
        door: the front door's address, or None.
        connect: the path of the private door of `tunnelfleet connect`, or None.
        metrics: the URL of the metrics and of the status page, without a path, or None.
    """

    door: str | None = None
    connect: str | None = None
    metrics: str | None = None


@dataclass(slots=True)
class ApiParts:
    """What the routes work with.

    Attributes:
        gateway: that is administered.
        places: where its doors and its pages are.
        wishes: the tunnels that the API wants; for `changes` alone.
        questions: runs what only looks.
        changes: runs what changes tunnels, one after another.
        reloads: runs what reads the files, one after another.
        surveys: runs what asks other gateways, one after another.
        readiness: judges the fleet; for `questions`.
        feed: keeps the events, or None.
        readers: of the events.
    """

    gateway: Gateway
    places: ApiPlaces
    wishes: ApiWishes
    questions: Work
    changes: Work
    reloads: Work
    surveys: Work
    readiness: Readiness
    feed: EventFeed | None = None
    readers: EventReaders = field(default_factory=EventReaders)

    @classmethod
    def of(cls, gateway: Gateway, places: ApiPlaces, feed: EventFeed | None) -> ApiParts:
        """Make the parts for a gateway."""
        return cls(
            gateway,
            places,
            ApiWishes(gateway),
            Work("tunnelfleet-api-look", QUESTION_THREADS, MAX_QUESTIONS),
            Work("tunnelfleet-api-change", 1, MAX_CHANGES),
            Work("tunnelfleet-api-reload", 1, MAX_RELOADS),
            Work("tunnelfleet-api-fleet", 1, MAX_SURVEYS),
            Readiness(READY_FRACTION, READY_HYSTERESIS),
            feed,
        )

    def stop(self) -> None:
        """Start nothing more."""
        self.questions.stop()
        self.changes.stop()
        self.reloads.stop()
        self.surveys.stop()


PARTS = web.AppKey("tunnelfleet-api", ApiParts)


def parts(request: web.Request) -> ApiParts:
    """Return the parts of the application that a request came to."""
    return request.app[PARTS]
