"""TunnelActor: one tunnel, put together of parts, whose shell it is.

It hands each message to the part that it concerns, sets the timers, and after what has changed
something holds the link or lets it go, sends what may be sent, and ends the tunnel when nothing is
left to wait for. It knows no socket and never waits. docs/architecture.md has what ends what
(section 4), the way of a byte and the parts (section 5).
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from pykka import ActorRef

from tunnelfleet.actors import events
from tunnelfleet.actors.config import ANY_SERVICE
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import (
    DeleteChild,
    DispatchedActor,
    ExitReason,
    StopChild,
    Terminated,
    Timer,
    ask_future,
)
from tunnelfleet.actors.kernel.actor import Handlers
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.net.socket_io import abort_quietly
from tunnelfleet.proto import (
    DataBurst,
    DataReceived,
    LocalProtocolError,
    Message,
    NotConnected,
    RemoteProtocolError,
    ServicesAnnounced,
    TooManyConnections,
    TunnelClosed,
    TunnelError,
    counted,
)

from .context import NO_API, ApiHandler, ApiShell, Common, Ending, EndingPhase
from .ends import Marking, Shown
from .link import (
    WEBSOCKET_CHILD,
    Brake,
    BrakeHooks,
    CheckStalled,
    Link,
    LinkPhase,
    Pump,
    PumpAgain,
    lost_reason,
)
from .listeners import Listeners, is_listener
from .messages import (
    Accepted,
    Attach,
    AttachTransport,
    BytesDelivered,
    ChildEnded,
    ChildQuarantined,
    ChildStarted,
    ChildWaiting,
    ConnectionEstablished,
    ConnectionRefused,
    Drain,
    EndTold,
    EventsTaken,
    HalfCloseEnded,
    HandOver,
    ListenerBound,
    LocalClosed,
    LocalDataRead,
    LocalReadEnded,
    OutboxFilled,
    PongHeard,
    Quiesce,
    Quiesced,
    Received,
    ReplaceLimits,
    ReplaceToken,
    SocketsExhausted,
    Written,
)
from .sender import WireSender
from .streams import StreamHooks, Streams

if TYPE_CHECKING:
    from .context import TunnelContext


logger = get_logger(__name__)

_NO_MORE: Final[Sequence[bytes]] = ()


# As plain names: Python 3.11 takes six times as long to look up the member of an enum.
_RUNNING, _STOPPING = EndingPhase.RUNNING, EndingPhase.STOPPING
_DOWN, _GIVEN_UP = LinkPhase.DOWN, LinkPhase.GIVEN_UP
_ON_TRIAL = Shown.ON_TRIAL


class AnnounceTimedOut(NamedTuple):
    """SERVICE_IDS should have come by now."""

    epoch: int


class CheckHello(NamedTuple):
    """A stream may have waited long enough for its hello."""


class QuiesceTimedOut(NamedTuple):
    """The time for a graceful end is over."""


class ListenerStopped(NamedTuple):
    """A listener that is not wanted any more has ended."""

    transport: ActorRef[Any]
    child_id: str


_STAGGERS = random.Random()  # noqa: S311 - it only has to be another one for each tunnel
"""Not the generator of the module `random`, whose state is the application's."""


class TunnelActor(DispatchedActor):
    """One tunnel.

    Args:
        context: what the tunnel's actors share.
    """

    def __init__(self, context: TunnelContext) -> None:
        super().__init__()
        config, limits = context.config, context.config.limits
        self._common = common = Common(context, self.actor_ref)
        self._stats = context.stats
        self._sender = WireSender(
            limits,
            config.bandwidth_bytes_per_second,
            context.stats,
            time.monotonic(),
            pacing=config.pacing,
            stagger=_STAGGERS.random(),
        )
        self._marking = Marking(common.session, limits.hello_seconds)
        self._link = Link(common)
        self._listeners = Listeners(common, self._stop_listener)
        self._ending = Ending()
        self._streams = Streams(
            common,
            self._sender,
            self._marking,
            StreamHooks(
                self.schedule,
                self._on_announced,
                self._update_accepting,
                self._takes_connections,
                lambda: self._ending.phase is _STOPPING,
            ),
        )
        self._connections = self._streams.connections
        self._api: ApiHandler = NO_API
        self._pump = Pump(self._sender, self._streams, self._link, self._stats, self.schedule)
        brake_hooks = BrakeHooks(self.schedule, self._on_held_changed)
        self._brake = Brake(common, self._connections, self._link, brake_hooks)
        self._hello_timer: Timer | None = None
        self._announce_timer: Timer | None = None

    def on_start(self) -> None:
        """Begin as connecting; the supervisors bring the rest."""
        make_api = self._common.context.parts.api
        if make_api is not None:
            streams = self._streams
            shell = ApiShell(
                self.actor_ref,
                self._common.session,
                self._sender,
                streams.adopt,
                streams.handle,
                self._takes_connections,
                lambda: self._common.limits.max_connections,
            )
            self._api = make_api(self._common.config, shell)
            streams.serve(self._api)
            self._brake.add(self._api.must_hold_back)
        if self._common.context.callback_queue is not None:
            self._brake.add(self._events_are_full)
        self._stats.forget_active()
        self._common.enter(TunnelState.CONNECTING)

    def _on_end(self, reason: ExitReason) -> None:
        """Let go of what leads back here, and tell what ends with the actor."""
        super()._on_end(reason)
        self._api = NO_API
        self._brake.let_go()
        self._pump.let_go()
        self._listeners.let_go()
        self._streams.actor_ended(f"the tunnel's actor ended: {reason}")

    # -- bytes

    def _on_local_data(self, message: LocalDataRead) -> None:
        self._pump.local_data(message)

    def _on_pong_heard(self, message: PongHeard) -> None:
        self._pump.pong(message)

    def _on_pump_again(self, _message: PumpAgain) -> None:
        self._pump.again()

    def _on_written(self, message: Written) -> None:
        epoch, count, blocked = message
        if epoch != self._link.epoch or self._link.phase is _DOWN:
            return
        now, sender = time.monotonic(), self._sender
        self._connections.give_credit(sender.written(count, now, blocked=blocked))
        if self._api is not NO_API:
            self._api.on_written()
        if self._marking.queued:
            self._marking.left(sender.messages_left, now)
            self._wait_for_hello(now)
        if sender.low_water_bytes != self._link.low_water_bytes:
            self._link.adapt_low_water(sender.low_water_bytes)
        if sender.has_waiting:
            self._pump.run()
        if self._ending.phase is not _RUNNING:
            self._finish_if_done()

    def _on_received(self, message: Received) -> None:
        epoch, messages = message
        link, trial = self._link, self._marking.trial
        if epoch != link.epoch or link.phase in (_DOWN, _GIVEN_UP):
            return
        if trial.shown is _ON_TRIAL and link.phase is not LinkPhase.OPEN:
            trial.heard()
        try:
            is_data_alone = self._take(messages)
        except RemoteProtocolError as error:
            link.give_up("protocol_error", str(error))
            return
        self._brake.check()
        if not is_data_alone:
            # The answers to the others, or their ends, may wait to be sent.
            self._pump.run()
        if self._ending.phase is not _RUNNING:
            self._finish_if_done()

    def _take(self, items: Sequence[Message | DataBurst]) -> bool:
        """Act on what arrived, in order; return whether it was DATA and nothing else."""
        receive, deliver = self._common.session.receive, self._connections.deliver
        is_data_alone = True
        for item in items:
            message, more = item if isinstance(item, DataBurst) else (item, _NO_MORE)
            for event in receive(message):
                if type(event) is DataReceived:
                    # What the first DATA of a burst is, the others are.
                    deliver(event, more)
                    more = _NO_MORE
                else:
                    is_data_alone = False
                    self._streams.handle((event,))
            if more:
                is_data_alone &= self._take([message._replace(payload=each) for each in more])
        return is_data_alone

    def _settle(self) -> None:
        """After a change of connections: hold the link or not, send, end if nothing is left."""
        self._brake.check()
        self._pump.run()
        if not self._ending.is_running:
            self._finish_if_done()

    # -- holding the link

    def _on_bytes_delivered(self, message: BytesDelivered) -> None:
        key, size_bytes = message
        connection = self._connections.by_key.get(key)
        if connection is not None:
            self._connections.delivered(connection, size_bytes, time.monotonic())
            if self._link.is_held:
                self._brake.check()
            if self._ending.phase is _STOPPING:
                self._finish_if_done()

    def _on_held_changed(self, is_held: bool, now: float) -> None:
        self._marking.hold(now, is_held=is_held)
        self._sender.hold(now, is_held=is_held)
        if not is_held:
            self._wait_for_hello(now)

    def _events_are_full(self) -> bool:
        """Whether the callbacks of the tunnel's events do not keep up: `EventsTaken` says when."""
        queue, tunnel = self._common.context.callback_queue, self.actor_ref
        if queue is None or not queue.is_full:
            return False
        return queue.when_room(lambda: tunnel.cell.send(EventsTaken()))

    def _on_events_taken(self, _message: EventsTaken) -> None:
        self._brake.check()

    def _on_check_stalled(self, _message: CheckStalled) -> None:
        now = time.monotonic()
        if not self._brake.must_look_for_stalled(now):
            return
        # Callbacks that hold up the tunnel are the user's to look after: they are counted, not cut.
        if self._connections.must_pause:
            self._streams.ends.abort_stalled(now)
        self._settle()
        self._brake.look_again()

    # -- streams and local ends

    def _on_attach(self, message: Attach) -> None:
        self._streams.attach(message)

    def _on_local_end(self, message: LocalReadEnded | LocalClosed) -> None:
        self._streams.local_ended(message)
        self._settle()

    def _on_half_close_ended(self, message: HalfCloseEnded) -> None:
        self._streams.ends.half_close_ended(message)
        self._settle()

    def _on_accepted(self, message: Accepted) -> None:
        if not self._link.is_announced or not self._takes_connections():
            abort_quietly(message.sock)
            return
        try:
            self._streams.carry(message)
        except LocalProtocolError as error:
            abort_quietly(message.sock)
            self._stats.last_event = str(error)
            return
        self._settle()

    def _on_hand_over(self, message: HandOver) -> None:
        reply = self.defer_reply()
        try:
            self._check_takes(message.service_id)
            key = self._streams.carry(message, message.greeting)
        except TunnelError as error:
            reply.fail(error)
            return
        # First: the socket is the tunnel's, whatever fails behind this.
        reply.set(key)
        self._settle()

    def _check_takes(self, service_id: str) -> None:
        if not self._ending.is_running:
            raise TunnelClosed("the tunnel is stopping: it takes no new connections")
        if not self._link.is_announced:
            raise NotConnected
        if not self._takes_connections():
            raise TooManyConnections(service_id, self._common.limits.max_connections)

    def _takes_connections(self) -> bool:
        has_room = len(self._connections) < self._common.limits.max_connections
        return has_room and self._ending.is_running

    def _on_sockets_exhausted(self, message: SocketsExhausted) -> None:
        self._stats.count_exhausted(message.operation)
        self._stats.last_event = f"{message.operation}: no file descriptor or memory is left"

    # -- the client API

    def _on_outbox_filled(self, _message: OutboxFilled) -> None:
        self._api.take_commands()
        self._settle()

    def _on_end_told(self, message: EndTold) -> None:
        self._api.take_commands()
        self._api.end_connection(message.key)
        self._settle()

    # -- waiting for the hello

    def _wait_for_hello(self, now: float) -> None:
        wait_seconds = self._marking.wait_seconds(now)
        if wait_seconds is not None and self._hello_timer is None:
            self._hello_timer = self.schedule(wait_seconds, CheckHello())

    def _on_check_hello(self, _message: CheckHello) -> None:
        self._hello_timer = None
        now = time.monotonic()
        self._streams.handle(self._marking.overdue(now))
        self._wait_for_hello(now)
        self._settle()

    # -- the children of the transport

    def _attach_transport(self, message: AttachTransport) -> None:
        self._common.transport = message.supervisor
        self.watch(message.supervisor)
        self._listeners.forget()
        if self._ending.phase is EndingPhase.DRAINING:
            self._finish()
        else:
            self._listeners.start()

    def _on_terminated(self, message: Terminated) -> None:
        """The transport has failed or was killed, and its children: nobody else tells of them."""
        common = self._common
        if message.ref != common.transport or message.reason.is_normal:
            return
        self._on_link_ended(message.reason)
        common.transport = None
        self._listeners.forget()

    def _on_child_started(self, message: ChildStarted) -> None:
        if message.child_id == WEBSOCKET_CHILD:
            self._link.started(message.ref)
            if self._ending.is_running:
                self._common.enter(TunnelState.CONNECTING, self._link.lost_text)

    def _on_child_ended(self, message: ChildEnded) -> None:
        if message.child_id == WEBSOCKET_CHILD:
            self._on_link_ended(message.reason)
        elif is_listener(message.child_id):
            self._listeners.ended(message)
        else:
            self._streams.stream_actor_ended(message)
            self._settle()

    def _on_child_waiting(self, message: ChildWaiting) -> None:
        if message.child_id != WEBSOCKET_CHILD:
            return
        if not self._link.try_again_if_wanted() and self._ending.is_running:
            self._link.tell_backoff(message.delay_seconds)

    def _on_child_quarantined(self, message: ChildQuarantined) -> None:
        if message.child_id == WEBSOCKET_CHILD:
            text = f"its connection keeps failing: {message.reason}"
            self._common.enter(TunnelState.QUARANTINED, text)

    def _stop_listener(self, child_id: str) -> None:
        transport = self._common.transport
        assert transport is not None
        stopped = ask_future(transport, StopChild(child_id))
        self.pipe_to_self(stopped, lambda _stopped: ListenerStopped(transport, child_id))

    def _on_listener_stopped(self, message: ListenerStopped) -> None:
        message.transport.tell(DeleteChild(message.child_id))

    def _on_listener_bound(self, message: ListenerBound) -> None:
        self._listeners.bound(message)

    def _update_accepting(self) -> None:
        self._listeners.set_accepting(self._link.is_announced and self._takes_connections())

    # -- the life of the link

    def _on_established(self, message: ConnectionEstablished) -> None:
        self._link.established(message)
        self._stats.channel_id = message.channel_id
        self._common.session.connected()
        seconds = self._common.limits.announce_timeout_seconds
        self._stop_awaiting_announcement()
        self._announce_timer = self.schedule(seconds, AnnounceTimedOut(message.epoch))

    def _on_announce_timeout(self, message: AnnounceTimedOut) -> None:
        if self._link.is_of(message.epoch) and self._link.phase is LinkPhase.OPEN:
            seconds = self._common.limits.announce_timeout_seconds
            text = f"the service sent no SERVICE_IDS within {seconds:g} s"
            self._link.give_up("announce_timeout", text)

    def _stop_awaiting_announcement(self) -> None:
        timer, self._announce_timer = self._announce_timer, None
        if timer is not None:
            timer.cancel()

    def _on_refused(self, message: ConnectionRefused) -> None:
        self._stats.count_connect_failure(message.error.label)
        self._api.tell_failure(message.error)
        self._link.refused()
        self._common.enter(TunnelState.REFUSED, str(message.error))
        if self._ending.phase is _STOPPING:
            self._finish()

    def _on_announced(self, event: ServicesAnnounced) -> None:
        service_ids, stats, config = event.service_ids, self._stats, self._common.config
        self._stop_awaiting_announcement()
        self._link.announced()
        stats.service_ids = service_ids
        for service_id in service_ids:
            # Its counters are there from the start: a rate needs the zero before the first byte.
            stats.service(service_id)
        received = events.ServiceIdsReceived(config.name, service_ids, stats.channel_id)
        self._common.publish(received)
        if not self._ending.is_running:
            self._api.tell_success(service_ids, stats.channel_id)
            return
        problem = config.mismatch(service_ids)
        if problem:
            self._common.publish(events.ServicesMismatched(config.name, problem))
        self._common.enter(TunnelState.CONNECTED, problem)
        # After the state: whoever hears of it on another thread finds the tunnel connected.
        self._api.tell_success(service_ids, stats.channel_id)
        self._listeners.announced(service_ids or (ANY_SERVICE,))
        self._update_accepting()

    def _on_link_ended(self, reason: ExitReason) -> None:
        error, was_up = lost_reason(reason), self._link.ended(reason)
        self._stop_awaiting_announcement()
        if was_up:
            self._api.on_lost(error)
            self._end_all_streams(is_lost=reason.is_failure)
            self._api.tell_shutdown(None if reason.is_normal else error)
        elif not reason.is_normal:
            self._api.tell_failure(error)
        self._listeners.set_accepting(False)
        if not self._ending.is_running:
            self._finish()

    def _end_all_streams(self, *, is_lost: bool) -> None:
        self._streams.link_ended()
        if self._marking.link_ended(time.monotonic(), is_lost=is_lost):
            logger.warning(
                "tunnel %r: its connection was lost twice right after a message with `ignorable` "
                "set; it goes on without, and cannot tell a cut connection from one that ended",
                self._common.config.name,
            )

    def _on_replace_token(self, _message: ReplaceToken) -> None:
        self._link.try_with_new_token()

    def _on_replace_limits(self, message: ReplaceLimits) -> None:
        self._common.replace_limits(message.limits)
        self._update_accepting()

    # -- the end of the tunnel

    def _on_drain(self, _message: Drain) -> None:
        if not self._ending.drain():
            return
        text = counted(len(self._connections), "connection", "is left", "are left")
        self._common.enter(TunnelState.DRAINING, text)
        if self._common.transport is None:
            # It came before the transport, whose attachment ends it.
            return
        self._listeners.close()
        if self._link.is_up:
            self._finish_if_done()
        else:
            self._finish()

    def _on_quiesce(self, message: Quiesce) -> None:
        if not self._ending.stop(message):
            return
        if self._stats.state is not TunnelState.REFUSED:
            self._common.enter(TunnelState.DRAINING, "stopping")
        if self._common.transport is not None:
            self._listeners.close()
        if self._link.is_up:
            self.schedule(message.timeout_seconds, QuiesceTimedOut())
            self._streams.stop_reading()
            self._settle()
        else:
            self._finish()

    def _finish_if_done(self) -> None:
        """Close the link of a tunnel that ends when nothing is left to wait for."""
        is_waiting = len(self._connections) or self._connections.undelivered_bytes
        if not is_waiting and self._sender.is_idle:
            self._link.close()

    def _on_quiesce_timed_out(self, _message: QuiesceTimedOut) -> None:
        """No time is left: what is not whole must not look so at the other end."""
        if not self._link.is_up or self._link.phase is LinkPhase.CLOSING:
            self._finish()
            return
        self._streams.reset_all()
        self._pump.run()
        # Its end finishes the rest; the supervisor waits for that a moment longer.
        self._link.close()

    def _finish(self) -> None:
        """The tunnel has ended in good order, or has no more time."""
        if self._ending.asker is not None:
            self._ending.asker.tell(Quiesced())
            return
        self._common.tell_transport(StopChild(WEBSOCKET_CHILD))
        self._common.enter(TunnelState.STOPPED, "drained")

    HANDLERS: ClassVar[Handlers] = {
        LocalDataRead: _on_local_data,
        Written: _on_written,
        PongHeard: _on_pong_heard,
        Received: _on_received,
        BytesDelivered: _on_bytes_delivered,
        Attach: _on_attach,
        LocalReadEnded: _on_local_end,
        LocalClosed: _on_local_end,
        Accepted: _on_accepted,
        HandOver: _on_hand_over,
        OutboxFilled: _on_outbox_filled,
        EndTold: _on_end_told,
        EventsTaken: _on_events_taken,
        SocketsExhausted: _on_sockets_exhausted,
        AttachTransport: _attach_transport,
        Terminated: _on_terminated,
        ListenerBound: _on_listener_bound,
        ListenerStopped: _on_listener_stopped,
        ChildStarted: _on_child_started,
        ChildEnded: _on_child_ended,
        ChildWaiting: _on_child_waiting,
        ChildQuarantined: _on_child_quarantined,
        ConnectionEstablished: _on_established,
        ConnectionRefused: _on_refused,
        ReplaceLimits: _on_replace_limits,
        ReplaceToken: _on_replace_token,
        Drain: _on_drain,
        Quiesce: _on_quiesce,
        AnnounceTimedOut: _on_announce_timeout,
        PumpAgain: _on_pump_again,
        CheckStalled: _on_check_stalled,
        CheckHello: _on_check_hello,
        HalfCloseEnded: _on_half_close_ended,
        QuiesceTimedOut: _on_quiesce_timed_out,
    }
    """Types of messages to methods."""
