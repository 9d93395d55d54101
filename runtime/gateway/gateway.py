"""Gateway: a fleet of tunnels as a program holds it. `tunnelfleet up` is a shell around it.

Owns the parts of a running gateway and the order in which they start and end. Everything that
changes the fleet goes to FleetActor as a message; what is here for a caller's thread are the
questions with their answers.

    with Gateway(lambda: load([Path("fleet.toml")])) as gateway:
        gateway.reload()
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import pykka
from prometheus_client import Metric
from pykka import ActorRef

from tunnelfleet.actors.kernel import ChildSpec, Dispatcher
from tunnelfleet.actors.kernel.moments import UnixTime
from tunnelfleet.proto import ConfigError, TunnelClosed, TunnelError
from tunnelfleet.runtime import TunnelRuntime, TunnelState
from tunnelfleet.runtime.metrics.families import numbers

from . import messages
from .config import ClientTokens, ConfigProblems, FleetConfig, GatewaySettings, ensure_secret
from .config.fleet import RAY, STATIC
from .fleet_actor import FleetActor
from .fleet_state import FleetState, GatewayCollector
from .placement import Placement, StaticPlacement
from .placement.leased import LeasedPlacement
from .shared_fleet import API, SharedTunnels
from .snapshot import MAX_CONNECTION_ROWS, connection_rows
from .supervisor import (
    FLEET,
    NOTIFY,
    PLACEMENT,
    RUNTIME,
    STORE,
    GatewayRefs,
    GatewaySupervisor,
    PlacementActor,
    TellShards,
    child,
)
from .wanted import WantedTunnel
from .workers import WorkerProcesses

if TYPE_CHECKING:
    from .listing import AsksTunnels
    from .store import Store


ASK_SECONDS = 10.0
RELOAD_SECONDS = 60.0
STOP_SECONDS = 20.0
"""For what is left when the fleet was drained, or could not be: more than a tunnel's own time."""
END_SECONDS = 10.0
LEAVE_AGAIN_SECONDS = 0.05
"""Between two questions to a fleet that is being started again."""

logger = logging.getLogger(__name__)


class Gateway:
    """A fleet that changes while it runs. Use it as a context manager, or `start` and `stop`.

    Args:
        load: reads the files; called on a thread of the gateway for each reload.
        config: what it read before; None calls it now.
        placement: says which part of the fleet is ours; None takes the static one of the settings.
        make_placement: in its stead: makes it of the runtime whose connects it may suspend.
        client_tokens: derives client tokens; None reads the secret of the settings, or makes one.
        store: keeps the tunnels that are added at run time, and the audit; the gateway opens and
            closes it. None keeps nothing.
        more_children: more actors of the gateway, such as a store or a front door; called with the
            gateway when it starts. They are started last and stopped first, and find the others in
            `refs`.

    Raises:
        ConfigProblems: the files have mistakes.
    """

    started_at = UnixTime()
    """In seconds of the Unix epoch."""

    def __init__(
        self,
        load: Callable[[], FleetConfig],
        config: FleetConfig | None = None,
        *,
        placement: Placement | None = None,
        make_placement: Callable[[TunnelRuntime], Placement] | None = None,
        client_tokens: ClientTokens | None = None,
        store: Store | None = None,
        more_children: Callable[[Gateway], Sequence[ChildSpec]] = lambda _gateway: (),
    ) -> None:
        config = load() if config is None else config
        settings = config.gateway
        self._load = load
        self._more_children = more_children
        self.store = store
        """What survives a restart, if anything does."""
        self._given_placement = placement
        self._given_make_placement = make_placement
        self._client_tokens = client_tokens
        self._placement: Placement | None = placement
        self._shared: SharedTunnels | None = None
        self.state = FleetState(config)
        """What is known of the fleet; to be read only."""
        self.collector = GatewayCollector(self.state, [store] if store else [])
        """The gateway's own metrics, for any registry of prometheus_client."""
        self.workers: WorkerProcesses | None = None
        """The processes in which the tunnels run; None if they run in this one."""
        if settings.workers > 1:
            self.workers = WorkerProcesses(settings.workers, self._authorities_of)
            self.collector.add(self.workers.collect)
        self._runtime = TunnelRuntime(
            connect_rate_per_second=settings.connect_rate,
            connect_concurrency=settings.connect_concurrency,
            home=self.workers,
        )
        self.others: AsksTunnels | None = None
        """The way to the other gateways of a shared fleet, if there is one."""
        self.refs = GatewayRefs()
        self._dispatcher: Dispatcher | None = None
        self._supervisor: ActorRef[Any] | None = None
        self._loader: ThreadPoolExecutor | None = None
        self._ended = threading.Lock()
        self.started_at = time.time()

    # -- start and end

    def start(self) -> Self:
        """Start the actors; the tunnels follow, at the rate of the settings.

        Raises:
            ConfigError: the secret that client tokens are derived from cannot be read or made, or
                the state cannot be used before somebody has changed something.
        """
        settings = self.state.config.gateway
        client_tokens = self._client_tokens or self._read_client_tokens(settings)
        self._open_store()
        self._placement = placement = self._given_placement or self._make_placement(settings)
        if isinstance(placement, LeasedPlacement):
            self.collector.add(placement.collect)
            self.collector.add(lambda: self._without_owner(placement))
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="tunnelfleet-reload")
        self._dispatcher = Dispatcher("tunnelfleet-gateway").start()
        self.state.sources.setdefault(messages.FILES, dict(self.state.config.tunnels))
        start_fleet = functools.partial(
            FleetActor.start,
            self.state,
            self._runtime,
            client_tokens,
            self._begin_load,
            functools.partial(self.refs.tell, PLACEMENT, TellShards()),
            on_files_taken=functools.partial(self.refs.tell, NOTIFY, messages.FilesTaken()),
            tell_placement=functools.partial(self.refs.tell, PLACEMENT),
        )
        start_placement = functools.partial(PlacementActor.start, placement, self.refs)
        self._supervisor = GatewaySupervisor.start(
            self.refs,
            [
                *self._store_children(),
                self._runtime.child_spec(RUNTIME),
                child(PLACEMENT, start_placement),
                child(FLEET, start_fleet),
                *self._more_children(self),
            ],
            dispatcher=self._dispatcher,
            register=True,
        )
        self.refs.has_fleet.wait(ASK_SECONDS)
        return self

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """End all that runs: in good order within the time, then by force. Safe to call twice."""
        with self._ended:
            supervisor, self._supervisor = self._supervisor, None
            if supervisor is None:
                return
            if self._shared is not None:
                # First: it asks the fleet, which answers no more after that.
                self._shared.close()
            try:
                supervisor.stop(block=True, timeout=timeout_seconds)
            except pykka.Timeout:
                logger.warning(
                    "not all had ended after %g s; it is ended by force", timeout_seconds
                )
            finally:
                # Also waits for the runtime's threads when its actors have ended already.
                self.runtime.stop(min(timeout_seconds, END_SECONDS))
                assert self._dispatcher is not None
                self._dispatcher.stop(END_SECONDS)
                assert self._loader is not None
                self._loader.shutdown(wait=True, cancel_futures=True)
                assert self._placement is not None
                self._placement.close()
                if self.workers is not None:
                    self.workers.close()
                if self.store is not None:
                    self.store.close()

    def _authorities_of(self, name: str) -> str | None:
        """The file or folder of authorities that a tunnel trusts; on the runtime's thread."""
        wish = self.state.wish(name)
        running = self.state.running.get(name)
        tunnel = wish if wish is not None or running is None else running.tunnel
        return None if tunnel is None else tunnel.ca

    def _read_client_tokens(self, settings: GatewaySettings) -> ClientTokens:
        secret, warning = ensure_secret(settings.client_token_secret_file, settings.state_folder)
        if warning:
            logger.warning("%s", warning)
        return ClientTokens(secret)

    def _make_placement(self, settings: GatewaySettings) -> Placement:
        if self._given_make_placement is not None:
            return self._given_make_placement(self._runtime)
        if settings.placement == STATIC:
            return StaticPlacement(settings.placement_ordinal, settings.placement_members)
        if settings.placement == RAY:
            raise ConfigError(
                'placement = "ray": run this fleet with tunnelfleet ray up, or leave placement out'
            )
        # Its driver is an extra, which other gateways need not have.
        from .placement.postgres import PostgresPlacement  # noqa: PLC0415

        store = self.store
        if store is None:
            raise ConfigError("gateways share a fleet by the store: give this one a store")
        self._shared = SharedTunnels(store, self.state, self.ask)
        self._shared.start()
        return PostgresPlacement(
            settings.state,
            name=settings.name,
            connects=self._runtime,
            connect_rate=settings.connect_rate,
            key_id=store.key_id,
            lease_seconds=settings.lease_seconds,
            shards=settings.shards,
            fleet_address=settings.fleet_address,
            listener=self._shared,
        )

    def _without_owner(self, placement: LeasedPlacement) -> Iterator[Metric]:
        shards = placement.unowned()
        state = self.state
        count = sum(state.shard_of(name) in shards for name in state.wishes()) if shards else 0
        yield numbers("placement_tunnels_without_owner", [((), count)])

    @property
    def placement(self) -> Placement:
        """The engine that says which part of the fleet is ours.

        Raises:
            TunnelClosed: the gateway was not started.
        """
        if self._placement is None:
            raise TunnelClosed("the gateway is not running")
        return self._placement

    def readiness(self) -> dict[str, object]:
        """What `/readyz` says of the placement; a gateway that never had a lease is not ready."""
        status = None if self._placement is None else self._placement.status()
        if status is None:
            return {}
        found: dict[str, object] = {"placement": status}
        return found if status["joined"] else {**found, "ready": False}

    def _open_store(self) -> None:
        if self.store is None:
            return
        self.store.open(self._take_up_late)
        try:
            # Before any actor: what comes from the API later is a change of these.
            self.state.sources.setdefault(API, self.store.load_tunnels())
        except TunnelError as error:
            self.store.close()
            raise ConfigError(str(error)) from None

    def _take_up_late(self, tunnels: dict[str, WantedTunnel]) -> None:
        """The state was reached at last, on the store's thread."""
        self.refs.has_fleet.wait(ASK_SECONDS)
        self.ask(messages.SetWanted(API, tunnels))

    def _store_children(self) -> list[ChildSpec]:
        store = self.store
        if store is None:
            return []
        return [child(STORE, lambda: store.start_actor(self._runtime))]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    @property
    def runtime(self) -> TunnelRuntime:
        """What runs the tunnels; another one after it has failed."""
        return self._runtime.present

    # -- questions and commands, from any thread that may wait

    def ask(self, message: Any, timeout_seconds: float = ASK_SECONDS) -> Any:
        """Ask FleetActor one of `messages`.

        Raises:
            TunnelError: as the message says, or it is not there or does not answer.
        """
        ref = self.refs.by_id.get(FLEET)
        if ref is None:
            raise TunnelClosed("the gateway is not running")
        try:
            return ref.ask(message, block=True, timeout=timeout_seconds)
        except pykka.ActorDeadError:
            raise TunnelClosed("the gateway's fleet is being started again; ask again") from None
        except pykka.Timeout:
            raise TunnelError(f"the gateway did not answer within {timeout_seconds:g} s") from None
        except TunnelError:
            raise
        except Exception as error:
            # The actor has failed at it. Callers that wait on a thread of theirs go on.
            raise TunnelError(
                f"the gateway's fleet has failed at it ({type(error).__name__}) and is being "
                "started again: its log says more"
            ) from error

    def look_again(self, name: str) -> None:
        """A tunnel was changed at run time: in a shared fleet, what the store has of it counts.

        Args:
            name: of the tunnel, after FleetActor was asked for the change.
        """
        if self._shared is not None:
            self._shared.look_again(name)

    def tell(self, message: Any) -> bool:
        """Tell FleetActor one of `messages`; what it finds is in the log.

        Returns:
            False if it is being started again, and was not told: tell it again.
        """
        return self.refs.tell(FLEET, message)

    def reload(self, timeout_seconds: float = RELOAD_SECONDS) -> messages.ReloadResult:
        """Read the files again. A mistake in them changes nothing."""
        result: messages.ReloadResult = self.ask(messages.Reload(), timeout_seconds)
        return result

    def read_files(self, timeout_seconds: float = RELOAD_SECONDS) -> FleetConfig:
        """Read the files and change nothing.

        Raises:
            ConfigProblems: they have mistakes.
            TunnelError: it took too long, or the gateway does not run.
        """
        if self._loader is None:
            raise TunnelClosed("the gateway is not running")
        try:
            return self._begin_load().result(timeout_seconds)
        except TimeoutError:
            raise TunnelError(
                f"reading the files takes longer than {timeout_seconds:g} s"
            ) from None
        except RuntimeError:
            raise TunnelClosed("the gateway is being stopped") from None

    def snapshot(self, names: Sequence[str] | None = None) -> messages.Snapshot:
        """Every tunnel of the fleet, or those of some names."""
        found: messages.Snapshot = self.ask(
            messages.TakeSnapshot(None if names is None else tuple(names))
        )
        return found

    def connections(
        self, tunnel: str | None = None, limit: int = MAX_CONNECTION_ROWS
    ) -> list[dict[str, Any]]:
        """The connections that are open, with what they have carried so far.

        Args:
            tunnel: of this tunnel alone; None for all, in the order of the tunnels' start.
            limit: at most so many.
        """
        return connection_rows(self.runtime, tunnel, limit)

    def leave(self, drain_seconds: float | None = None) -> messages.Left:
        """End all tunnels: no new connections, and time for those that are open. Then `stop`.

        While FleetActor is being started again, or if it fails meanwhile, the next one is asked:
        it knows what runs, and has the time that is left.

        Args:
            drain_seconds: None takes the settings'.

        Raises:
            TunnelError: nobody could be asked until the time was over, or the gateway has ended.
        """
        if drain_seconds is None:
            drain_seconds = self.state.config.gateway.drain_seconds
        deadline = time.monotonic() + drain_seconds
        while True:
            seconds = max(0.0, deadline - time.monotonic())
            try:
                left: messages.Left = self.ask(messages.Leave(seconds), seconds + ASK_SECONDS)
            except TunnelError:
                supervisor = self._supervisor
                is_over = time.monotonic() >= deadline + ASK_SECONDS
                if is_over or supervisor is None or not supervisor.is_alive():
                    raise
                time.sleep(LEAVE_AGAIN_SECONDS)
            else:
                return left

    @property
    def is_settled(self) -> bool:
        """Whether each tunnel that should run does, and has tried to connect, if it may."""
        if self.state.epoch == 0:
            # Nobody has said yet what is ours.
            return False
        running = list(self.state.running)
        wanted = [name for name in self.state.wishes() if self.state.is_ours(name)]
        if len(running) < len(wanted) - len(self.state.failures) - len(self.state.held):
            return False
        stats = (tunnel.stats for tunnel in self.runtime.tunnels())
        untried = sum(
            each.state is TunnelState.CONNECTING and not each.connect_failures for each in stats
        )
        connects = self.runtime.connect_stats()
        # Whoever may not try for now, for the endpoint is down, is no reason to wait.
        return untried <= (connects.waiting if connects.suspended else 0) + connects.held_back

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """What has to turn: the runtime's dispatchers and the gateway's own."""
        own = [] if self._dispatcher is None else [self._dispatcher]
        return [*own, *self.runtime.dispatchers]

    def counts(self) -> tuple[int, int]:
        """How many tunnels run, and how many of those are connected; asks no actor."""
        states = [tunnel.stats.state for tunnel in self.runtime.tunnels()]
        return len(states), states.count(TunnelState.CONNECTED)

    @property
    def has_failed(self) -> bool:
        """Whether the root of its actors has ended by itself: nothing runs then, and `stop` is due.

        Nobody restarts a root but whoever runs the process.
        """
        supervisor = self._supervisor
        return supervisor is not None and not supervisor.is_alive()

    @property
    def supervisor(self) -> ActorRef[Any]:
        """The root of its actors.

        Raises:
            TunnelClosed: it does not run.
        """
        if self._supervisor is None:
            raise TunnelClosed("the gateway is not running")
        return self._supervisor

    def _begin_load(self) -> Future[FleetConfig]:
        assert self._loader is not None
        return self._loader.submit(self._load_again)

    def _load_again(self) -> FleetConfig:
        config = self._load()
        emptied = config.emptied_since(self.state.config)
        if emptied:
            raise ConfigProblems([*emptied, *config.warnings])
        return config
