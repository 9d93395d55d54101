"""TunnelRuntime: many tunnels in one process, as a person holds them.

Owns the dispatchers, the connect threads and the root supervisor, and the names of the tunnels.
What a tunnel does is in `tunnelfleet.actors`. Nothing happens at import: no thread, no
registration, no signal handler, no logging set-up.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

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
)
from tunnelfleet.actors.messages import Drain, ReplaceToken
from tunnelfleet.actors.services import Services
from tunnelfleet.actors.stats import TunnelState, TunnelStats
from tunnelfleet.actors.tunnel_actor import TunnelContext
from tunnelfleet.actors.tunnel_supervisor import TunnelSupervisor
from tunnelfleet.proto import ConfigError, TunnelClosed, TunnelError

from .tls import make_ssl_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping

    from pykka import ActorRef

    from tunnelfleet.actors.config import Address, TunnelConfig
    from tunnelfleet.actors.events import TunnelEvent
    from tunnelfleet.proto import Mode

__all__ = ["RuntimeStats", "RuntimeSupervisor", "Tunnel", "TunnelRuntime", "TunnelStatus"]

ASK_TIMEOUT_SECONDS = 10.0
STOP_MARGIN_SECONDS = 3.0
"""Added to a tunnel's own stop timeout before its supervisor is killed."""
TUNNEL_BACKOFF = Backoff(min_seconds=0.5, max_seconds=60.0)
QUARANTINE_AFTER = 5
GOVERNOR = "governor"
RELAY = "events"
WAIT_SLICE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """What a tunnel looked like at one moment.

    `since` is in seconds of the Unix epoch; `sent` is local to the wire, `received` the other way,
    both DATA payload bytes.
    """

    name: str
    mode: Mode
    state: TunnelState
    reason: str
    since: float
    service_ids: tuple[str, ...]
    listening: Mapping[str, tuple[str, ...]]
    streams_active: int
    connections_active: int
    streams_opened: int
    connections_opened: int
    sent_bytes: int
    received_bytes: int
    reconnects: int
    session_resets: int
    connect_attempts: int
    connect_failures: int
    channel_id: str
    last_event: str


@dataclass(frozen=True, slots=True)
class RuntimeStats:
    """What the runtime itself uses."""

    tunnels: int
    dispatchers: int
    threads: int
    messages_handled: int
    dead_letters: int
    longest_turn_seconds: float


class Tunnel:
    """A handle on one tunnel of a runtime."""

    def __init__(self, runtime: TunnelRuntime, context: TunnelContext) -> None:
        self._runtime = runtime
        self._context = context
        self._supervisor: ActorRef[Any] | None = None

    def __repr__(self) -> str:
        return f"<Tunnel {self.name!r} {self.mode} {self.stats.state}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self._context.config.name

    @property
    def mode(self) -> Mode:
        """Source or destination."""
        return self._context.config.mode

    @property
    def config(self) -> TunnelConfig:
        """What it was opened with."""
        return self._context.config

    @property
    def stats(self) -> TunnelStats:
        """Its live counters; read only."""
        return self._context.stats

    @property
    def listening(self) -> Mapping[str, Address]:
        """Source: the addresses that are listened on, by service id."""
        bound = dict(self._context.bound)
        return {
            service: bound[service] for service in list(self.stats.listening) if service in bound
        }

    def status(self) -> TunnelStatus:
        """Look at it."""
        stats = self.stats
        return TunnelStatus(
            name=self.name,
            mode=self.mode,
            state=stats.state,
            reason=stats.reason,
            since=stats.since,
            service_ids=stats.service_ids,
            listening=dict(stats.listening),
            streams_active=stats.sum("streams_active"),
            connections_active=stats.sum("connections_active"),
            streams_opened=stats.sum("streams_opened"),
            connections_opened=stats.sum("connections_opened"),
            sent_bytes=stats.sum("sent_bytes"),
            received_bytes=stats.sum("received_bytes"),
            reconnects=sum(stats.reconnects.values()),
            session_resets=stats.session_resets,
            connect_attempts=stats.connect_attempts,
            connect_failures=sum(stats.connect_failures.values()),
            channel_id=stats.channel_id,
            last_event=stats.last_event,
        )

    def wait_for(
        self, states: TunnelState | Iterable[TunnelState], timeout_seconds: float
    ) -> TunnelStatus:
        """Wait until the tunnel is in one of `states`.

        Raises:
            TimeoutError: it was not within the time; the message says what it was instead, and why.
        """
        wanted = {states} if isinstance(states, TunnelState) else set(states)
        self._runtime.wait_until(lambda: self.stats.state in wanted, timeout_seconds)
        status = self.status()
        if status.state in wanted:
            return status
        names = " or ".join(sorted(wanted))
        raise TimeoutError(
            f"tunnel {self.name!r} is not {names} after {timeout_seconds:g} s: "
            f"it is {status.state} ({status.reason or 'no reason given'})"
        )

    def wait_listening(self, service_id: str, timeout_seconds: float) -> Address:
        """Wait until a source listens for `service_id` and return where.

        Raises:
            TimeoutError: it did not within the time.
        """
        self._runtime.wait_until(lambda: service_id in self.listening, timeout_seconds)
        address = self.listening.get(service_id)
        if address is None:
            raise TimeoutError(
                f"tunnel {self.name!r} does not listen for {service_id!r} after "
                f"{timeout_seconds:g} s: {self.stats.last_event}"
            )
        return address


class RuntimeSupervisor(SupervisorActor):
    """The root of a runtime's actors."""

    def __init__(self, services: Services, children: list[ChildSpec]) -> None:
        self._services = services
        super().__init__(children)

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
        on_event: called with each `TunnelEvent`, in order, on a thread of its own.
    """

    def __init__(
        self,
        *,
        dispatchers: int = 1,
        connect_rate_per_second: float = 10.0,
        connect_concurrency: int = 4,
        ssl_context: ssl.SSLContext | None = None,
        on_event: Callable[[TunnelEvent], None] | None = None,
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
        self._next_dispatcher = itertools.cycle([0])
        self._connector: Connector | None = None
        self._supervisor: ActorRef[Any] | None = None
        self._tunnels: dict[str, Tunnel] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition()

    # -- life

    def start(self) -> Self:
        """Start the threads and the root supervisor.

        Raises:
            TunnelError: it runs already.
        """
        if self._supervisor is not None:
            raise TunnelError("the runtime is running already: start it once")
        self._connector = Connector(self._concurrency)
        self._dispatchers = [
            Dispatcher(f"tunnelfleet-{number}").start() for number in range(self._dispatcher_count)
        ]
        self._next_dispatcher = itertools.cycle(range(len(self._dispatchers)))
        home = self._dispatchers[0]
        self._supervisor = RuntimeSupervisor.start(
            self._services, self._root_children(), dispatcher=home, register=True
        )
        return self

    def _root_children(self) -> list[ChildSpec]:
        def start_governor() -> ActorRef[Any]:
            return ConnectGovernor.start(rate_per_second=self._rate, concurrency=self._concurrency)

        def start_relay() -> ActorRef[Any]:
            return EventRelay.start(self._observe, self._callback)

        return [
            ChildSpec(id=RELAY, start=start_relay),
            ChildSpec(id=GOVERNOR, start=start_governor),
        ]

    def stop(self, timeout_seconds: float = 15.0) -> None:
        """Stop all tunnels in good order, then the threads. Safe to call twice."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        try:
            supervisor.stop(block=True, timeout=timeout_seconds)
        finally:
            for dispatcher in self._dispatchers:
                dispatcher.stop()
            if self._connector is not None:
                self._connector.close()
            with self._lock:
                self._tunnels.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    # -- tunnels

    def open_tunnel(self, config: TunnelConfig) -> Tunnel:
        """Open a tunnel; it connects, and stays connected, until it is closed.

        Raises:
            ConfigError: its name is taken.
            TunnelClosed: the runtime does not run.
        """
        supervisor = self._running()
        if (
            config.endpoint.is_tls
            and config.ssl_context is None
            and self._services.ssl_context is None
        ):
            self._services.ssl_context = make_ssl_context()
        tunnel = self._add(config)
        dispatcher = self._dispatchers[next(self._next_dispatcher)]
        context = tunnel._context  # noqa: SLF001

        def start() -> ActorRef[Any]:
            tunnel._supervisor = TunnelSupervisor.start(context, dispatcher=dispatcher)  # noqa: SLF001
            return tunnel._supervisor  # noqa: SLF001

        spec = ChildSpec(
            id=f"tunnel {config.name}",
            start=start,
            restart=Restart.PERMANENT,
            shutdown=config.limits.stop_timeout_seconds + STOP_MARGIN_SECONDS,
            backoff=TUNNEL_BACKOFF,
            quarantine_after=QUARANTINE_AFTER,
        )
        try:
            supervisor.ask(StartChild(spec), block=True, timeout=ASK_TIMEOUT_SECONDS)
        except BaseException:
            self._remove(config.name)
            raise
        return tunnel

    def _add(self, config: TunnelConfig) -> Tunnel:
        assert self._connector is not None
        context = TunnelContext(
            config=config,
            credentials=Credentials(config.access_token, config.client_token),
            stats=TunnelStats(),
            connector=self._connector,
            services=self._services,
            bound={},
        )
        tunnel = Tunnel(self, context)
        with self._lock:
            if config.name in self._tunnels:
                raise ConfigError(f"there is a tunnel {config.name!r} already: choose another name")
            self._tunnels[config.name] = tunnel
        return tunnel

    def _remove(self, name: str) -> None:
        with self._lock:
            self._tunnels.pop(name, None)

    def close_tunnel(self, name: str, *, timeout_seconds: float = 15.0) -> TunnelStatus:
        """Close a tunnel: what was read is sent first, within its stop timeout.

        Returns:
            What it looked like at its end.

        Raises:
            KeyError: there is no such tunnel.
        """
        tunnel = self.tunnel(name)
        supervisor = self._running()
        child_id = f"tunnel {name}"
        supervisor.ask(StopChild(child_id), timeout=timeout_seconds)
        supervisor.ask(DeleteChild(child_id), timeout=ASK_TIMEOUT_SECONDS)
        self._remove(name)
        return tunnel.status()

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

    def subscribe(self, subscriber: ActorRef[Any]) -> None:
        """Send every `TunnelEvent` to an actor, as a message."""
        self._running()
        self._tell_relay(Subscribe(subscriber))

    def unsubscribe(self, subscriber: ActorRef[Any]) -> None:
        """Stop that."""
        self._tell_relay(Unsubscribe(subscriber))

    def _tell_relay(self, message: Any) -> None:
        relay = self._services.relay
        if relay is not None and relay.is_alive():
            relay.tell(message)

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
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while not condition():
                left_seconds = deadline - time.monotonic()
                if left_seconds <= 0:
                    return False
                self._changed.wait(min(left_seconds, WAIT_SLICE_SECONDS))
        return True

    def _observe(self, _event: TunnelEvent) -> None:
        with self._changed:
            self._changed.notify_all()

    def _running(self) -> ActorRef[Any]:
        if self._supervisor is None:
            raise TunnelClosed("the runtime is not running: call start() first")
        return self._supervisor
