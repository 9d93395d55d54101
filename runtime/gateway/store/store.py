"""What of a gateway survives a restart, as the gateway and its API hold it.

`Store` owns one database, the tunnels that were added at run time, and the audit with its thread.
What it is asked blocks, for threads that may wait; what it is told of connections never does. When
the state cannot be reached at the start, the tunnels of the files run anyway: it is tried again,
and nothing is written before what is in it was read. `StoreActor` is the store among the gateway's
actors: it takes the tunnels' events to the audit, and waits for no database.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from prometheus_client import Metric
from pykka import ActorRef

from tunnelfleet.actors.kernel import DispatchedActor
from tunnelfleet.proto import ConfigError, TunnelClosed, TunnelError, counted
from tunnelfleet.runtime import TunnelEvent, TunnelRuntime
from tunnelfleet.runtime.gateway.config import Authorities, GatewaySettings, ensure_secret
from tunnelfleet.runtime.gateway.config.fleet import POSTGRES
from tunnelfleet.runtime.gateway.devices import DeviceTunnel
from tunnelfleet.runtime.gateway.messages import RuntimeStarted
from tunnelfleet.runtime.gateway.wanted import WantedTunnel

from .audit import AUDITED_EVENTS, AuditBook, AuditBounds, AuditQuery, AuditTable
from .database import Database
from .demands import DemandTable
from .errors import StoreError, Trouble, make_error
from .migrations import check_rights, migrate
from .sealing import Sealer
from .tunnels import SHARED, DeviceTable, TunnelChange, TunnelTable
from .writer import AuditWriter, StoreCounters, store_metrics

if TYPE_CHECKING:
    from .demands import LeftDemand, StoredDemand
    from .tunnels import StoredTunnels

logger = logging.getLogger(__name__)


class TakesEvents(Protocol):
    """What this actor asks of a store."""

    def note(self, event: Any) -> None:
        """Write an event to the audit. Never waits."""


class StoreActor(DispatchedActor):
    """Takes the tunnels' events to the audit.

    Args:
        store: outlives it.
        runtime: whose events, or did before another took its place.
    """

    def __init__(self, store: TakesEvents, runtime: TunnelRuntime) -> None:
        super().__init__()
        self._store = store
        self._runtime = runtime

    def on_start(self) -> None:
        """Subscribe to the events, if the core runs already."""
        self._subscribe()

    def on_receive(self, message: Any) -> Any:
        """Write an event to the audit; when a runtime starts, subscribe to its events."""
        if isinstance(message, AUDITED_EVENTS):
            self._store.note(message)
        elif isinstance(message, RuntimeStarted):
            self._subscribe()
        else:
            return super().on_receive(message)
        return None

    def _subscribe(self) -> None:
        try:
            self._runtime.present.subscribe(self.actor_ref, kinds=AUDITED_EVENTS)
        except TunnelClosed:
            # It is started after this actor, so that the last ends are heard: then comes a message.
            return


T = TypeVar("T")

DEFAULT_AUDIT_DAYS = 90.0
DEFAULT_AUDIT_ROWS = 200_000
FLUSH_SECONDS = 2.0
"""How long a question about the audit waits for what is on its way into it."""


class _Reach(Enum):
    """How far a store has come."""

    CLOSED = "closed"
    """The store was not opened, or is closed."""
    WAITING = "waiting"
    """The database could not be reached; the store tries again."""
    READY = "ready"
    """What was in it has been read; it can be changed."""


class Store:
    """The state of one gateway.

    Args:
        url: of the database, as in the key `state`.
        gateway: whose state it is; others may be in the same database.
        secret: of the deployment; what seals tokens is derived from it.
        audit_days: how long records are kept.
        audit_rows: how many are kept; 0 for no audit.
        is_shared: whether the tunnels are those of all gateways that share the fleet; then they are
            loaded by shards.

    Raises:
        ConfigError: the URL names no database that can be used here.
    """

    def __init__(
        self,
        url: str,
        *,
        gateway: str,
        secret: bytes,
        audit_days: float = DEFAULT_AUDIT_DAYS,
        audit_rows: int = DEFAULT_AUDIT_ROWS,
        is_shared: bool = False,
    ) -> None:
        self._database = Database(url)
        self._bounds = AuditBounds(audit_days, audit_rows)
        self.is_shared = is_shared
        owner = SHARED if is_shared else gateway
        sealer = Sealer(secret, owner)
        self.key_id = sealer.key_id
        """Names the secret of the deployment, and tells nothing of it."""
        self._tunnels = TunnelTable(self._database, owner, sealer, Authorities())
        own = Sealer(secret, gateway)
        self._devices = DeviceTable(self._database, gateway, own)
        self._demands = DemandTable(self._database, gateway, own, Authorities())
        self._audit = AuditTable(self._database, gateway, secrets.token_hex(8))
        self._book = AuditBook()
        self._book_lock = threading.Lock()
        self._writer = AuditWriter(self._begin, self._audit.write, self._keep_up)
        self._counters = StoreCounters()
        self._phase = _Reach.CLOSED
        self._cause = "it was not opened"
        self._on_late: Callable[[dict[str, WantedTunnel]], None] = lambda _tunnels: None
        self.problems: dict[str, str] = {}
        """Why a stored tunnel cannot be used, by name."""

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """Make the store that the settings of a gateway name.

        Raises:
            ConfigError: the URL cannot be used, or there is no secret.
        """
        secret, _warning = ensure_secret(settings.client_token_secret_file, settings.state_folder)
        return cls(
            settings.state,
            gateway=settings.name,
            secret=secret,
            audit_days=settings.audit_days,
            audit_rows=settings.audit_rows,
            is_shared=settings.placement == POSTGRES,
        )

    @property
    def where(self) -> str:
        """The URL of the database, for people."""
        return self._database.where

    @property
    def is_ready(self) -> bool:
        """Whether the database was reached and read."""
        return self._phase is _Reach.READY

    # -- start and end

    def open(self, on_late: Callable[[dict[str, WantedTunnel]], None] | None = None) -> None:
        """Reach the database, bring it to the version of this program, and start the thread.

        Args:
            on_late: called on the store's thread with the stored tunnels, once it is reached, if it
                cannot be now. Otherwise `load_tunnels` has them.

        Raises:
            ConfigError: somebody has to change something first: nothing was started.
        """
        if on_late is not None:
            self._on_late = on_late
        warning = self._database.prepare()
        if warning:
            logger.warning("%s", warning)
        try:
            self._reach()
        except StoreError as error:
            if not error.trouble.may_pass:
                self._database.close()
                raise ConfigError(str(error)) from None
            self._phase, self._cause = _Reach.WAITING, str(error)
            logger.error("%s (the gateway goes on without it, and tries again)", error)
        else:
            self._phase = _Reach.READY
        self._writer.start(is_down=not self.is_ready)

    def _reach(self) -> None:
        try:
            applied = migrate(self._database)
            check_rights(self._database)
        except StoreError:
            self._counters.failed("open")
            raise
        for migration in applied:
            logger.info("the state at %s has now: %s", self.where, migration.title)

    def close(self) -> None:
        """Write what waits, and let go of the database. Safe to call twice."""
        if self._phase is _Reach.CLOSED:
            return
        self._phase, self._cause = _Reach.CLOSED, "the gateway has ended"
        self._writer.close()
        self._database.close()

    def start_actor(self, runtime: TunnelRuntime) -> ActorRef[Any]:
        """Start what takes the events of a runtime down; called again after it has failed."""
        return StoreActor.start(self, runtime)

    # -- tunnels

    def load_tunnels(self) -> dict[str, WantedTunnel]:
        """Return the tunnels that were added at run time; none while the state cannot be reached.

        One that cannot be used is left out; the log and `problems` say why.

        Raises:
            StoreError: they cannot be read.
        """
        if self._phase is not _Reach.READY:
            return {}
        return {} if self.is_shared else self._load()

    def load_shards(self, shards: frozenset[int], count: int) -> dict[str, WantedTunnel]:
        """The shared tunnels in some shards, of so many.

        Raises:
            StoreError: they cannot be read.
        """
        self._require_ready()
        found = self._counted("tunnels", lambda: self._tunnels.load_shards(shards, count))
        _log_loaded(found, self.where)
        return found.tunnels

    def find_tunnel(self, name: str) -> WantedTunnel | None:
        """The tunnel of that name that was added at run time, if there is one.

        Raises:
            StoreError: it cannot be read.
            TunnelError: it cannot be used; the text says why.
        """
        self._require_ready()
        return self._counted("tunnels", lambda: self._tunnels.find(name))

    def names_among(self, names: Sequence[str]) -> frozenset[str]:
        """Those of some names that a tunnel has which was added at run time.

        Raises:
            StoreError: it cannot be told.
        """
        self._require_ready()
        return self._counted("tunnels", lambda: self._tunnels.names_among(names))

    def list_shards(
        self, shards: frozenset[int], count: int, limit: int, after: str = ""
    ) -> list[tuple[str, str]]:
        """The names and entries, as JSON without what is secret, of the shared tunnels in shards.

        They are sorted by name; at most `limit` of those behind `after`.

        Raises:
            StoreError: they cannot be read.
        """
        self._require_ready()
        return self._counted(
            "tunnels", lambda: self._tunnels.list_shards(shards, count, limit, after)
        )

    def _load(self) -> dict[str, WantedTunnel]:
        found = self._counted("tunnels", self._tunnels.load)
        self.problems = found.problems
        _log_loaded(found, self.where)
        return found.tunnels

    def save_tunnel(self, name: str, entry: Mapping[str, Any]) -> TunnelChange:
        """Save a tunnel, in place of an earlier entry of it; its tokens are sealed.

        Args:
            name: of the tunnel.
            entry: the keys of its `[[tunnel]]`, which were checked.

        Raises:
            StoreError: it is not kept; the text says why.
        """
        self._require_ready()
        change = self._counted("tunnels", lambda: self._tunnels.save(name, entry))
        self.problems.pop(name, None)
        return change

    def forget_tunnel(self, name: str) -> TunnelChange:
        """Delete a tunnel, if there is one.

        Raises:
            StoreError: it is still kept.
        """
        self._require_ready()
        change = self._counted("tunnels", lambda: self._tunnels.forget(name))
        self.problems.pop(name, None)
        return change

    def take_back(self, change: TunnelChange) -> bool:
        """Undo one of these two, and return True, unless the tunnel was changed since.

        Raises:
            StoreError: it may be as it was changed.
        """
        self._require_ready()
        return self._counted("tunnels", lambda: self._tunnels.take_back(change))

    # -- tunnels that devices were told of

    def load_devices(self) -> list[DeviceTunnel]:
        """The tunnels that devices were told of; one that cannot be used is told and left out.

        Raises:
            StoreError: they cannot be read.
        """
        self._require_ready()
        found, problems = self._counted("devices", self._devices.load)
        for name, problem in problems.items():
            logger.error("left out of the state: %s", problem, extra={"tunnel": name})
        return found

    def save_device(self, tunnel: DeviceTunnel) -> None:
        """Keep a tunnel that a device was told of: its token is sealed.

        Raises:
            StoreError: it is not kept; the text says why.
        """
        self._require_ready()
        self._counted("devices", lambda: self._devices.save(tunnel))

    def forget_devices(self, token_hashes: Sequence[str]) -> None:
        """Keep these no more.

        Raises:
            StoreError: they are still kept.
        """
        self._require_ready()
        self._counted("devices", lambda: self._devices.forget(token_hashes))

    def _require_ready(self) -> None:
        if self._phase is not _Reach.READY:
            raise make_error(Trouble.NOT_READ, self.where, self._cause)

    def _counted(self, operation: str, do: Callable[[], T]) -> T:
        try:
            return do()
        except StoreError:
            self._counters.failed(operation)
            raise

    # -- tunnels on demand; as above, all of it waits and may raise a StoreError

    def begin_demand(self, demand: StoredDemand) -> None:
        """Note that OpenTunnel is about to be called for a tunnel on demand."""
        self._require_ready()
        self._counted("demands", lambda: self._demands.begin(demand))

    def keep_demand(
        self, request: str, tunnel_id: str, ends_at: float, tunnel: WantedTunnel
    ) -> None:
        """Keep the tunnel that was opened: its tokens are sealed."""
        self._require_ready()
        self._counted("demands", lambda: self._demands.opened(request, tunnel_id, ends_at, tunnel))

    def end_demand(self, request: str) -> None:
        """It is closed, or was not opened."""
        self._require_ready()
        self._counted("demands", lambda: self._demands.over(request, time.time()))

    def load_demands(self) -> list[StoredDemand]:
        """What an earlier run has left open, and what it has opened lately; the newest first."""
        self._require_ready()
        return self._counted("demands", self._demands.load)

    def left_demands(self) -> list[LeftDemand]:
        """What other gateways of the fleet have open, whose lease is over; else none."""
        self._require_ready()
        return self._counted("demands", self._demands.left) if self.is_shared else []

    def take_demands(self, requests: Collection[str]) -> list[StoredDemand]:
        """Make some of these this gateway's own; returns those that it has got."""
        self._require_ready()
        return self._counted("demands", lambda: self._demands.take_over(requests))

    def is_demand_taken(self, request: str) -> bool:
        """Whether another gateway has taken a tunnel of this one, whose lease was over."""
        self._require_ready()
        return self.is_shared and self._counted("demands", lambda: self._demands.is_taken(request))

    # -- the audit

    def note(self, event: TunnelEvent) -> None:
        """Write what happened to a connection or a stream to the audit. Never waits."""
        if self._bounds.rows > 0:
            with self._book_lock:
                record = self._book.take(event, time.time())
            if record is not None:
                self._writer.put(record)

    def note_denied(
        self, tunnel: str, service_id: str, *, peer: str, user: str, reason: str
    ) -> None:
        """Write to the audit that a front door refused somebody. Never waits."""
        if self._bounds.rows > 0:
            with self._book_lock:
                record = self._book.denied(tunnel, service_id, peer, user, reason, time.time())
            self._writer.put(record)

    def note_demand(
        self, tunnel: str, service_id: str, *, peer: str, user: str, reason: str
    ) -> None:
        """Take down that somebody asked for a tunnel on demand. Never waits."""
        if self._bounds.rows > 0:
            with self._book_lock:
                record = self._book.demanded(tunnel, service_id, peer, user, reason, time.time())
            self._writer.put(record)

    def audit(self, query: AuditQuery | None = None) -> list[dict[str, Any]]:
        """Return the records that are asked for, the newest first.

        Each has `id`, `gateway` and the fields of `AuditRecord` but `number`.

        Raises:
            StoreError: they cannot be read.
        """
        self._require_ready()
        self._writer.flush(FLUSH_SECONDS)
        asked = query or AuditQuery()
        return self._counted("audit", lambda: self._audit.ask(asked))

    # -- on the writer's thread

    def _begin(self) -> None:
        if self._phase is _Reach.WAITING:
            self._reach()
            tunnels = {} if self.is_shared else self._load()
            try:
                self._on_late(tunnels)
            except TunnelError as error:
                raise make_error(Trouble.NOT_READ, self.where, str(error)) from None
            # From now on it may be changed: what was in it is known to whoever changes it.
            self._phase = _Reach.READY
            logger.warning("the state at %s was reached", self.where)
        self._audit.close_former_runs()

    def _keep_up(self) -> None:
        self._audit.prune(self._bounds)

    # -- metrics

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of the store and of the audit."""
        return store_metrics(self._counters, self._writer, is_ready=self.is_ready)


def _log_loaded(found: StoredTunnels, where: str) -> None:
    for name, problem in found.problems.items():
        logger.error("left out of the state: %s", problem, extra={"tunnel": name})
    if found.of_others and not found.tunnels:
        logger.warning(
            "the state at %s has %s of gateways with other names: what is theirs stays there",
            where,
            counted(found.of_others, "tunnel"),
        )
