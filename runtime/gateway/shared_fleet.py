"""A gateway's part in a fleet that is shared by leases: the engine, and the tunnels of its shards.

Owns the thread that keeps the tunnels that were added at run time as the store has them: those of
the shards that are ours, when shards come and go, and when another gateway changes one. Changes
are numbered: one that was missed is noticed by the next, or by a heartbeat, and all are read again.
What the API of this gateway changes it tells the fleet at once, and has it looked at here again: so
the last that the fleet hears of a tunnel was read after all that came before it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from tunnelfleet.proto import TunnelError

from .messages import PutWanted, RemoveWanted, SetWantedInShards, UnknownTunnel

if TYPE_CHECKING:
    from collections.abc import Callable

    from .fleet_state import FleetState
    from .store import Store


API = "api"
"""The source of the tunnels that are added at run time."""
RETRY_SECONDS = 2.0
"""After the store, or the fleet, did not answer."""
MAX_NAMES = 1_000
"""Tunnels that wait to be looked at; with more all are read."""
CLOSE_SECONDS = 5.0

logger = logging.getLogger(__name__)


class SharedTunnels:
    """Keeps the tunnels that were added at run time.

    Args:
        store: has them.
        state: of the fleet; to be read only.
        ask: asks FleetActor.
    """

    def __init__(self, store: Store, state: FleetState, ask: Callable[[Any], object]) -> None:
        self._store = store
        self._state = state
        self._ask = ask
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._owned: set[int] = set()
        self._to_load: set[int] = set()
        self._to_forget: set[int] = set()
        self._names: dict[str, None] = {}
        self._version = -1
        """The last change that is known, or about to be looked at."""
        self._beat_version = -1
        self._thread = threading.Thread(target=self._run, name="tunnelfleet-shared", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End it. Safe to call twice."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)

    # -- what the engine tells, on its thread

    def tunnels_are_at(self, version: int) -> None:
        """A heartbeat was answered: there were so many changes of tunnels so far."""
        with self._changed:
            # What the heartbeat before has told of should have been heard of by now.
            if self._version < self._beat_version:
                self._read_all(self._beat_version)
            self._beat_version = version
            if self._version < 0:
                self._version = version

    def tunnel_changed(self, version: int, name: str) -> None:
        """The change of this number was of this tunnel."""
        with self._changed:
            if version <= self._version:
                # Read already, perhaps before this change was: once more is harmless.
                self._look_at(name)
            elif version == self._version + 1:
                self._version = version
                self._look_at(name)
            else:
                self._read_all(version)

    def look_again(self, name: str) -> None:
        """This gateway's API has changed a tunnel, and has told the fleet.

        What it told may be older than what another gateway has written meanwhile, and be heard
        after that. So the store is asked once more: what is told last was read last.
        """
        with self._changed:
            self._look_at(name)

    def shards_assigned(self, shards: frozenset[int]) -> None:
        """These shards are this gateway's."""
        with self._changed:
            self._owned |= shards
            self._to_load |= shards
            self._to_forget -= shards
            self._changed.notify_all()

    def shards_gone(self, shards: frozenset[int]) -> None:
        """Nothing of these shards, which were revoked, runs here any more."""
        with self._changed:
            gone = self._owned & shards
            gone -= self._state.shards
            self._owned -= gone
            self._to_load -= gone
            self._to_forget |= gone
            self._changed.notify_all()

    def _look_at(self, name: str) -> None:
        if len(self._names) >= MAX_NAMES:
            self._read_all(self._version)
            return
        self._names[name] = None
        self._changed.notify_all()

    def _read_all(self, version: int) -> None:
        self._version = max(version, self._version)
        self._names.clear()
        self._to_load |= self._owned
        self._changed.notify_all()

    # -- the thread

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(self._has_work)
                to_load, self._to_load = frozenset(self._to_load), set()
                to_forget, self._to_forget = frozenset(self._to_forget), set()
                names, self._names = list(self._names), {}
            try:
                self._work(to_load, to_forget, names)
            except Exception as error:
                if not isinstance(error, TunnelError):
                    # A mistake of ours must not end what all later tunnels depend on.
                    logger.exception("shared tunnels cannot be taken over")
                elif not self._stop.is_set():
                    logger.warning("shared tunnels cannot be taken over yet: %s", error)
                with self._changed:
                    self._to_load |= to_load & self._owned
                    self._to_forget |= to_forget - self._owned
                    self._names |= dict.fromkeys(names)
                self._stop.wait(RETRY_SECONDS)

    def _has_work(self) -> bool:
        has_work = self._to_load or self._to_forget or self._names
        return self._stop.is_set() or bool(has_work)

    def _work(self, to_load: frozenset[int], to_forget: frozenset[int], names: list[str]) -> None:
        if to_load:
            tunnels = self._store.load_shards(to_load, self._state.shard_count)
            self._ask(SetWantedInShards(API, to_load, tunnels))
        if to_forget:
            self._ask(SetWantedInShards(API, to_forget, {}))
        for name in names:
            self._refresh(name)

    def _refresh(self, name: str) -> None:
        with self._changed:
            is_ours = self._state.shard_of(name) in self._owned
        if not is_ours and name not in self._state.sources.get(API, {}):
            return
        wish = self._store.find_tunnel(name)
        if wish is not None:
            self._ask(PutWanted(API, wish))
            return
        with contextlib.suppress(UnknownTunnel):
            self._ask(RemoveWanted(API, name))
