"""A tunnel as its owner holds it: the handle, the actors behind it, waiting for it and its events.

Owns the condition that `wait_for` and its like wait on, and the subscriptions of actors to the
events of a runtime. Any thread may use a handle; it must not know what the events mean.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pykka import ActorRef

from tunnelfleet.actors.addresses import Address
from tunnelfleet.actors.config import Limits, TunnelConfig
from tunnelfleet.actors.events import Subscribe, TunnelEvent, TunnelState, Unsubscribe
from tunnelfleet.actors.kernel import DispatchedFuture, Dispatcher, ask_future
from tunnelfleet.actors.local.applications import ListenerActor, LocalEnd, StreamActor
from tunnelfleet.actors.transport.attempt import WebSocketContext
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.transport.websocket_actor import WebSocketActor
from tunnelfleet.actors.tunnel.context import TunnelContext, TunnelParts
from tunnelfleet.actors.tunnel.messages import Drain, HandOver, ReplaceLimits, ReplaceToken
from tunnelfleet.actors.tunnel.supervisors import TunnelSupervisor
from tunnelfleet.proto import Mode, TunnelClosed, listed

if TYPE_CHECKING:
    from tunnelfleet.actors.api.outbox import Outbox
    from tunnelfleet.actors.counters import TunnelStats
    from tunnelfleet.actors.tunnel.context import ApiHandler, ApiShell, Services


@dataclass(frozen=True, slots=True)
class RuntimeStats:
    """What the runtime itself uses."""

    tunnels: int
    dispatchers: int
    threads: int
    messages_handled: int
    dead_letters: int
    longest_turn_seconds: float

    @classmethod
    def of(cls, tunnels: int, dispatchers: Sequence[Dispatcher]) -> Self:
        """Look at the dispatchers of a runtime with so many tunnels; `threads`: of the process."""
        kernels = [dispatcher.stats for dispatcher in dispatchers]
        return cls(
            tunnels=tunnels,
            dispatchers=len(kernels),
            threads=threading.active_count(),
            messages_handled=sum(kernel.messages_handled for kernel in kernels),
            dead_letters=sum(kernel.dead_letters for kernel in kernels),
            longest_turn_seconds=max((k.longest_turn_seconds for k in kernels), default=0.0),
        )


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


class Tunnel:
    """A handle on one tunnel of a runtime."""

    def __init__(
        self,
        changes: Changes,
        context: TunnelContext,
        dispatcher_number: int,
        outbox: Outbox | None = None,
        why_waiting: Callable[[str], str] = lambda _endpoint: "",
        start: Callable[[TunnelContext, Dispatcher], ActorRef[Any]] | None = None,
    ) -> None:
        self._start = start or _start_here
        self._changes = changes
        self._context = context
        self._outbox = outbox
        self._why_waiting = why_waiting
        self.dispatcher_number = dispatcher_number
        """Which of the runtime's dispatchers it lives on, now and after each restart."""
        self._supervisor: ActorRef[Any] | None = None
        self._lock = threading.Lock()
        """A command comes before a start of the actors, which then begin with it, or after it."""

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
    def reason(self) -> str:
        """Why it is in its state; of one that has not tried to connect yet, why it may not."""
        stats = self.stats
        if stats.state is TunnelState.CONNECTING and not stats.reason:
            return self._why_waiting(self.config.permit_group)
        return stats.reason

    @property
    def listening(self) -> Mapping[str, Address]:
        """Source: the addresses that are listened on, by service id."""
        bound = dict(self._context.bound)
        return {
            service: bound[service] for service in list(self.stats.listening) if service in bound
        }

    def start_actors(self, parts: TunnelParts, dispatcher: Dispatcher) -> ActorRef[Any]:
        """Start its supervisor, of the parts of the runtime's present run. For its root."""
        if self._outbox is not None:
            parts = with_api(parts, self._outbox)
        with self._lock:
            self._context = context = self._context._replace(parts=parts)
            self._supervisor = supervisor = self._start(context, dispatcher)
        return supervisor

    def _command(self, command: ReplaceToken | ReplaceLimits | Drain) -> None:
        """Tell the actors, if they are there, of what the context says by now. Holds the lock.

        Whatever crashes meanwhile, the next actors start with the context: a command may be lost
        with its message, and what it says is not.
        """
        supervisor = self._supervisor
        if supervisor is not None and supervisor.is_alive():
            supervisor.tell(command)

    def hand_over(self, message: HandOver) -> DispatchedFuture[Any]:
        """Have a source carry what comes over a socket that somebody else has accepted.

        Returns:
            A future of what `HandOver` says. It fails with `pykka.ActorDeadError` too, if the
            tunnel's actors are not there: then the socket stays the caller's, and it may ask again.

        Raises:
            TunnelClosed: the actors of the tunnel have not been started yet.
        """
        supervisor = self._supervisor
        if supervisor is None:
            raise TunnelClosed("the tunnel has not been started yet: try again")
        return ask_future(supervisor, message)

    def replace_token(self, access_token: str, client_token: str | None) -> None:
        """Go by another token from now on, and after each restart; for the runtime.

        Raises:
            ConfigError: a token is malformed.
        """
        with self._lock:
            self._context.credentials.replace(access_token, client_token)
            self._command(ReplaceToken())

    def replace_limits(self, limits: Limits) -> None:
        """Go by other limits from now on, and after each restart; for the runtime."""
        with self._lock:
            self._context = self._context.with_limits(limits)
            self._command(ReplaceLimits(limits))

    def drain(self) -> None:
        """Take no new connections from now on, nor after a restart; for the runtime."""
        with self._lock:
            self._context = self._context._replace(is_draining=True)
            self._command(Drain())

    def finish(self) -> None:
        """Answer what its user still waits for, once its actors are over; for the runtime."""
        if self._outbox is not None:
            self._outbox.finish(TunnelClosed("the tunnel is stopped"))

    def status(self) -> TunnelStatus:
        """Return how the tunnel is now."""
        stats = self.stats
        return TunnelStatus(
            name=self.name,
            mode=self.mode,
            state=stats.state,
            reason=self.reason,
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
        self, states: TunnelState | str | Iterable[TunnelState | str], timeout_seconds: float
    ) -> TunnelStatus:
        """Wait until the tunnel is in one of `states`.

        Args:
            states: one state, or several, such as `TunnelState.CONNECTED` or `"connected"`.
            timeout_seconds: how long to wait.

        Raises:
            TimeoutError: it was not within the time; the message says what it is instead, and why.
            ValueError: there is no such state, or none is given.
        """
        given = [states] if isinstance(states, str) else list(states)
        wanted = {TunnelState(each) for each in given}
        if not wanted:
            raise ValueError("wait_for: no state is given; name one, such as TunnelState.CONNECTED")
        self._changes.wait_until(lambda: self.stats.state in wanted, timeout_seconds)
        status = self.status()
        if status.state in wanted:
            return status
        names = listed([each for each in TunnelState if each in wanted], "or")
        why = f" ({status.reason})" if status.reason else ""
        raise TimeoutError(
            f"tunnel {self.name!r} is not {names} after {timeout_seconds:g} s: "
            f"it is {status.state}{why}"
        )

    def wait_listening(self, service_id: str, timeout_seconds: float) -> Address:
        """Wait until a source listens for `service_id` and return where.

        Raises:
            TimeoutError: it did not within the time.
        """
        self._changes.wait_until(lambda: service_id in self.listening, timeout_seconds)
        address = self.listening.get(service_id)
        if address is None:
            raise TimeoutError(
                f"tunnel {self.name!r} does not listen for {service_id!r} after "
                f"{timeout_seconds:g} s: {self.stats.last_event or self.stats.state}"
            )
        return address


def _start_here(context: TunnelContext, dispatcher: Dispatcher) -> ActorRef[Any]:
    return TunnelSupervisor.start(context, dispatcher=dispatcher)


def make_parts(connector: Connector) -> TunnelParts:
    """Return the makers of the parts of all tunnels of a run, as they are without a client API.

    Args:
        connector: of this run of the runtime.
    """

    def websocket(
        context: TunnelContext, tunnel: ActorRef[Any], supervisor: ActorRef[Any], epoch: int
    ) -> ActorRef[Any]:
        services = context.services
        assert services.governor is not None
        given = WebSocketContext(
            context.config,
            context.credentials,
            tunnel,
            services.governor,
            supervisor,
            connector,
            services.ssl_context,
            context.stats,
        )
        return WebSocketActor.start(given, epoch)

    def listener(
        service_id: str,
        address: Address,
        tunnel: ActorRef[Any],
        limits: Limits,
        bound: dict[str, Address],
    ) -> ActorRef[Any]:
        return ListenerActor.start(service_id, address, tunnel, limits, bound, connector)

    def stream(
        tunnel: ActorRef[Any], address: Address | None, local_bind: str | None, limits: Limits
    ) -> ActorRef[Any]:
        return StreamActor.start(tunnel, LocalEnd(address, local_bind, limits, connector))

    return TunnelParts(websocket, listener, stream)


def with_api(parts: TunnelParts, outbox: Outbox) -> TunnelParts:
    """Return the parts of a tunnel whose client API is served through `outbox`."""

    def api(config: TunnelConfig, shell: ApiShell) -> ApiHandler:
        # A tunnel without a client API does without.
        from tunnelfleet.actors.api.handler import TunnelApi  # noqa: PLC0415

        handler = TunnelApi(outbox, config, shell)
        outbox.attach(shell.tunnel)
        return handler

    return parts._replace(api=api)


WAIT_SLICE_SECONDS = 0.5
WAIT_REST = 4
"""`wait_until` rests so many times as long as its condition took."""


class Changes:
    """What has happened so far, as a number. Any thread.

    Args:
        check: raises where nothing can happen any more.
    """

    def __init__(self, check: Callable[[], object] = lambda: None) -> None:
        self._check = check
        self._changed = threading.Condition()
        self._count = 0
        """Events so far; `_changed` guards it."""

    def note(self, _event: object = None) -> None:
        """Something has happened: let those who wait look again. Does not block."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        """Wait until `condition()` holds, looking at it whenever something has happened.

        Returns:
            Whether it held within the time; it is looked at once even if there is none.
        """
        self._check()
        looked = time.monotonic()
        deadline = looked + timeout_seconds
        seen = self._count
        while not condition():
            now = time.monotonic()
            if now >= deadline:
                return False
            # Over thousands of tunnels it takes a while, and each of them brings several events.
            time.sleep(min((now - looked) * WAIT_REST, deadline - now, WAIT_SLICE_SECONDS))
            slice_seconds = min(max(deadline - time.monotonic(), 0.0), WAIT_SLICE_SECONDS)
            with self._changed:
                if self._count == seen:
                    self._changed.wait(slice_seconds)
                seen = self._count
            looked = time.monotonic()
        return True


class Subscriptions:
    """The subscribers of a runtime. Any thread.

    Args:
        services: where the present relay is.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._by_urn: dict[str, Subscribe] = {}

    def present(self) -> list[Subscribe]:
        """Return all subscriptions, for a relay that starts."""
        return list(self._by_urn.values())

    def add(
        self,
        subscriber: ActorRef[Any],
        tunnels: Iterable[str] | None = None,
        kinds: Iterable[type[TunnelEvent]] | None = None,
    ) -> None:
        """Tell an actor of events; it replaces what the actor asked for before.

        Args:
            subscriber: any pykka actor.
            tunnels: the names of those to tell of; None for all, later ones too.
            kinds: the classes of events to tell of; None for all.
        """
        self._forget_the_dead()
        self._by_urn[subscriber.actor_urn] = subscription = Subscribe(
            subscriber,
            None if tunnels is None else frozenset(tunnels),
            None if kinds is None else frozenset(kinds),
        )
        self._tell_relay(subscription)

    def remove(self, subscriber: ActorRef[Any]) -> None:
        """Stop that; harmless for an actor that is none."""
        self._by_urn.pop(subscriber.actor_urn, None)
        self._tell_relay(Unsubscribe(subscriber))

    def _forget_the_dead(self) -> None:
        # The relay watches them; here nobody tells of their end.
        for urn, subscription in list(self._by_urn.items()):
            if not subscription.subscriber.is_alive():
                self._by_urn.pop(urn, None)

    def _tell_relay(self, message: Subscribe | Unsubscribe) -> None:
        relay = self._services.relay
        if relay is not None and relay.is_alive():
            relay.tell(message)
