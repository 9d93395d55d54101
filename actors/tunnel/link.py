"""The layer of TunnelActor that follows the life of its WebSocket and its listeners.

It turns what the TransportSupervisor tells into the state of the tunnel, and lets the listeners
accept while there is a connection. docs/architecture.md section 4.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tunnelfleet.actors import events
from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import ANY_SERVICE, ApiService, NoListener
from tunnelfleet.actors.kernel import (
    ChildSpec,
    DeleteChild,
    Restart,
    RestartChild,
    StartChild,
    StopChild,
    ask_future,
)
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.state import TunnelState
from tunnelfleet.proto import (
    ConnectionLost,
    Mode,
    RemoteProtocolError,
    ServicesAnnounced,
    TunnelClosed,
    TunnelError,
)

from .core import WEBSOCKET_CHILD, AnnounceTimedOut
from .messages import (
    Abandon,
    AttachTransport,
    ChildEnded,
    ChildQuarantined,
    ChildStarted,
    ChildWaiting,
    ConnectionEstablished,
    ConnectionRefused,
    ListenerBound,
    SetAccepting,
    SocketsExhausted,
)
from .streams import TunnelStreams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pykka import ActorRef

    from tunnelfleet.actors.addresses import Address
    from tunnelfleet.actors.kernel import ExitReason
    from tunnelfleet.actors.kernel.actor import Handlers

__all__ = [
    "TunnelLink",
    "lost_reason",
]


LISTENER_SHUTDOWN_SECONDS = 1.0
TOO_MANY_LOG_SECONDS = 60.0
"""Between two log lines of a tunnel that more services are announced than it listens on."""

logger = get_logger(__name__)


class _ListenerStopped(NamedTuple):
    """A listener that is not wanted any more has ended."""

    transport: ActorRef[Any]
    child_id: str


def lost_reason(reason: ExitReason) -> TunnelError:
    """The error that a connection ended with, whatever ended it."""
    if isinstance(reason.exception, TunnelError):
        return reason.exception
    if reason.is_failure:
        return ConnectionLost("crashed", f"the connection's actor failed: {reason}")
    return TunnelClosed(str(reason))


class TunnelLink(TunnelStreams):
    """Follows the connection and the listeners."""

    # -- the transport's children

    def _attach_transport(self, message: AttachTransport) -> None:
        self._transport = message.supervisor
        if self._draining:
            self._finish_quiesce()
            return
        services = self._config.services
        if self._config.mode is Mode.SOURCE and services is not None:
            for service_id, address in services.items():
                if not isinstance(address, ApiService | NoListener):
                    self._start_listener(f"listener {service_id}", service_id, address)

    def _start_listener(self, child_id: str, service_id: str, address: Address) -> None:
        assert self._transport is not None
        context, tunnel = self._context, self.actor_ref
        self._listener_children[child_id] = service_id

        def start() -> ActorRef[Any]:
            start_listener = context.parts.listener
            return start_listener(service_id, address, tunnel, context.config.limits, context.bound)

        self._transport.tell(
            StartChild(
                ChildSpec(
                    id=child_id,
                    start=start,
                    restart=Restart.PERMANENT,
                    shutdown=LISTENER_SHUTDOWN_SECONDS,
                    backoff=self._limits.backoff,
                )
            )
        )

    def _on_listener_bound(self, message: ListenerBound) -> None:
        self._listeners[message.service_id] = message.listener
        addresses = (message.address, *message.others)
        self._stats.listening[message.service_id] = tuple(map(str, addresses))
        self._stats.last_event = f"listening on {message.address}"
        for address in addresses:
            self._publish(events.ListenerOpened(self._config.name, message.service_id, address))
        message.listener.tell(SetAccepting(self._accepting))

    def _on_child_started(self, message: ChildStarted) -> None:
        if message.child_id == WEBSOCKET_CHILD:
            self._websocket_child = message.ref
            if not self._draining and self._quiesce is None:
                self._enter(TunnelState.CONNECTING, self._lost_text)

    def _on_child_ended(self, message: ChildEnded) -> None:
        if message.child_id == WEBSOCKET_CHILD:
            self._on_websocket_ended(message)
        elif message.child_id.startswith("listener "):
            self._on_listener_ended(message)
        else:
            self._on_stream_actor_ended(message)

    def _on_listener_ended(self, message: ChildEnded) -> None:
        service_id = message.child_id.removeprefix("listener ")
        if self._has_free_listeners:
            service_id = service_id.partition(" ")[2]
        if self._listeners.get(service_id) == message.ref:
            # Not its successor, if the service was announced anew.
            del self._listeners[service_id]
            self._stats.listening.pop(service_id, None)
        reason = str(message.reason.exception or "") if message.reason.is_failure else ""
        if reason:
            self._stats.last_event = reason
        self._publish(events.ListenerClosed(self._config.name, service_id, reason))

    def _on_child_waiting(self, message: ChildWaiting) -> None:
        if message.child_id != WEBSOCKET_CHILD:
            return
        if self._restart_at_once:
            self._restart_at_once = False
            assert self._transport is not None
            self._transport.tell(RestartChild(WEBSOCKET_CHILD))
        elif not self._draining and self._quiesce is None:
            delay = f"retry in {message.delay_seconds:.1f} s"
            text = f"{self._lost_text}; {delay}" if self._lost_text else delay
            self._enter(TunnelState.BACKOFF, text)

    def _on_child_quarantined(self, message: ChildQuarantined) -> None:
        if message.child_id == WEBSOCKET_CHILD:
            self._enter(TunnelState.QUARANTINED, f"its connection keeps failing: {message.reason}")

    # -- the WebSocket's life

    def _on_established(self, message: ConnectionEstablished) -> None:
        self._epoch = message.epoch
        self._websocket = message.websocket
        self._stats.channel_id = message.channel_id
        self._session.connected()
        self._announced = False
        self._abandoned = False
        self._paused = False
        self._low_water_bytes = self._limits.notsent_low_water_bytes
        self.schedule(self._limits.announce_timeout_seconds, AnnounceTimedOut(message.epoch))

    def _on_announce_timeout(self, message: AnnounceTimedOut) -> None:
        if message.epoch == self._epoch and not self._announced:
            seconds = self._limits.announce_timeout_seconds
            self._drop_connection(
                "announce_timeout", f"the service sent no SERVICE_IDS within {seconds:g} s"
            )

    def _drop_connection(self, label: str, text: str) -> None:
        if self._websocket is not None:
            self._abandoned = True
            self._websocket.tell(Abandon(label, RemoteProtocolError(text)))

    def _on_refused(self, message: ConnectionRefused) -> None:
        self._stats.count_connect_failure(f"http_{message.error.status}")
        if self._api is not None:
            self._api.tell_failure(message.error)
        self._lost_text = ""
        self._enter(TunnelState.REFUSED, str(message.error))
        if self._quiesce is not None:
            self._finish_quiesce()

    def _on_websocket_ended(self, message: ChildEnded) -> None:
        error = lost_reason(message.reason)
        if message.reason.is_failure:
            label = error.label if isinstance(error, ConnectionLost) else "crashed"
            self._lost_text = str(error)
            if self._websocket is None:
                self._stats.count_connect_failure(label)
                if self._api is not None:
                    self._api.tell_failure(error)
            else:
                self._lost_label = label
        elif self._restart_at_once:
            # The old token was refused while the new one was on its way.
            self._restart_at_once = False
            assert self._transport is not None
            self._transport.tell(RestartChild(WEBSOCKET_CHILD))
        if self._websocket is not None:
            self._websocket = None
            if self._api is not None:
                self._api.on_lost(error)
            self._end_all_streams(is_lost=message.reason.is_failure)
            if self._api is not None:
                self._api.tell_shutdown(error if message.reason.is_failure else None)
        self._set_accepting(False)
        if self._quiesce is not None or self._draining:
            self._finish_quiesce()

    def _end_all_streams(self, *, is_lost: bool) -> None:
        self._give_credit(self._wire.connection_lost())
        self._handle_events(self._session.disconnected())
        self._announced = False
        self._starts_on_their_way.clear()
        self._hello_clock.clear()
        if is_lost and self._mark_trial.lost(time.monotonic()):
            self._session.stop_marking()
            logger.warning(
                "tunnel %r: its connection was lost twice right after a message with `ignorable` "
                "set; it goes on without, and cannot tell a cut connection from one that ended",
                self._config.name,
            )

    def _on_announced(self, event: ServicesAnnounced) -> None:
        self._announced = True
        self._stats.service_ids = event.service_ids
        for service_id in event.service_ids:
            # Its counters are there from the start: a rate needs the zero before the first byte.
            self._stats.service(service_id)
        if self._lost_label is not None:
            self._stats.count_reconnect(self._lost_label)
            self._lost_label = None
        self._lost_text = ""
        name = self._config.name
        self._publish(events.ServiceIdsReceived(name, event.service_ids, self._stats.channel_id))
        if self._api is not None:
            self._api.tell_success(event.service_ids, self._stats.channel_id)
        if not self._draining and self._quiesce is None:
            problem = self._config.mismatch(event.service_ids)
            if problem:
                self._publish(events.ServicesMismatched(name, problem))
            self._enter(TunnelState.CONNECTED, problem)
            if self._has_free_listeners:
                self._update_free_listeners(event.service_ids or (ANY_SERVICE,))
            self._update_accepting()

    @property
    def _has_free_listeners(self) -> bool:
        """Whether it listens for what is announced, at free ports."""
        return self._config.mode is Mode.SOURCE and self._config.services is None

    def _update_free_listeners(self, service_ids: Sequence[str]) -> None:
        """Listen for the services that are announced, up to the limit, and for no others."""
        announced = dict.fromkeys(service_ids)
        for child_id, service_id in list(self._listener_children.items()):
            if service_id not in announced:
                self._remove_listener(child_id, service_id)
        listened_on = set(self._listener_children.values())
        missing = [service_id for service_id in announced if service_id not in listened_on]
        room = self._limits.max_free_listeners - len(listened_on)
        for service_id in missing[:room]:
            # With a number: the one of the same service before may still be on its way out.
            child_id = f"listener {next(self._serials)} {service_id}"
            free = TcpAddress(self._config.bind_host, 0)
            self._start_listener(child_id, service_id, self._config.listen_on.get(service_id, free))
        if len(missing) > room:
            self._tell_too_many(len(announced), len(missing) - room)

    def _tell_too_many(self, announced: int, without: int) -> None:
        text = (
            f"{without} of {announced} announced services are not listened on: "
            f"max_free_listeners is {self._limits.max_free_listeners}"
        )
        self._stats.last_event = text
        now, last = time.monotonic(), self._too_many_logged_at
        if last is None or now - last > TOO_MANY_LOG_SECONDS:
            self._too_many_logged_at = now
            logger.warning("tunnel %s: %s", self._config.name, text)

    def _remove_listener(self, child_id: str, service_id: str) -> None:
        """Close a listener for good; its place among the children is given up when it has ended."""
        transport = self._transport
        assert transport is not None
        del self._listener_children[child_id]
        # Its port is free for others, and a later listener does not wait for it.
        self._context.bound.pop(service_id, None)
        stopped = ask_future(transport, StopChild(child_id))
        self.pipe_to_self(stopped, lambda _stopped: _ListenerStopped(transport, child_id))

    def _on_listener_stopped(self, message: _ListenerStopped) -> None:
        message.transport.tell(DeleteChild(message.child_id))

    # -- accepting

    def _update_accepting(self) -> None:
        self._set_accepting(self._announced and self._takes_connections())

    def _set_accepting(self, accepting: bool) -> None:
        if accepting == self._accepting:
            return
        self._accepting = accepting
        for listener in self._listeners.values():
            listener.tell(SetAccepting(accepting))

    def _on_sockets_exhausted(self, message: SocketsExhausted) -> None:
        self._stats.count_exhausted(message.operation)
        self._stats.last_event = f"{message.operation}: no file descriptor or memory is left"

    def _close_listeners(self) -> None:
        self._set_accepting(False)
        assert self._transport is not None
        for child_id in self._listener_children:
            self._transport.tell(StopChild(child_id))

    EVENTS: ClassVar[Handlers] = {
        **TunnelStreams.EVENTS,
        ServicesAnnounced: _on_announced,
    }

    HANDLERS: ClassVar[Handlers] = {
        **TunnelStreams.HANDLERS,
        AttachTransport: _attach_transport,
        ListenerBound: _on_listener_bound,
        ChildStarted: _on_child_started,
        ChildEnded: _on_child_ended,
        ChildWaiting: _on_child_waiting,
        ChildQuarantined: _on_child_quarantined,
        ConnectionEstablished: _on_established,
        ConnectionRefused: _on_refused,
        AnnounceTimedOut: _on_announce_timeout,
        SocketsExhausted: _on_sockets_exhausted,
        _ListenerStopped: _on_listener_stopped,
    }
