"""TunnelRuntime: many tunnels in one process, as a person holds them.

Owns what it is told at its making, and the way from a person's call to the module that does it:
`engine` starts and ends, `registry` has the tunnels, `supervisor` says how they are kept up,
`waiting` tells what happens. Owns also how one runtime takes the place of another, for a host's
supervisor. It must not know what a tunnel does: that is in `tunnelfleet.actors`. Nothing happens at
import: no thread, no registration, no signal handler, no logging set-up.

No lock of its own; each of those modules says which it has.
"""

from __future__ import annotations

import copy
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pykka
from pykka import ActorRef

from tunnelfleet.actors import kernel
from tunnelfleet.actors.addresses import Address
from tunnelfleet.actors.callbacks import CallbackQueue, CallbackTotals, RelayThreads
from tunnelfleet.actors.config import ApiService, Limits, TunnelConfig
from tunnelfleet.actors.events import TunnelEvent
from tunnelfleet.actors.transport.connect_gate import ConnectGate, ConnectStats
from tunnelfleet.actors.tunnel.context import Services
from tunnelfleet.actors.tunnel.messages import GateChanged, TryNow
from tunnelfleet.proto import ConfigError

from .engine import Engine, EnginePhase
from .metrics import DispatcherMeter, TunnelMeter
from .registry import TunnelRegistry
from .supervisor import (
    OwnProcess,
    TunnelHome,
    relay_spec,
    runtime_spec,
    tunnel_spec,
)
from .tls import make_ssl_context
from .tunnel import Changes, RuntimeStats, Subscriptions, Tunnel, TunnelStatus

if TYPE_CHECKING:
    from tunnelfleet.actors.api.outbox import Outbox

    from .metrics import TunnelCollector


@dataclass(slots=True)
class _Present:
    """Which runtime has the tunnels now; one for all that took each other's place."""

    runtime: TunnelRuntime
    engine: Engine
    collector: TunnelCollector | None = None
    """Made when it is first asked for."""
    lock: threading.Lock = field(default_factory=threading.Lock)


ASK_TIMEOUT_SECONDS = 10.0


class TunnelRuntime:
    """Runs tunnels, once. Use it as a context manager, or call `start` and `stop`.

    After its end a new one is needed: make it, or have a supervisor do so (`child_spec`).

    A process that is forked while it runs has its objects and none of its threads: there every
    method raises `ForkedProcessError`. The parent's goes on undisturbed.

    Args:
        dispatchers: threads that run the actors; a tunnel lives on one of them.
        connect_rate_per_second: tunnel connects a second over all tunnels (AWS allows about 10 per
            account).
        connect_concurrency: connects that may be under way at once; one thread each.
        connects_per_endpoint: of these, how many may be to one endpoint; None leaves a quarter, at
            least one, to others. A tunnel that hung the last time waits behind those that did not.
        ssl_context: for all tunnels that bring none; None makes one that trusts the system's
            authorities.
        on_event: called with each `TunnelEvent` on threads of the runtime: in order for each
            tunnel, and at the same time for several. It may block: that delays the events of that
            tunnel, and in the end what it reads.
        per_tunnel_series: how many tunnels have metrics of their own; 0 for none.
        per_tunnel_buckets: whether the distributions of each tunnel are kept by size too, for a
            process that reports them to another.
        home: where the tunnels run; None for this process.
        name: tells its metrics from those of other runtimes in the same registry, by the label
            `runtime`; without a name there is no such label.
    """

    def __init__(
        self,
        *,
        dispatchers: int = 1,
        connect_rate_per_second: float = 10.0,
        connect_concurrency: int = 4,
        connects_per_endpoint: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
        on_event: Callable[[TunnelEvent], None] | None = None,
        per_tunnel_series: int = 0,
        per_tunnel_buckets: bool = False,
        home: TunnelHome | None = None,
        name: str = "",
    ) -> None:
        if dispatchers < 1 or connect_concurrency < 1 or not connect_rate_per_second > 0:
            raise ConfigError(
                "dispatchers, connect_concurrency, connect_rate_per_second must be greater than 0"
            )
        if on_event is not None and not callable(on_event):
            raise ConfigError("on_event is not a function: it is called with a TunnelEvent")
        if connects_per_endpoint is not None and connects_per_endpoint < 1:
            raise ConfigError("connects_per_endpoint must be at least 1, or None")
        self._rate = connect_rate_per_second
        self._concurrency = connect_concurrency
        self._per_endpoint = connects_per_endpoint
        self._callback = on_event
        self._services = Services(ssl_context)
        self._gate = ConnectGate()
        self._subscriptions = Subscriptions(self._services)
        self._changes = Changes(self._check_process)
        self._home = home or OwnProcess()
        self._meter = TunnelMeter(per_tunnel_series, with_buckets=per_tunnel_buckets)
        self._kernel = DispatcherMeter()
        callbacks = CallbackTotals()
        self._registry = TunnelRegistry(
            self._services,
            self._meter,
            self._changes,
            dispatchers,
            self._gate.why_waiting,
            self._home.start_tunnel,
        )
        self._engine = Engine(
            self._services,
            self._kernel,
            self._registry,
            RelayThreads(totals=callbacks),
            dispatchers=dispatchers,
            connect_concurrency=connect_concurrency,
        )
        self._callbacks = callbacks
        self._name = name
        self._present = _Present(self, self._engine)

    # -- start and stop

    def start(self) -> Self:
        """Start the threads and the root supervisor.

        Raises:
            TunnelError: it was started before: a runtime runs once. After `stop`, or after it has
                ended by itself, make a new `TunnelRuntime` and start that.
        """
        self._engine.start(self._root_children)
        return self

    def child_spec(self, child_id: str = "tunnelfleet") -> kernel.ChildSpec:
        """Return how a host's `SupervisorActor` runs this runtime as its child, instead of `start`.

        The child is `permanent`. The first start is that of this runtime. After a failure a new
        runtime takes its place: `present` tells which. It has the same options, the tunnels that
        were open with their tokens and client tokens, the subscribers, and the same `collector`,
        so that counters go on and a registry keeps what it has. The `Tunnel`s and `SecureTunnel`s
        that the host holds stay what they are. When the child is stopped, its tunnels end in good
        order first; if it is started again then, it begins with none.

            runtime = TunnelRuntime()
            host = SupervisorActor.start([runtime.child_spec()], dispatcher=dispatcher)
            ...
            runtime.present.open_tunnel(config)

        Args:
            child_id: its id among the host's children.
        """
        return runtime_spec(child_id, self._start_as_child)

    @property
    def present(self) -> TunnelRuntime:
        """This runtime, or the one that a host's supervisor has put in its place.

        Tunnels can be looked at through either, and `stop` ends the present one. What needs a
        runtime that runs (`open_tunnel`, `close_tunnel`, `subscribe`, `actor_ref`) goes there.
        Right after a failure it is one that is not started yet: these raise `TunnelClosed` then.
        """
        return self._present.runtime

    def _start_as_child(self) -> kernel.DispatchedRef[Any]:
        present = self._present
        if present.engine.phase is EnginePhase.ENDED:
            self._make_successor()
        return present.engine.start(self._root_children, self._make_successor)

    def _make_successor(self) -> None:
        """Put a new runtime, not started, in the place of the present one, which has ended."""
        present = self._present
        present.engine = present.engine.renewed()
        # All is the same but what runs once.
        present.runtime = copy.copy(self)
        present.runtime._engine = present.engine  # noqa: SLF001 - one of this class

    @property
    def actor_ref(self) -> kernel.DispatchedRef[Any]:
        """The root supervisor, to be watched or stopped by a host's actor.

        Raises:
            TunnelClosed: the runtime does not run.
        """
        return self._engine.supervisor

    def stop(self, timeout_seconds: float = 15.0) -> None:
        """Stop all tunnels in good order, then the threads. Safe to call twice.

        The last events are still delivered: callbacks that return take their part of the time.
        Tunnels that have not ended in good order by then are ended by force, and a warning in the
        log names them: what they had read may not have been sent, but nothing of them runs on.

        Args:
            timeout_seconds: for the good order.

        Raises:
            BlockingCallError: an actor of a dispatcher called it, which must not wait; it goes on.
        """
        stopped = None
        while stopped is not (engine := self._present.engine):
            # Once more if it failed just now, and another took its tunnels over.
            stopped = engine
            engine.stop(timeout_seconds)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        # A forked child that leaves the block has nothing to stop.
        if not self._present.engine.is_foreign:
            self.stop()

    def _check_process(self) -> None:
        """Raise in a forked child: before any lock, which a thread of the parent may hold."""
        self._present.engine.check_process()

    # -- tunnels

    def open_tunnel(
        self,
        config: TunnelConfig,
        *,
        outbox: Outbox | None = None,
        bound: Mapping[str, Address] | None = None,
    ) -> Tunnel:
        """Open a tunnel; it connects, and stays connected, until it is closed.

        Args:
            config: the tunnel.
            outbox: leads to the client API; `SecureTunnel` brings it.
            bound: where an earlier life of the tunnel has listened, by service id: free ports stay
                what they were.

        Raises:
            ConfigError: its name is taken, or it has an `ApiService` and nobody serves it.
            TunnelClosed: the runtime does not run.
        """
        if not isinstance(config, TunnelConfig):
            raise TypeError(f"open_tunnel: pass a TunnelConfig, not a {type(config).__name__}")
        engine = self._engine
        engine.require_running()
        supervisor = engine.supervisor
        self._check(config, outbox)
        tunnel = self._registry.add(
            config,
            engine.parts,
            outbox=outbox,
            callback_queue=self._callback_queue(config),
            bound=bound,
        )
        try:
            command = kernel.StartChild(_child_of(engine, tunnel))
            if kernel.Dispatcher.current() is not None:
                # An actor of a host: it must not wait, and there is nothing to wait for.
                supervisor.tell(command)
            else:
                supervisor.ask(command, block=True, timeout=ASK_TIMEOUT_SECONDS)
        except (pykka.ActorDeadError, kernel.SupervisorStoppingError) as error:
            self._registry.remove(tunnel)
            raise engine.not_running() from error
        except BaseException:
            self._registry.remove(tunnel)
            raise
        return tunnel

    def _check(self, config: TunnelConfig, outbox: Outbox | None) -> None:
        targets = (config.services or {}).values()
        if outbox is None and any(isinstance(target, ApiService) for target in targets):
            raise ConfigError(
                f"tunnel {config.name!r} has a service for callbacks: open it as a SecureTunnel"
            )
        services = self._services
        if config.needs_tls and config.ssl_context is None and services.ssl_context is None:
            services.ssl_context = make_ssl_context()

    def _callback_queue(self, config: TunnelConfig) -> CallbackQueue | None:
        if self._callback is None:
            return None
        limit_bytes = config.limits.event_backlog_bytes
        return self.callback_threads.queue(config.name, self._callback, limit_bytes)

    def _root_children(self, engine: Engine) -> list[kernel.ChildSpec]:
        return [
            relay_spec(self._changes.note, self._subscriptions.present),
            self._home.governor_spec(self._gate, self._rate, self._concurrency, self._per_endpoint),
            *[_child_of(engine, tunnel) for tunnel in self._registry.tunnels()],
        ]

    def close_tunnel(self, name: str, *, timeout_seconds: float = 15.0) -> TunnelStatus:
        """Close a tunnel: what was read is sent first, within its stop timeout.

        Returns:
            What it looked like at its end.

        Raises:
            KeyError: there is no such tunnel.
        """
        return self.begin_close(name).result(timeout_seconds)

    def begin_close(self, name: str) -> Future[TunnelStatus]:
        """Begin to close a tunnel; the future has its status at its end.

        Its done-callbacks run on a thread of the runtime that they must not hold up.

        Raises:
            KeyError: there is no such tunnel.
            TunnelClosed: the runtime does not run.
        """
        return self._engine.begin_close(self.tunnel(name))

    def drain_tunnel(self, name: str) -> None:
        """Refuse new connections on a tunnel; it stops when the running ones have finished.

        Raises:
            KeyError: there is no such tunnel.
        """
        self.tunnel(name).drain()

    def replace_token(self, name: str, access_token: str, client_token: str | None = None) -> None:
        """Give a tunnel a new access token, after a rotation or a refusal; it connects at once.

        Raises:
            KeyError: there is no such tunnel.
            ConfigError: a token is malformed.
        """
        self.tunnel(name).replace_token(access_token, client_token)

    def replace_limits(self, name: str, limits: Limits) -> None:
        """Give a running tunnel other limits; no connection notices.

        New connections go by `max_connections`, `local_connect_timeout_seconds`, `linger_seconds`
        and `announce_timeout_seconds`; the other limits hold from the tunnel's next restart on.

        Raises:
            KeyError: there is no such tunnel.
        """
        self.tunnel(name).replace_limits(limits)

    def tunnel(self, name: str) -> Tunnel:
        """Return the tunnel of that name.

        Raises:
            KeyError: there is none.
        """
        self._check_process()
        return self._registry.get(name)

    def tunnels(self) -> list[Tunnel]:
        """Return all tunnels, in the order in which they were opened."""
        self._check_process()
        return self._registry.tunnels()

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
        self._engine.require_running()
        self._subscriptions.add(subscriber, tunnels, kinds)

    def unsubscribe(self, subscriber: ActorRef[Any]) -> None:
        """Send an actor no more `TunnelEvent`s; nothing happens if it gets none."""
        self._check_process()
        self._subscriptions.remove(subscriber)

    # -- connects

    def suspend_connects(self, reason: str) -> None:
        """Let no tunnel connect from now on, until `resume_connects`.

        No permit is granted after this has returned. Attempts under way are called back: one that
        the service answers in the same moment may still succeed, and links stay. Never waits: an
        actor may call it, before `start` too; a governor that is started again obeys it as well.

        Args:
            reason: for people; `connect_stats` shows it.
        """
        self._check_process()
        self._gate.suspend(reason)
        self._tell_governor(GateChanged())

    def resume_connects(self, valid_seconds: float | None = None) -> None:
        """Let tunnels connect again, at the rate; those that wait have kept their places.

        Args:
            valid_seconds: for so long; then connects are suspended again, unless this was called
                once more. The time goes on while the process is frozen: whoever holds a lease
                passes what is left of it, and a gateway that wakes up too late connects nowhere.
        """
        self._check_process()
        self._gate.resume(valid_seconds)
        self._tell_governor(GateChanged())

    def change_connect_rate(self, rate_per_second: float) -> None:
        """Let so many tunnels connect in a second from now on. Never waits.

        Raises:
            ConfigError: it is not greater than 0.
        """
        if not rate_per_second > 0:
            raise ConfigError("connect_rate_per_second must be greater than 0")
        self._check_process()
        self._gate.rate_per_second = rate_per_second
        self._tell_governor(GateChanged())

    def try_now(self, name: str) -> bool:
        """Let a tunnel try its endpoint at once, if that is down and its tunnels are held back.

        The rate holds as before, and a suspension. Never waits.

        Returns:
            Whether the endpoint is down; otherwise there is nothing to do.

        Raises:
            KeyError: there is no such tunnel.
        """
        endpoint = self.tunnel(name).config.permit_group
        if all(each.endpoint != endpoint for each in self._gate.stats.breakers):
            return False
        self._tell_governor(TryNow(endpoint, name))
        return True

    def connect_stats(self) -> ConnectStats:
        """Return who waits for a permit, what is suspended, which endpoints are down."""
        self._check_process()
        return self._gate.snapshot()

    def _tell_governor(self, message: GateChanged | TryNow) -> None:
        governor = self._services.governor
        if governor is not None and governor.is_alive():
            governor.tell(message)

    @property
    def collector(self) -> TunnelCollector:
        """Its metrics, for any registry of prometheus_client: `registry.register(...)`."""
        present = self._present
        with present.lock:
            if present.collector is None:
                present.collector = self._make_collector()
            return present.collector

    def _make_collector(self) -> TunnelCollector:
        # It is imported here, as most single tunnels are never asked for metrics.
        from .metrics import TunnelCollector  # noqa: PLC0415

        present = self._present
        return TunnelCollector(
            self._meter,
            self._kernel,
            self._callbacks,
            lambda: present.engine.threads.thread_count,
            self._name,
            connects=self._gate.snapshot,
        )

    @property
    def dispatchers(self) -> list[kernel.Dispatcher]:
        """The running dispatchers; none before `start` and after `stop`."""
        return self._kernel.dispatchers

    def stats(self) -> RuntimeStats:
        """Return what the runtime itself uses."""
        self._check_process()
        return RuntimeStats.of(len(self._registry), self._engine.dispatchers)

    @property
    def callback_threads(self) -> RelayThreads:
        """The threads on which callbacks run."""
        return self._engine.threads

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        """Wait until `condition()` holds, looking at it whenever something happens to a tunnel.

        Returns:
            Whether it did within the time.
        """
        return self._changes.wait_until(condition, timeout_seconds)


def _child_of(engine: Engine, tunnel: Tunnel) -> kernel.ChildSpec:
    return tunnel_spec(tunnel, engine.parts, engine.dispatcher(tunnel.dispatcher_number))
