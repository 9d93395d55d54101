"""The supervisors of one tunnel: what is restarted together, and what is not.

    TunnelSupervisor          rest_for_one: without its TunnelActor the rest has no meaning
     |- TunnelActor           permanent; a crash takes the transport down and up again
     `- TransportSupervisor   one_for_one
         |- WebSocketActor    transient, with backoff: a lost connection is made again, a refused
         one is not
         |- ListenerActor     permanent, with backoff; one per service of a source
         `- StreamActor       temporary; a crash resets that stream alone

They hold no work that can crash: they start, watch, report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pykka import ActorDeadError, ActorRef

from tunnelfleet.actors.events import TunnelState, TunnelStateChanged
from tunnelfleet.actors.kernel import (
    KILLED,
    Backoff,
    ChildSpec,
    DispatchedFuture,
    ExitReason,
    Restart,
    Strategy,
    SupervisorActor,
    ask_future,
)
from tunnelfleet.proto import NotConnected

from .actor import TunnelActor
from .link import WEBSOCKET_CHILD
from .messages import (
    AttachTransport,
    ChildEnded,
    ChildQuarantined,
    ChildStarted,
    ChildWaiting,
    Drain,
    HandOver,
    Quiesce,
    Quiesced,
    ReplaceLimits,
    ReplaceToken,
)

if TYPE_CHECKING:
    from .context import TunnelContext


class TransportSupervisor(SupervisorActor):
    """Supervises what carries a tunnel's bytes, and reports its life to TunnelActor.

    Args:
        context: what the tunnel's actors share.
        tunnel: the TunnelActor of this life of the tunnel.
    """

    def __init__(self, context: TunnelContext, tunnel: ActorRef[Any]) -> None:
        self._context = context
        self._tunnel = tunnel
        self._epoch = 0
        websocket = ChildSpec(
            id=WEBSOCKET_CHILD,
            start=self._start_websocket,
            restart=Restart.TRANSIENT,
            shutdown=1.0,
            backoff=context.config.limits.backoff,
            reports_ready=True,
        )
        super().__init__([websocket])

    def on_start(self) -> None:
        """Introduce itself, then start the connection."""
        self._tunnel.tell(AttachTransport(self.actor_ref))
        super().on_start()

    def _start_websocket(self) -> ActorRef[Any]:
        self._epoch += 1
        start_websocket = self._context.parts.websocket
        return start_websocket(self._context, self._tunnel, self.actor_ref, self._epoch)

    def on_child_started(self, child_id: str, ref: ActorRef[Any]) -> None:
        """Tell TunnelActor."""
        self._tunnel.tell(ChildStarted(child_id, ref))

    def on_child_ended(self, child_id: str, ref: ActorRef[Any], reason: ExitReason) -> None:
        """Tell TunnelActor."""
        self._tunnel.tell(ChildEnded(child_id, ref, reason))

    def on_child_waiting(self, child_id: str, delay_seconds: float) -> None:
        """Tell TunnelActor."""
        self._tunnel.tell(ChildWaiting(child_id, delay_seconds))

    def on_child_quarantined(self, child_id: str, reason: ExitReason) -> None:
        """Tell TunnelActor."""
        self._tunnel.tell(ChildQuarantined(child_id, reason))


TUNNEL_CHILD = "tunnel"
TRANSPORT_CHILD = "transport"
TRANSPORT_SHUTDOWN_SECONDS = 10.0
QUARANTINE_AFTER = 5
"""Crashes in a row after which a tunnel's own actors are quarantined."""
CRASH_BACKOFF = Backoff(min_seconds=0.1, max_seconds=30.0)
QUIESCE_GRACE_SECONDS = 1.0


class TunnelSupervisor(SupervisorActor):
    """Supervises one tunnel. Its stop is graceful: what was read is sent first.

    Args:
        context: what the tunnel's actors share.
    """

    def __init__(self, context: TunnelContext) -> None:
        self._context = context
        self._tunnel: ActorRef[Any] | None = None
        self._quiescing = False
        self._stopping_children = False
        self.set_label(context.config.name)
        super().__init__(
            [
                ChildSpec(
                    id=TUNNEL_CHILD,
                    start=self._start_tunnel,
                    restart=Restart.PERMANENT,
                    backoff=CRASH_BACKOFF,
                    quarantine_after=QUARANTINE_AFTER,
                ),
                ChildSpec(
                    id=TRANSPORT_CHILD,
                    start=self._start_transport,
                    restart=Restart.PERMANENT,
                    shutdown=TRANSPORT_SHUTDOWN_SECONDS,
                    backoff=CRASH_BACKOFF,
                    quarantine_after=QUARANTINE_AFTER,
                ),
            ],
            strategy=Strategy.REST_FOR_ONE,
        )

    def _start_tunnel(self) -> ActorRef[Any]:
        self._tunnel = TunnelActor.start(self._context)
        if self._context.is_draining:
            self._tunnel.tell(Drain())
        return self._tunnel

    def _start_transport(self) -> ActorRef[Any]:
        assert self._tunnel is not None
        return TransportSupervisor.start(self._context, self._tunnel)

    def on_child_ended(self, child_id: str, ref: ActorRef[Any], reason: ExitReason) -> None:  # noqa: ARG002
        """Say so where people look."""
        if reason.is_failure:
            self._enter(TunnelState.BACKOFF, f"its {child_id} actor failed: {reason}")
        if self._quiescing and child_id == TUNNEL_CHILD:
            # Nobody is left to end the tunnel in good order.
            self._stop_children()

    def on_child_quarantined(self, child_id: str, reason: ExitReason) -> None:
        """Say so where people look."""
        text = f"its {child_id} actor keeps failing: {reason}"
        self._enter(TunnelState.QUARANTINED, text)

    def on_receive(self, message: Any) -> Any:
        """Pass commands for the tunnel on; the rest is a supervisor's."""
        if isinstance(message, ReplaceToken | Drain | ReplaceLimits):
            self._command(message)
            return None
        if isinstance(message, HandOver):
            self._pass_on(message)
            return None
        if isinstance(message, Quiesced):
            return self._stop_children()
        return super().on_receive(message)

    def _command(self, message: ReplaceToken | Drain | ReplaceLimits) -> None:
        """Note it here, where a crash of the TunnelActor does not lose it, and pass it on."""
        if isinstance(message, ReplaceLimits):
            self._context = self._context.with_limits(message.limits)
        elif isinstance(message, Drain):
            self._context = self._context._replace(is_draining=True)
        if self._tunnel is not None:
            self._tunnel.tell(message)

    def _pass_on(self, message: HandOver) -> None:
        """Let the TunnelActor answer; while there is none, nobody has taken the socket."""
        reply = self.defer_reply()

        def answer(answered: DispatchedFuture[Any]) -> None:
            try:
                reply.set(answered.get())
            except ActorDeadError:
                reply.fail(NotConnected())
            except Exception as error:  # noqa: BLE001 - it is the asker's, whatever it is
                reply.fail(error)

        if self._tunnel is None:
            reply.fail(NotConnected())
        else:
            ask_future(self._tunnel, message).add_done_callback(answer)

    def on_stop_requested(self) -> bool:
        """Let the tunnel end in good order first."""
        if self._quiescing or self._tunnel is None or not self._tunnel.is_alive():
            return super().on_stop_requested()
        self._quiescing = True
        timeout_seconds = self._context.config.limits.stop_timeout_seconds
        self._tunnel.tell(Quiesce(self.actor_ref, timeout_seconds))
        self.schedule(timeout_seconds + QUIESCE_GRACE_SECONDS, Quiesced())
        return False

    def _stop_children(self) -> None:
        if not self._stopping_children:
            self._stopping_children = True
            if super().on_stop_requested():
                self.exit()

    def on_stop(self) -> None:
        """The tunnel is stopped."""
        self._enter(TunnelState.STOPPED, "stopped")
        super().on_stop()

    def _on_end(self, reason: ExitReason) -> None:
        super()._on_end(reason)
        if reason == KILLED and (self._quiescing or self.is_finishing):
            self._enter(TunnelState.STOPPED, "ended by force: it did not stop in time")
        elif reason.is_failure:
            self._enter(TunnelState.BACKOFF, f"its supervisor failed: {reason}")

    def _enter(self, state: TunnelState, reason: str) -> None:
        context = self._context
        if context.stats.enter(state, reason):
            context.publish(TunnelStateChanged(context.config.name, state, reason))
