"""NotifyActor: opens the tunnels that brokers tell this gateway's devices of.

It does not decide (`book`) and runs no tunnel: it tells FleetActor what is wanted, as the source
`notify`. A notification is acknowledged once its token is in the state, or could not be put there
at the first try. Brokers are reached when what was kept is known, so that duplicates are. `Devices`
is the part of a gateway that starts the actor, which `DeviceState` outlives.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self

from prometheus_client import Metric
from pykka import ActorRef

from tunnelfleet.actors.kernel import ChildSpec, DispatchedActor
from tunnelfleet.proto import TunnelClosed, counted
from tunnelfleet.runtime import TunnelRuntime, TunnelState, TunnelStateChanged
from tunnelfleet.runtime.gateway import messages
from tunnelfleet.runtime.gateway.supervisor import FLEET, NOTIFY, child

from .book import Decision, DeviceTunnel, Sections, Verdict
from .log import log_broker, log_end, log_kept, log_notification, log_subscriptions, log_wrong
from .notification import Arrived, ConnectionChanged, Notification, SubscriptionRefused
from .state import Brokers, DeviceKeeper, DeviceState, KeepsDevices, failure_of

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.gateway import Gateway


CONFIRM_SECONDS: Final = 2.0
"""A tunnel that is refused so long is: another token for it may be on its way."""
SWEEP_SECONDS: Final = 30.0
"""How often what was missed is looked for: ends of tunnels, tokens that could not be kept."""
AGAIN_SECONDS: Final = 0.5
"""After which FleetActor is told again, if it was not there."""

logger = logging.getLogger(__name__)


class _Restored(NamedTuple):
    """What was kept has been read, or could not be."""

    tunnels: list[DeviceTunnel] | None
    failure: str | None


class _Saved(NamedTuple):
    """A token is kept, or could not be."""

    token_hash: str
    failure: str | None
    arrived: Arrived | None


class _Forgotten(NamedTuple):
    """Tokens are kept no more, or still are."""

    token_hashes: tuple[str, ...]
    failure: str | None


class _Confirm(NamedTuple):
    """Is a tunnel still refused that was a moment ago?"""

    name: str
    token_hash: str


class _Sweep(NamedTuple):
    """It is time to look at all."""


class _TellAgain(NamedTuple):
    """FleetActor was not there."""


class NotifyActor(DispatchedActor):
    """The devices of a gateway.

    Args:
        state: what it knows; outlives it.
        keeper: the thread of the state; ended with this actor.
        runtime: whose tunnels, or was before another took its place.
        tell_fleet: tells FleetActor, and returns whether it was there.
    """

    def __init__(
        self,
        state: DeviceState,
        keeper: DeviceKeeper,
        runtime: TunnelRuntime,
        tell_fleet: Callable[[Any], bool],
    ) -> None:
        super().__init__()
        self._state = state
        self._book = state.book
        self._keeper = keeper
        self._runtime = runtime
        self._tell_fleet = tell_fleet
        self._brokers = Brokers(self.actor_ref.tell, state)
        self._is_loaded = False
        self._has_tried = False
        self._is_telling_again = False

    def on_start(self) -> None:
        """Take up what was kept, then reach the brokers."""
        self._subscribe()
        self._take_files()
        self._tell_all()
        self._load()
        self.schedule(SWEEP_SECONDS, _Sweep())

    def on_stop(self) -> None:
        """End what it owns."""
        self._brokers.end()
        self._keeper.end()

    def on_failure(self, *_exc_info: Any) -> None:
        """The same."""
        self.on_stop()

    def on_receive(self, message: Any) -> Any:
        """Dispatch by the message's type."""
        handler = self.HANDLERS.get(type(message))
        if handler is None:
            return super().on_receive(message)
        return handler(self, message)

    def _subscribe(self) -> None:
        try:
            self._runtime.present.subscribe(self.actor_ref, kinds=(TunnelStateChanged,))
        except TunnelClosed:
            # It is told when the core runs again.
            return

    # -- files

    def _take_files(self) -> None:
        self._book.sections = Sections(self._state.fleet.config.notify)
        if self._has_tried:
            self._brokers.change(self._book.sections.all)

    def _on_files_taken(self, _message: messages.FilesTaken) -> None:
        self._take_files()
        self._tell_all()

    # -- what is wanted

    def _tell_all(self) -> None:
        self._tell(messages.SetWanted(NOTIFY, self._book.wishes()))

    def _tell(self, message: Any) -> None:
        if not self._tell_fleet(message) and not self._is_telling_again:
            self._is_telling_again = True
            self.schedule(AGAIN_SECONDS, _TellAgain())

    def _on_tell_again(self, _message: _TellAgain) -> None:
        self._is_telling_again = False
        self._tell_all()

    # -- what was kept

    def _load(self) -> None:
        future = self._keeper.load()
        if future is not None:
            self.pipe_to_self(future, _loaded)

    def _on_loaded(self, message: _Restored) -> None:
        if message.tunnels is None:
            logger.log(
                # Once; whoever wants to know sees each try.
                logging.DEBUG if self._has_tried else logging.ERROR,
                "the tunnels of devices that were kept cannot be read, and are tried again: %s",
                message.failure,
            )
        else:
            self._is_loaded = True
            found = self._book.restore(message.tunnels, self._state.is_taken)
            if found:
                text = counted(len(found), "tunnel", "is", "are")
                logger.info(
                    "%s taken up again: devices know of it",
                    text,
                    extra={"event": "device_tunnels_restored"},
                )
                self._tell_all()
            self._save_unsaved()
        if not self._has_tried:
            self._has_tried = True
            self._brokers.change(self._book.sections.all)

    def _save(self, tunnel: DeviceTunnel, arrived: Arrived | None) -> None:
        token_hash = tunnel.notification.token_hash
        self._state.unsaved[token_hash] = None
        future = self._keeper.save(tunnel) if self._is_loaded else None
        if future is None:
            self._on_saved(_Saved(token_hash, "it was not read so far", arrived))
            return
        self.pipe_to_self(future, lambda done: _Saved(token_hash, failure_of(done), arrived))

    def _on_saved(self, message: _Saved) -> None:
        if message.arrived is not None:
            message.arrived.connection.done(message.arrived)
        unsaved = self._state.unsaved
        if message.failure is None:
            unsaved.pop(message.token_hash, None)
        log_kept(self._state, message.failure)

    def _save_unsaved(self) -> None:
        by_hash = {each.notification.token_hash: each for each in self._book.tunnels.values()}
        for token_hash in list(self._state.unsaved):
            tunnel = by_hash.get(token_hash)
            if tunnel is None:
                del self._state.unsaved[token_hash]
            else:
                self._save(tunnel, None)

    def _forget(self, token_hashes: Iterable[str]) -> None:
        hashes = tuple(token_hashes)
        for each in hashes:
            self._state.unsaved.pop(each, None)
            self._state.unforgotten[each] = None
        future = self._keeper.forget(hashes) if self._is_loaded else None
        if future is not None:
            self.pipe_to_self(future, lambda done: _Forgotten(hashes, failure_of(done)))

    def _on_forgotten(self, message: _Forgotten) -> None:
        if message.failure is None:
            for each in message.token_hashes:
                self._state.unforgotten.pop(each, None)

    # -- notifications

    def _on_arrived(self, message: Arrived) -> None:
        if message.notification is None:
            self._state.counters.notifications[Verdict.INVALID] += 1
            log_wrong(self._state, message)
            message.connection.done(message)
            return
        notification, broker = message.notification, str(message.connection.settings)
        before = self._book.hashes_of(notification.thing)
        decision = self._book.take(broker, notification, time.time(), self._state.is_taken)
        self._state.counters.notifications[decision.outcome] += 1
        log_notification(self._state, notification, broker, decision)
        self._audit(notification, broker, decision)
        if decision.tunnel is None:
            message.connection.done(message)
            return
        self._save(decision.tunnel, message)
        self._carry_out(decision)
        gone = [each for each in before if not self._book.has_token(each)]
        if gone:
            self._forget(gone)

    def _carry_out(self, decision: Decision) -> None:
        if decision.gives_way is not None:
            self._tell(messages.RemoveWanted(NOTIFY, decision.gives_way))
        assert decision.wish is not None
        self._tell(messages.PutWanted(NOTIFY, decision.wish))

    def _audit(self, notification: Notification, broker: str, decision: Decision) -> None:
        for service_id in decision.refused:
            self._state.note_refused(notification.thing, service_id, broker)

    # -- connections

    def _on_connection_changed(self, message: ConnectionChanged) -> None:
        log_broker(self._state, message)

    def _on_subscription_refused(self, message: SubscriptionRefused) -> None:
        log_subscriptions(self._state, message)

    # -- tunnels

    def _on_state_changed(self, event: TunnelStateChanged) -> None:
        name = event.tunnel
        if name not in self._book.tunnels or self._state.is_taken(name):
            return
        if event.state is TunnelState.REFUSED:
            token_hash = self._book.tunnels[name].notification.token_hash
            self.schedule(CONFIRM_SECONDS, _Confirm(name, token_hash))
        if event.state is TunnelState.CONNECTED:
            self._book.link_up(name)
        else:
            self._book.link_down(name, time.time())

    def _on_confirm(self, message: _Confirm) -> None:
        tunnel = self._book.tunnels.get(message.name)
        if tunnel is not None and tunnel.notification.token_hash == message.token_hash:
            self._end_if_refused(message.name)

    def _end_if_refused(self, name: str) -> None:
        """The service does not take the token: the tunnel was closed, or it was rotated."""
        running = self._state.fleet.running.get(name)
        token = self._book.tunnels[name].notification.access_token
        try:
            tunnel = self._runtime.present.tunnel(name)
        except (KeyError, TunnelClosed):
            return
        is_this = running is not None and running.tunnel.access_token == token
        if is_this and tunnel.stats.state is TunnelState.REFUSED:
            self._end(name, tunnel.reason)

    def _end(self, name: str, reason: str) -> None:
        tunnel = self._book.drop(name)
        if tunnel is not None:
            log_end(tunnel, reason)
            self._forget([tunnel.notification.token_hash])
            self._tell(messages.RemoveWanted(NOTIFY, name))

    # -- now and then

    def _on_sweep(self, _message: _Sweep) -> None:
        self.schedule(SWEEP_SECONDS, _Sweep())
        if not self._is_loaded:
            self._load()
        else:
            self._save_unsaved()
            if self._state.unforgotten:
                self._forget(tuple(self._state.unforgotten))
        for name in self._book.outdated(time.time()):
            self._end(name, "its thing has gone from the files")
        # An event can be missed while the core or this actor is started again.
        for name in list(self._book.tunnels):
            if not self._state.is_taken(name):
                self._end_if_refused(name)

    def _on_runtime_started(self, _message: messages.RuntimeStarted) -> None:
        self._subscribe()

    HANDLERS: ClassVar[dict[type[Any], Callable[[Any, Any], Any]]] = {
        Arrived: _on_arrived,
        ConnectionChanged: _on_connection_changed,
        SubscriptionRefused: _on_subscription_refused,
        TunnelStateChanged: _on_state_changed,
        messages.FilesTaken: _on_files_taken,
        messages.RuntimeStarted: _on_runtime_started,
        _Restored: _on_loaded,
        _Saved: _on_saved,
        _Forgotten: _on_forgotten,
        _Confirm: _on_confirm,
        _Sweep: _on_sweep,
        _TellAgain: _on_tell_again,
    }


def _loaded(future: Future[list[DeviceTunnel]]) -> _Restored:
    failure = failure_of(future)
    return _Restored(None if failure is not None else future.result(), failure)


CLOSE_SECONDS: Final = 5.0
"""For the threads of all connections together; one that waits for a look-up ends by itself."""


class Devices:
    """The devices of a gateway. A context manager, around the gateway's.

    Args:
        store: keeps their tokens and takes refusals down; None keeps nothing.
    """

    def __init__(self, store: KeepsDevices | None = None) -> None:
        self._store = store
        self._keepers: list[DeviceKeeper] = []
        self.state: DeviceState | None = None
        """What is known of them, once the gateway has started; to be read only."""

    def child(self, gateway: Gateway) -> ChildSpec:
        """How the gateway runs their actor, as one of `more_children`."""
        state = self.state = DeviceState(gateway.state, self._store)
        gateway.collector.add(self.collect)
        return child(NOTIFY, functools.partial(self._start, state, gateway))

    def _start(self, state: DeviceState, gateway: Gateway) -> ActorRef[Any]:
        keeper = DeviceKeeper(self._store)
        self._keepers.append(keeper)
        tell_fleet = functools.partial(gateway.refs.tell, FLEET)
        return NotifyActor.start(state, keeper, gateway.runtime, tell_fleet)

    def collect(self) -> Iterator[Metric]:
        """Their metrics."""
        if self.state is not None:
            yield from self.state.counters.collect()

    def brokers(self) -> list[dict[str, Any]]:
        """The connections to brokers, for `/readyz`."""
        return [] if self.state is None else self.state.brokers()

    def close(self) -> None:
        """Wait for the threads, when the gateway has ended. Safe to call twice."""
        for keeper in self._keepers:
            keeper.end()
            keeper.join()
        self._keepers.clear()
        state = self.state
        if state is None:
            return
        until = time.monotonic() + CLOSE_SECONDS
        for connection in (*state.connections, *state.ending):
            connection.end()
            connection.join(max(0.0, until - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()
