"""TunnelRuntime: many tunnels in one process, as a person holds them.

Owns the dispatchers, the connect threads and the root supervisor, and the names of the tunnels.
What a tunnel does is in `tunnelfleet.actors`. Nothing happens at import: no thread, no
registration, no signal handler, no logging set-up.

Longer than other modules: starting, stopping and the book of tunnels share one life and one lock.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pykka

from tunnelfleet.actors.config import ApiService
from tunnelfleet.actors.connector import Connector
from tunnelfleet.actors.credentials import Credentials
from tunnelfleet.actors.event_relay import EventRelay, Subscribe, Unsubscribe
from tunnelfleet.actors.governor import ConnectGovernor
from tunnelfleet.actors.kernel import (
    Backoff,
    ChildSpec,
    DeleteChild,
    Dispatcher,
    Restart,
    StartChild,
    StopChild,
    SupervisorActor,
    ask_future,
)
from tunnelfleet.actors.lane_stats import CallbackTotals
from tunnelfleet.actors.messages import Drain, ReplaceToken
from tunnelfleet.actors.relay_threads import RelayThreads
from tunnelfleet.actors.services import Services
from tunnelfleet.actors.stats import TunnelState
from tunnelfleet.actors.tunnel_core import TunnelContext
from tunnelfleet.actors.tunnel_supervisor import TunnelSupervisor
from tunnelfleet.proto import ConfigError, TunnelClosed, TunnelError

from .metrics import KernelMeter, Ledger, TunnelCollector
from .tls import make_ssl_context
from .tunnel import Tunnel, TunnelStatus

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from pykka import ActorRef

    from tunnelfleet.actors.api_port import ApiPort
    from tunnelfleet.actors.config import TunnelConfig
    from tunnelfleet.actors.events import TunnelEvent
    from tunnelfleet.actors.kernel import DispatchedFuture, DispatchedRef, ExitReason

__all__ = ["RuntimeStats", "RuntimeSupervisor", "Tunnel", "TunnelRuntime", "TunnelStatus"]

ASK_TIMEOUT_SECONDS = 10.0
STOP_MARGIN_SECONDS = 3.0
"""Added to a tunnel's own stop timeout before its supervisor is killed."""
SHARED_BACKOFF = Backoff(min_seconds=0.05, max_seconds=5.0)
"""Of what all tunnels share: with a backoff its crashes never end the runtime."""
TUNNEL_BACKOFF = Backoff(min_seconds=0.5, max_seconds=60.0)
QUARANTINE_AFTER = 5
GOVERNOR = "governor"
RELAY = "events"
WAIT_SLICE_SECONDS = 0.5
WAIT_REST = 4
"""`wait_until` rests so many times as long as its condition took."""
FORCED_END_SECONDS = 30.0
"""What a dispatcher has to end the actors that are left; it takes longer than one turn."""
NAMED_TUNNELS = 5
"""How many tunnels a log line names."""
CALLBACK_SECONDS = 5.0
"""What callbacks have to return when the runtime ends by itself."""
MIN_CALLBACK_SECONDS = 1.0
CHILD_SHUTDOWN_SECONDS = 30.0
CHILD_BACKOFF = Backoff(min_seconds=0.2, max_seconds=30.0)
"""Of a runtime that is a host's child."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RuntimeStats:
    """What the runtime itself uses."""

    tunnels: int
    dispatchers: int
    threads: int
    messages_handled: int
    dead_letters: int
    longest_turn_seconds: float


class RuntimeSupervisor(SupervisorActor):
    """The root of a runtime's actors.

    Args:
        services: what tunnels look up.
        children: its first children.
        on_ended: called in its last turn with its reason; must not block.
    """

    def __init__(
        self,
        services: Services,
        children: list[ChildSpec],
        on_ended: Callable[[ExitReason], None] = lambda _reason: None,
    ) -> None:
        self._services = services
        self._on_ended = on_ended
        super().__init__(children)

    def _on_end(self, reason: ExitReason) -> None:
        super()._on_end(reason)
        self._on_ended(reason)

    def on_child_started(self, child_id: str, ref: ActorRef[Any]) -> None:
        """Keep the present governor and relay where tunnels look for them."""
        if child_id == GOVERNOR:
            self._services.governor = ref
        elif child_id == RELAY:
            self._services.relay = ref


class TunnelRuntime:
    """Runs tunnels. Use it as a context manager, or call `start` and `stop`.

    Args:
        dispatchers: threads that run the actors; a tunnel lives on one of them.
        connect_rate_per_second: tunnel connects a second over all tunnels (AWS allows about 10 per
            account).
        connect_concurrency: connects that may be under way at once; one thread each.
        ssl_context: for all tunnels that bring none; None makes one that trusts the system's
            authorities.
        on_event: called with each `TunnelEvent` on threads of the runtime: in order for each
            tunnel, and at the same time for several. It may block: that delays the events of that
            tunnel, and in the end what it reads.
        per_tunnel_series: how many tunnels have metrics of their own; 0 for none.
    """

    def __init__(
        self,
        *,
        dispatchers: int = 1,
        connect_rate_per_second: float = 10.0,
        connect_concurrency: int = 4,
        ssl_context: ssl.SSLContext | None = None,
        on_event: Callable[[TunnelEvent], None] | None = None,
        per_tunnel_series: int = 0,
    ) -> None:
        if dispatchers < 1 or connect_concurrency < 1 or connect_rate_per_second <= 0:
            raise ConfigError(
                "dispatchers, connect_concurrency, connect_rate_per_second must be greater than 0"
            )
        self._dispatcher_count = dispatchers
        self._rate = connect_rate_per_second
        self._concurrency = connect_concurrency
        self._services = Services(ssl_context)
        self._callback = on_event
        self._dispatchers: list[Dispatcher] = []
        self._next_dispatcher = itertools.cycle(range(dispatchers))
        self._connector: Connector | None = None
        self._supervisor: DispatchedRef[Any] | None = None
        self._subscriptions: dict[str, Subscribe] = {}
        self._tunnels: dict[str, Tunnel] = {}
        self._ledger = Ledger(per_tunnel_series)
        self._kernel = KernelMeter()
        self._callbacks = CallbackTotals()
        self._collector = TunnelCollector(
            self._ledger, self._kernel, self._callbacks, lambda: self._threads.thread_count
        )
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._changes = 0
        """Events so far; `_changed` guards it."""
        self._threads = RelayThreads(totals=self._callbacks)
        self._ending = threading.Lock()
        self._life = object()
        """What belongs to one start, and must not end the next."""
        self._is_child = False
        """A supervisor of the host starts it again when it has failed."""

    # -- life

    def start(self) -> Self:
        """Start the threads and the root supervisor.

        Raises:
            TunnelError: it runs already.
        """
        self._start(register=True)
        return self

    def child_spec(self, child_id: str = "tunnelfleet") -> ChildSpec:
        """How a host's `SupervisorActor` runs this runtime as its child, instead of `start`.

        The child is `permanent`: after a failure it is started again, with the tunnels it had,
        their tokens and client tokens. When it is stopped its tunnels end in good order first.

        Args:
            child_id: its id among the host's children.
        """
        return ChildSpec(
            id=child_id,
            start=self._start_as_child,
            shutdown=CHILD_SHUTDOWN_SECONDS,
            backoff=CHILD_BACKOFF,
        )

    def _start_as_child(self) -> ActorRef[Any]:
        self._is_child = True
        return self._start(register=False)

    @property
    def actor_ref(self) -> DispatchedRef[Any]:
        """The root supervisor, to be watched or stopped by a host's actor.

        Raises:
            TunnelClosed: the runtime does not run.
        """
        return self._running()

    def _start(self, *, register: bool) -> DispatchedRef[Any]:
        if not self._ending.acquire(blocking=False):
            raise TunnelError("the runtime is still stopping: start it when it has stopped")
        try:
            if self._supervisor is not None:
                raise TunnelError("the runtime is running already: start it once")
            return self._start_actors(register=register)
        finally:
            self._ending.release()

    def _start_actors(self, *, register: bool) -> DispatchedRef[Any]:
        life = self._life = object()
        if self._threads.is_closed:
            self._threads = RelayThreads(totals=self._callbacks)
        self._connector = Connector(self._concurrency)
        self._dispatchers = [
            Dispatcher(f"tunnelfleet-{number}").start() for number in range(self._dispatcher_count)
        ]
        for dispatcher in self._dispatchers:
            self._kernel.attach(dispatcher)
        children = self._root_children() + [self._child_of(each) for each in self.tunnels()]
        self._supervisor = RuntimeSupervisor.start(
            self._services,
            children,
            functools.partial(self._on_supervisor_ended, life),
            dispatcher=self._dispatchers[0],
            register=register,
        )
        return self._supervisor

    def _root_children(self) -> list[ChildSpec]:
        def start_governor() -> ActorRef[Any]:
            return ConnectGovernor.start(rate_per_second=self._rate, concurrency=self._concurrency)

        def start_relay() -> ActorRef[Any]:
            subscriptions = list(self._subscriptions.values())
            return EventRelay.start(self._observe, subscriptions)

        return [
            ChildSpec(id=RELAY, start=start_relay, backoff=SHARED_BACKOFF),
            ChildSpec(id=GOVERNOR, start=start_governor, backoff=SHARED_BACKOFF),
        ]

    def stop(self, timeout_seconds: float = 15.0) -> None:
        """Stop all tunnels in good order, then the threads. Safe to call twice.

        The last events are still delivered: callbacks that return take their part of the time.
        Tunnels that have not ended in good order by then are ended by force, and a warning in the
        log names them: what they had read may not have been sent, but nothing of them runs on.

        Args:
            timeout_seconds: for the good order.
        """
        deadline = time.monotonic() + timeout_seconds
        supervisor, life = self._supervisor, self._life
        self._is_child = False
        try:
            if supervisor is not None:
                supervisor.stop(block=True, timeout=timeout_seconds)
        except pykka.Timeout:
            self._warn_of_force(timeout_seconds)
        finally:
            self._end(life, max(deadline - time.monotonic(), MIN_CALLBACK_SECONDS))

    def _warn_of_force(self, seconds: float) -> None:
        tunnels = self.tunnels()
        late = [each.name for each in tunnels if each.stats.state is not TunnelState.STOPPED]
        names = ", ".join(late[:NAMED_TUNNELS]) + (", ..." if len(late) > NAMED_TUNNELS else "")
        logger.warning(
            "the runtime had not stopped after %g s, and is ended by force, with %d of %d tunnels "
            "(%s): what they had read may not have been sent; give stop() more time",
            seconds,
            len(late),
            len(tunnels),
            names or "none",
        )

    def _on_supervisor_ended(self, life: object, reason: ExitReason) -> None:
        """The actors are over, whoever ended them: so is the rest, on a thread that may wait."""
        is_final = reason.is_normal or not self._is_child
        if is_final:
            self._finish_tunnels()
        threading.Thread(
            target=self._end,
            args=(life, CALLBACK_SECONDS),
            kwargs={"is_final": is_final},
            name="tunnelfleet-end",
            daemon=True,
        ).start()

    def _finish_tunnels(self) -> None:
        for tunnel in self.tunnels():
            tunnel.finish()

    def _end(self, life: object, callback_seconds: float, *, is_final: bool = True) -> None:
        """End the threads of one life. Safe to call twice, from any thread that may wait."""
        # A callback may end the runtime, but not wait for an end that waits for callbacks.
        if not self._ending.acquire(blocking=not self._threads.runs_here):
            return
        try:
            if self._life is not life:
                return
            dispatchers, self._dispatchers = self._dispatchers, []
            connector, self._connector = self._connector, None
            self._supervisor = None
            for dispatcher in dispatchers:
                _stop_dispatcher(dispatcher)
            if connector is not None:
                connector.close()
                self._kernel.retire()
            if not is_final:
                return
            self._finish_tunnels()
            self._threads.close(callback_seconds)
            for tunnel in self.tunnels():
                self._remove(tunnel.name)
        finally:
            self._ending.release()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    # -- tunnels

    def open_tunnel(self, config: TunnelConfig, *, port: ApiPort | None = None) -> Tunnel:
        """Open a tunnel; it connects, and stays connected, until it is closed.

        Args:
            config: the tunnel.
            port: leads to the client API; `SecureTunnel` brings it.

        Raises:
            ConfigError: its name is taken, or it has an `ApiService` and nobody serves it.
            TunnelClosed: the runtime does not run.
        """
        supervisor = self._running()
        targets = (config.services or {}).values()
        if port is None and any(isinstance(target, ApiService) for target in targets):
            raise ConfigError(
                f"tunnel {config.name!r} has a service for callbacks: open it as a SecureTunnel"
            )
        if (
            config.endpoint.is_tls
            and config.ssl_context is None
            and self._services.ssl_context is None
        ):
            self._services.ssl_context = make_ssl_context()
        tunnel = self._add(config, port)
        spec = self._child_of(tunnel)
        if Dispatcher.current() is not None:
            # An actor of a host: it must not wait, and there is nothing to wait for.
            supervisor.tell(StartChild(spec))
            return tunnel
        try:
            supervisor.ask(StartChild(spec), block=True, timeout=ASK_TIMEOUT_SECONDS)
        except BaseException:
            self._remove(config.name)
            raise
        return tunnel

    def _child_of(self, tunnel: Tunnel) -> ChildSpec:
        assert self._connector is not None
        config = tunnel.config
        dispatcher = self._dispatchers[tunnel._dispatcher_number]  # noqa: SLF001
        context = tunnel._context._replace(connector=self._connector)  # noqa: SLF001
        tunnel._context = context  # noqa: SLF001

        def start() -> ActorRef[Any]:
            tunnel._supervisor = TunnelSupervisor.start(context, dispatcher=dispatcher)  # noqa: SLF001
            return tunnel._supervisor  # noqa: SLF001

        return ChildSpec(
            id=f"tunnel {config.name}",
            start=start,
            restart=Restart.PERMANENT,
            shutdown=config.limits.stop_timeout_seconds + STOP_MARGIN_SECONDS,
            backoff=TUNNEL_BACKOFF,
            quarantine_after=QUARANTINE_AFTER,
            # Tunnels stop together: one waits for its service, and thousands would for each other.
            independent=True,
        )

    def _add(self, config: TunnelConfig, port: ApiPort | None) -> Tunnel:
        connector = self._connector
        if connector is None:
            raise TunnelClosed("the runtime is not running: call start() first")
        credentials = Credentials(config.access_token, config.client_token)
        lane = None
        if self._callback is not None:
            lane = self._threads.lane(
                config.name, self._callback, config.limits.event_backlog_bytes
            )
        with self._lock:
            if config.name in self._tunnels:
                raise ConfigError(f"there is a tunnel {config.name!r} already: choose another name")
            number = next(self._next_dispatcher)
            context = TunnelContext(
                config=config,
                credentials=credentials,
                stats=self._ledger.open(config.name, config.mode.value, number),
                connector=connector,
                services=self._services,
                bound={},
                port=port,
                lane=lane,
            )
            tunnel = self._tunnels[config.name] = Tunnel(self, context, number)
        return tunnel

    def _remove(self, name: str) -> None:
        with self._lock:
            tunnel = self._tunnels.pop(name, None)
        if tunnel is not None:
            self._ledger.close(tunnel.stats)

    def close_tunnel(self, name: str, *, timeout_seconds: float = 15.0) -> TunnelStatus:
        """Close a tunnel: what was read is sent first, within its stop timeout.

        Returns:
            What it looked like at its end.

        Raises:
            KeyError: there is no such tunnel.
        """
        return self.begin_close(name).result(timeout_seconds)

    def begin_close(self, name: str) -> Future[TunnelStatus]:
        """The same without waiting: the future has what it looked like at its end.

        Its done-callbacks run on a thread of the runtime that they must not hold up.

        Raises:
            KeyError: there is no such tunnel.
        """
        tunnel = self.tunnel(name)
        supervisor = self._running()
        child_id = f"tunnel {name}"
        closed: Future[TunnelStatus] = Future()

        def on_stopped(_reply: DispatchedFuture[Any]) -> None:
            # Everything of it is over: a failed reply says that the runtime is as well.
            reply = ask_future(supervisor, DeleteChild(child_id))
            reply.add_done_callback(on_deleted)

        def on_deleted(_reply: DispatchedFuture[Any]) -> None:
            # Its name is free before its user hears of the end: they may start it again.
            self._remove(name)
            tunnel.finish()
            closed.set_result(tunnel.status())

        ask_future(supervisor, StopChild(child_id)).add_done_callback(on_stopped)
        return closed

    def drain_tunnel(self, name: str) -> None:
        """Refuse new connections on a tunnel; it stops when the running ones have finished."""
        self._tell(name, Drain())

    def replace_token(self, name: str, access_token: str, client_token: str | None = None) -> None:
        """Give a tunnel a new access token, after a rotation or a refusal; it connects at once.

        Raises:
            KeyError: there is no such tunnel.
            ConfigError: a token is malformed.
        """
        Credentials(access_token, client_token)
        self._tell(name, ReplaceToken(access_token, client_token))

    def _tell(self, name: str, message: Any) -> None:
        supervisor = self.tunnel(name)._supervisor  # noqa: SLF001
        assert supervisor is not None
        supervisor.tell(message)

    def tunnel(self, name: str) -> Tunnel:
        """The tunnel of that name.

        Raises:
            KeyError: there is none.
        """
        with self._lock:
            return self._tunnels[name]

    def tunnels(self) -> list[Tunnel]:
        """All tunnels, in the order in which they were opened."""
        with self._lock:
            return list(self._tunnels.values())

    def subscribe(
        self,
        subscriber: ActorRef[Any],
        *,
        tunnels: Iterable[str] | None = None,
        kinds: Iterable[type[TunnelEvent]] | None = None,
    ) -> None:
        """Send `TunnelEvent`s to an actor, as messages, until it ends; a second call replaces this.

        Args:
            subscriber: any pykka actor.
            tunnels: the names of those to tell of; None for all, later ones too.
            kinds: the classes of events to tell of; None for all.
        """
        self._running()
        self._subscriptions[subscriber.actor_urn] = subscription = Subscribe(
            subscriber,
            None if tunnels is None else frozenset(tunnels),
            None if kinds is None else frozenset(kinds),
        )
        self._tell_relay(subscription)

    def unsubscribe(self, subscriber: ActorRef[Any]) -> None:
        """Stop that."""
        self._subscriptions.pop(subscriber.actor_urn, None)
        self._tell_relay(Unsubscribe(subscriber))

    def _tell_relay(self, message: Any) -> None:
        relay = self._services.relay
        if relay is not None and relay.is_alive():
            relay.tell(message)

    @property
    def collector(self) -> TunnelCollector:
        """Its metrics, for any registry of prometheus_client: `registry.register(...)`."""
        return self._collector

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """The running dispatchers; none before `start` and after `stop`."""
        return self._kernel.dispatchers

    def stats(self) -> RuntimeStats:
        """What the runtime itself uses."""
        kernels = [dispatcher.stats for dispatcher in self._dispatchers]
        return RuntimeStats(
            tunnels=len(self._tunnels),
            dispatchers=len(self._dispatchers),
            threads=threading.active_count(),
            messages_handled=sum(kernel.messages_handled for kernel in kernels),
            dead_letters=sum(kernel.dead_letters for kernel in kernels),
            longest_turn_seconds=max((k.longest_turn_seconds for k in kernels), default=0.0),
        )

    # -- waiting

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        """Wait until `condition()` holds, looking at it whenever something happens to a tunnel."""
        looked = time.monotonic()
        deadline = looked + timeout_seconds
        changes = self._changes
        while not condition():
            now = time.monotonic()
            if now >= deadline:
                return False
            # Over thousands of tunnels it takes a while, and each of them brings several events.
            time.sleep(min((now - looked) * WAIT_REST, deadline - now, WAIT_SLICE_SECONDS))
            slice_seconds = min(max(deadline - time.monotonic(), 0.0), WAIT_SLICE_SECONDS)
            with self._changed:
                if self._changes == changes:
                    self._changed.wait(slice_seconds)
                changes = self._changes
            looked = time.monotonic()
        return True

    def _observe(self, _event: TunnelEvent) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def _running(self) -> DispatchedRef[Any]:
        supervisor = self._supervisor
        if supervisor is None:
            raise TunnelClosed("the runtime is not running: call start() first")
        return supervisor

    @property
    def callback_threads(self) -> RelayThreads:
        """The threads on which callbacks run."""
        return self._threads


def _stop_dispatcher(dispatcher: Dispatcher) -> None:
    try:
        dispatcher.stop(FORCED_END_SECONDS)
    except TimeoutError as error:
        # Whatever else the runtime has must end all the same.
        logger.error("a thread of the runtime is left behind: %s", error)
