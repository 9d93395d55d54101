"""TunnelActor: the shell of one tunnel's protocol session.

It owns the Session, the routes from streams to StreamActors, the fair queue to the wire and the
tunnel's state for people. What arrives goes through the session and becomes messages to streams;
what streams read goes through the queue and becomes messages to the WebSocket. It knows no socket
and never waits. What ends what is in docs/architecture.md section 4, the ends themselves in section
7.

It is one actor in layers: see `core`. This one starts it and ends it in good order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tunnelfleet.actors.kernel import RestartChild, StopChild
from tunnelfleet.actors.state import TunnelState
from tunnelfleet.proto import TunnelClosed

from .connections import EndPhase
from .core import WEBSOCKET_CHILD, QuiesceTimedOut
from .link import TunnelLink
from .messages import (
    Abandon,
    CloseGracefully,
    Drain,
    Quiesce,
    Quiesced,
    ReplaceLimits,
    ReplaceToken,
    StopReadingLocal,
)
from .parts import ApiShell

if TYPE_CHECKING:
    from tunnelfleet.actors.kernel import ExitReason
    from tunnelfleet.actors.kernel.actor import Handlers

__all__ = [
    "TunnelActor",
]


class TunnelActor(TunnelLink):
    """One tunnel.

    Args:
        context: what the tunnel's actors share.
    """

    def on_start(self) -> None:
        """Begin as connecting; the supervisors bring the rest."""
        make_api = self._context.parts.api
        if make_api is not None:
            shell = ApiShell(
                self.actor_ref,
                self._session,
                self._wire,
                self._adopt,
                self._handle_events,
                self._takes_connections,
            )
            self._api = make_api(self._config, shell)
        self._stats.forget_active()
        self._enter(TunnelState.CONNECTING)

    def _on_end(self, reason: ExitReason) -> None:
        """Let go of the client API, which leads back here, and tell what ends with the actor."""
        super()._on_end(reason)
        self._api = None
        for connection in self._connections:
            self._tell_closed(connection, f"the tunnel's actor ended: {reason}", "actor_ended")
        self._stats.connections.clear()

    # -- ends of actors and of the tunnel

    def _on_replace_token(self, _message: ReplaceToken) -> None:
        assert self._transport is not None
        attempt = self._websocket_child
        if attempt is not None and attempt.is_alive():
            self._restart_at_once = True
            attempt.tell(Abandon("token_replaced", TunnelClosed("its token was replaced")))
        else:
            self._transport.tell(RestartChild(WEBSOCKET_CHILD))

    def _on_replace_limits(self, message: ReplaceLimits) -> None:
        self._context = self._context.with_limits(message.limits)
        self._config, self._limits = self._context.config, message.limits
        self._update_accepting()

    def _on_drain(self, _message: Drain) -> None:
        if self._draining:
            return
        self._draining = True
        self._enter(TunnelState.DRAINING, f"{len(self._connections)} connections are left")
        if self._transport is None:
            # It came before the transport, whose attachment ends it.
            return
        self._close_listeners()
        if self._websocket is None:
            self._finish_quiesce()
        else:
            self._finish_if_done()

    def _on_quiesce(self, message: Quiesce) -> None:
        if self._quiesce is not None:
            return
        self._quiesce = message
        if self._stats.state is not TunnelState.REFUSED:
            self._enter(TunnelState.DRAINING, "stopping")
        if self._transport is not None:
            self._close_listeners()
        if self._websocket is None:
            self._finish_quiesce()
            return
        self.schedule(message.timeout_seconds, QuiesceTimedOut())
        for connection in self._connections:
            connection.tell(StopReadingLocal())
            if connection.end_phase is EndPhase.SENT:
                # What the peer has still to send will have nobody to take it.
                self._abort(connection, "tunnel stopped")
        self._pump()
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        """Close the WebSocket when a graceful end has nothing left to wait for."""
        ending = self._draining or self._quiesce is not None
        if not ending or self._closing or self._websocket is None:
            return
        is_waiting = len(self._connections) or self._connections.undelivered_bytes
        if not is_waiting and self._wire.is_idle:
            self._closing = True
            self._websocket.tell(CloseGracefully())

    def _on_quiesce_timed_out(self, _message: QuiesceTimedOut) -> None:
        """No time is left: what is not whole must not look so at the other end."""
        if self._websocket is None or self._closing:
            self._finish_quiesce()
            return
        for service_id, _ in list(self._streams):
            messages, session_events = self._session.reset_stream(service_id)
            for item in messages:
                self._wire.control(item)
            self._handle_events(session_events)
        self._pump()
        self._closing = True
        # Its end finishes the rest; the supervisor waits for that a moment longer.
        self._websocket.tell(CloseGracefully())

    def _finish_quiesce(self) -> None:
        if self._quiesce is not None:
            self._quiesce.reply_to.tell(Quiesced())
            return
        assert self._transport is not None
        self._transport.tell(StopChild(WEBSOCKET_CHILD))
        self._enter(TunnelState.STOPPED, "drained")

    HANDLERS: ClassVar[Handlers] = {
        **TunnelLink.HANDLERS,
        QuiesceTimedOut: _on_quiesce_timed_out,
        ReplaceLimits: _on_replace_limits,
        ReplaceToken: _on_replace_token,
        Drain: _on_drain,
        Quiesce: _on_quiesce,
    }
