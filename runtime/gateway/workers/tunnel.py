"""RemoteTunnelActor: stands in the gateway's process for a tunnel that runs in a worker.

It takes the commands that a TunnelSupervisor takes and passes them on; what the worker tells of the
tunnel becomes the counters, the state, the open connections and the events that everybody in the
gateway looks at. So nobody else has to know where a tunnel runs. When the worker ends, its tunnel
waits, and is opened in the next one with the same tokens, limits and ports; its connections are
over.
"""

from __future__ import annotations

import base64
import itertools
import os
import socket
from collections import deque
from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tunnelfleet.actors import events
from tunnelfleet.actors.events import LiveConnection, TunnelState
from tunnelfleet.actors.kernel import DispatchedActor, ExitReason, Reply
from tunnelfleet.actors.kernel.actor import Handlers
from tunnelfleet.actors.tunnel.context import TunnelContext
from tunnelfleet.actors.tunnel.messages import (
    Drain,
    HandOver,
    HandOverLost,
    ReplaceLimits,
    ReplaceToken,
)
from tunnelfleet.proto import NotConnected, TunnelClosed, TunnelError

from .messages import EXHAUSTED, Do, Is, Told, WorkerLost, WorkerUp, from_json, to_json
from .sums import Tally

if TYPE_CHECKING:
    from .sums import WorkerEntry


class _RemotePhase(Enum):
    WAITING = auto()
    """There is no worker, or the worker could not open the tunnel."""
    OPEN = auto()
    CLOSING = auto()
    """The worker ends the tunnel in good order."""


class _OpenOnceMore:
    """It is time to open the tunnel once more."""


OPEN_AGAIN_SECONDS: Final = 5.0
"""When a tunnel that the worker could not open is tried again."""
REMEMBERED_ENDS: Final = 256
"""Connections that were over before the worker had said that it took their sockets."""
CRASHED: Final = "crashed"
"""The reason of a reconnect after the tunnel's worker died."""
NO_WORKER: Final = "waits for its worker process"
ACCEPT: Final = "accept"
"""As which operation a socket counts that was not taken over for want of a descriptor."""


class RemoteTunnelActor(DispatchedActor):
    """A tunnel in a worker.

    Args:
        context: of the tunnel, as its own actors would have it.
        worker: that has it.
        serial: of this life of the tunnel.
        authorities: the file or folder that it trusts; None for the system's.
    """

    def __init__(
        self, context: TunnelContext, worker: WorkerEntry, serial: int, authorities: str | None
    ) -> None:
        super().__init__()
        self.set_label(context.config.name)
        self._context = context
        self._stats = context.stats
        self._worker = worker
        self._serial = serial
        self._authorities = authorities
        self._phase = _RemotePhase.WAITING
        self._tally = Tally(context.stats)
        self._numbers = itertools.count(1)
        self._lent: dict[int, tuple[Reply, socket.socket]] = {}
        """Sockets that the worker was asked to carry, by number of the question."""
        self._carried: dict[int, socket.socket] = {}
        """Empty sockets, which only count, of front doors' connections, by serial."""
        self._streams: set[tuple[str, int]] = set()
        """The open streams: service and id."""
        self._comes_back = False
        """Whether it was connected when it lost its worker, and is not again."""
        self._ended: deque[int] = deque(maxlen=REMEMBERED_ENDS)

    def on_start(self) -> None:
        """Open the tunnel, if the worker is there."""
        self._worker.tunnels[self._serial] = self.actor_ref
        self._tally.begin_anew()
        if self._context.is_draining:
            # The connections of its life before are over, and it takes no new ones.
            self._enter(TunnelState.STOPPED, "drained")
        elif self._worker.ref is None:
            self._enter(TunnelState.CONNECTING, NO_WORKER)
        else:
            self._open()

    def _tell(self, do: Do, **fields: Any) -> None:
        self._worker.tell({"do": do, "serial": self._serial, **fields})

    def _open(self) -> None:
        context = self._context
        access_token, client_token = context.credentials.current()
        config = replace(context.config, access_token=access_token, client_token=client_token)
        self._phase = _RemotePhase.OPEN
        self._tell(
            Do.OPEN,
            config=to_json(config),
            authorities=self._authorities,
            bound=to_json(context.bound),
        )

    # -- the worker

    def _on_worker_up(self, _message: WorkerUp) -> None:
        if self._phase is _RemotePhase.WAITING and not self._context.is_draining:
            self._open()

    def _on_worker_lost(self, message: WorkerLost) -> None:
        was_closing = self._phase is _RemotePhase.CLOSING
        self._comes_back |= self._stats.state is TunnelState.CONNECTED
        self._phase = _RemotePhase.WAITING
        self._lose_connections(message.reason)
        self._tally.begin_anew()
        self._stats.listening = {}
        self._stats.channel_id = ""
        self._stats.last_event = message.reason
        if was_closing:
            self.exit()
        elif self._context.is_draining:
            # Its connections are over, and it takes no new ones.
            self._enter(TunnelState.STOPPED, message.reason)
        else:
            self._enter(TunnelState.CONNECTING, message.reason)

    def _on_open_again(self, _message: _OpenOnceMore) -> None:
        is_waiting = self._phase is _RemotePhase.WAITING and self._worker.ref is not None
        if is_waiting and not self._context.is_draining:
            self._open()

    def _on_told(self, message: Told) -> None:
        told = message.message
        match message.kind:
            case Is.REPORT:
                self._take_report(told)
            case Is.EVENT:
                self._take_event(from_json(told["event"]), told.get("face"))
            case Is.CARRIED:
                self._take_carried(told)
            case Is.FAILED if self._phase is _RemotePhase.CLOSING:
                self._phase = _RemotePhase.WAITING
                self.exit()
            case Is.FAILED if self._context.is_draining:
                self._phase = _RemotePhase.WAITING
                self._enter(TunnelState.STOPPED, "drained")
            case Is.FAILED:
                self._phase = _RemotePhase.WAITING
                self._enter(TunnelState.BACKOFF, f"it could not be opened: {told['text']}")
                self.schedule(OPEN_AGAIN_SECONDS, _OpenOnceMore())
            case Is.CLOSED:
                self._take_report(told)
                self._phase = _RemotePhase.WAITING
                self.exit()

    def _take_report(self, told: dict[str, Any]) -> None:
        self._tally.take(told["numbers"])
        self._take_face(told["face"])
        live = {serial: (sent, received) for serial, sent, received in told["live"]}
        for serial, connection in list(self._stats.connections.items()):
            if serial in live:
                connection.sent_bytes, connection.received_bytes = live[serial]

    def _take_face(self, face: dict[str, Any]) -> None:
        stats = self._stats
        stats.enter(TunnelState(face["state"]), face["reason"])
        if self._comes_back and stats.state is TunnelState.CONNECTED:
            self._comes_back = False
            stats.count_reconnect(CRASHED)
        stats.since = face["since"]
        stats.last_event = face["last_event"]
        stats.channel_id = face["channel_id"]
        stats.service_ids = tuple(face["service_ids"])
        stats.listening = {key: tuple(each) for key, each in face["listening"].items()}

    def _take_event(self, event: events.TunnelEvent, face: dict[str, Any] | None) -> None:
        if face is not None:
            # Before the event: whoever is told of it looks.
            self._take_face(face)
        match event:
            case events.ListenerOpened():
                self._context.bound[event.service_id] = event.address
            case events.ConnectionOpened():
                live = LiveConnection(
                    event.service_id, event.stream_id, event.connection_id, event.serial
                )
                live.peer, live.user, live.opened_at = event.peer, event.user, event.opened_at
                self._stats.connections[event.serial] = live
            case events.ConnectionClosed():
                self._forget_connection(event.serial)
            case events.StreamOpened():
                self._streams.add((event.service_id, event.stream_id))
            case events.StreamClosed():
                self._streams.discard((event.service_id, event.stream_id))
        self._context.publish(event)

    def _lose_connections(self, reason: str) -> None:
        """The worker has ended, or the tunnel has: so have the connections."""
        stats = self._stats
        for live in list(stats.connections.values()):
            self._forget_connection(live.serial)
            self._context.publish(
                events.ConnectionClosed(
                    self._context.config.name,
                    live.service_id,
                    live.stream_id,
                    live.connection_id,
                    reason,
                    ended_by="local",
                    serial=live.serial,
                    peer=live.peer,
                    user=live.user,
                    opened_at=live.opened_at,
                    sent_bytes=live.sent_bytes,
                    received_bytes=live.received_bytes,
                    channel_id=stats.channel_id,
                )
            )
        name = self._context.config.name
        for service_id, stream_id in sorted(self._streams):
            self._context.publish(events.StreamClosed(name, service_id, stream_id, reason))
        self._streams.clear()
        for serial in list(self._carried):
            self._forget_connection(serial)
        self._ended.clear()
        for reply, _sock in self._lent.values():
            # The worker may have greeted it already, and carried bytes of it.
            reply.fail(HandOverLost(reason))
        self._lent.clear()

    def _forget_connection(self, serial: int) -> None:
        self._stats.connections.pop(serial, None)
        carried = self._carried.pop(serial, None)
        if carried is None:
            self._ended.append(serial)
        else:
            carried.close()

    # -- commands

    def _on_drain(self, _message: Drain) -> None:
        self._context = self._context._replace(is_draining=True)
        if self._phase is _RemotePhase.WAITING:
            self._enter(TunnelState.STOPPED, "drained")
        else:
            self._tell(Do.DRAIN)

    def _on_replace_token(self, _message: ReplaceToken) -> None:
        access_token, client_token = self._context.credentials.current()
        if self._phase is _RemotePhase.OPEN:
            self._tell(Do.TOKEN, access_token=access_token, client_token=client_token)

    def _on_replace_limits(self, message: ReplaceLimits) -> None:
        self._context = self._context.with_limits(message.limits)
        if self._phase is _RemotePhase.OPEN:
            self._tell(Do.LIMITS, limits=to_json(message.limits))

    def _on_hand_over(self, message: HandOver) -> None:
        reply = self.defer_reply()
        if self._phase is not _RemotePhase.OPEN or self._worker.ref is None:
            reply.fail(NotConnected())
            return
        if message.sock.fileno() < 0:
            reply.fail(TunnelClosed("the socket was closed meanwhile"))
            return
        number = next(self._numbers)
        self._lent[number] = reply, message.sock
        fields = {
            "do": Do.CARRY,
            "serial": self._serial,
            "number": number,
            "service_id": message.service_id,
            "greeting": base64.b64encode(message.greeting).decode(),
            "peer": message.peer,
            "user": message.user,
        }
        self._worker.tell(fields, message.sock)

    def _take_carried(self, told: dict[str, Any]) -> None:
        reply, sock = self._lent.pop(told["number"])
        error = told.get("error")
        if error is not None:
            kind, text = error
            if kind == EXHAUSTED:
                self._stats.count_exhausted(ACCEPT)
            reply.fail(_error(kind, text))
            return
        # The worker has it: here, it must not keep the connection open, and goes on counting.
        os.close(sock.detach())
        serial = told["connection"]
        if serial in self._ended:
            sock.close()
        else:
            self._carried[serial] = sock
        reply.set(serial)

    # -- the end

    def on_stop_requested(self) -> bool:
        """Let the worker end it in good order first."""
        if self._phase is not _RemotePhase.OPEN or self._worker.ref is None:
            return True
        self._phase = _RemotePhase.CLOSING
        self._tell(Do.CLOSE)
        return False

    def on_stop(self) -> None:
        """The tunnel is stopped."""
        self._enter(TunnelState.STOPPED, "stopped")

    def _on_end(self, reason: ExitReason) -> None:
        super()._on_end(reason)
        self._worker.tunnels.pop(self._serial, None)
        if self._phase is not _RemotePhase.WAITING:
            self._tell(Do.CLOSE)
        self._lose_connections("the tunnel is stopped")
        self._tally.begin_anew()

    def _enter(self, state: TunnelState, reason: str) -> None:
        if self._stats.enter(state, reason):
            self._context.publish(
                events.TunnelStateChanged(self._context.config.name, state, reason)
            )

    HANDLERS: ClassVar[Handlers] = {
        WorkerUp: _on_worker_up,
        WorkerLost: _on_worker_lost,
        Told: _on_told,
        _OpenOnceMore: _on_open_again,
        Drain: _on_drain,
        ReplaceToken: _on_replace_token,
        ReplaceLimits: _on_replace_limits,
        HandOver: _on_hand_over,
    }


def _error(kind: str, text: str) -> TunnelError:
    if kind == EXHAUSTED:
        # It may be asked again: a descriptor may be free then.
        return NotConnected(f"the socket could not be handed over: {text}")
    if kind == NotConnected.__name__:
        return NotConnected()
    return TunnelError(text) if kind == TunnelError.__name__ else TunnelClosed(text)
