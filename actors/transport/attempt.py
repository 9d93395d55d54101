"""One attempt to connect: look-up, permit, dial, handshake; and what its failure means.

Owns the order of those steps, the time that they may take, and what can end them. It lives in the
turns of its WebSocketActor. Must not know streams, nor when the next attempt is made.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from pykka import ActorRef

from tunnelfleet.actors.addresses import HttpProxy, TcpAddress
from tunnelfleet.actors.events import AttemptOutcome
from tunnelfleet.actors.kernel import DispatchedActor, ExitReason, Terminated, Timer
from tunnelfleet.actors.net.dial import Dial, DialFailed
from tunnelfleet.actors.net.socket_io import is_exhausted
from tunnelfleet.actors.tunnel.messages import (
    ConnectionRefused,
    PermitCalledBack,
    PermitGranted,
    ReleasePermit,
    RequestPermit,
)
from tunnelfleet.proto import ConnectionLost, Endpoint, HandshakeError, TunnelError

from .connector import ConnectFailed, ConnectJob, Connector, ConnectRequest, connect_error, discard

if TYPE_CHECKING:
    import ssl

    from tunnelfleet.actors.config import TunnelConfig
    from tunnelfleet.actors.counters import TunnelStats

SERVER_ERRORS = 500
FRESH_SECONDS = 5.0
"""The permit may take long; addresses that are older by then are looked up again."""


class ConnectAttempt:
    """An attempt: `prepare` it, and when it says that it is ready, `connect`.

    It keeps the tokens from `connect` until the dial is over.

    Args:
        actor: gets the outcome, and passes on each `DialStep`.
        connector: looks up names, and has the threads.
        endpoint: the service.
        http_proxy: what to connect to instead, or None.
        timeout_seconds: for people; the actor keeps it.
        tunnel: stands for the tunnel that asks for look-ups.
        next_address_after_seconds: see `Dial`.
    """

    __slots__ = (
        "_actor",
        "_connector",
        "_dial",
        "_endpoint",
        "_job",
        "_peer",
        "_prepared_at",
        "_request",
        "_started_at",
        "_timeout_seconds",
    )

    def __init__(
        self,
        actor: DispatchedActor,
        connector: Connector,
        endpoint: Endpoint,
        http_proxy: HttpProxy | None,
        *,
        timeout_seconds: float,
        tunnel: str,
        next_address_after_seconds: float,
    ) -> None:
        self._actor = actor
        self._connector = connector
        self._endpoint = endpoint
        self._timeout_seconds = timeout_seconds
        peer = http_proxy or endpoint
        self._peer = str(endpoint) if http_proxy is None else f"the proxy {http_proxy}"
        self._request: ConnectRequest | None = None
        self._job: ConnectJob | None = None
        self._prepared_at = 0.0
        self._started_at = 0.0
        self._dial = Dial(
            actor,
            connector,
            TcpAddress(peer.host, peer.port),
            tunnel=tunnel,
            next_address_after_seconds=next_address_after_seconds,
            on_open=self._on_open,
            on_failed=self._on_failed,
        )

    def prepare(self, on_ready: Callable[[], None], clock: Callable[[], float]) -> None:
        """Look up the name, if there is need to; then call `on_ready`, perhaps at once.

        Args:
            on_ready: asks for the permit.
            clock: monotonic seconds, for when the answer comes.
        """

        def note_and_go_on() -> None:
            self._prepared_at = clock()
            on_ready()

        self._dial.prepare(note_and_go_on)

    def connect(self, request: ConnectRequest, now: float) -> None:
        """Go on, with the permit.

        Args:
            request: where to connect, and as whom.
            now: monotonic seconds.
        """
        self._request = request
        self._started_at = now
        if now - self._prepared_at > FRESH_SECONDS:
            self._dial.forget_addresses()
        self._dial.start()

    def _on_open(self, sock: socket.socket) -> None:
        request, self._request = self._request, None
        assert request is not None
        self._job, outcome = self._connector.connect(request, sock)
        self._actor.pipe_to_self(outcome, lambda future: future.result(), discard=discard)

    def _on_failed(self, failed: DialFailed) -> None:
        error = connect_error(f"cannot reach {self._peer}: {failed.reason}")
        # As a message: the callee may be in the middle of `connect`.
        self._actor.actor_ref.tell(ConnectFailed(error))

    def seconds(self, now: float) -> float:
        """How long it has taken since the permit."""
        return now - self._started_at

    def timed_out(self) -> ConnectionLost:
        """The error to end with when the time is up; it says how far the attempt came."""
        phase = self._dial.phase if self._job is None else self._job.phase
        return ConnectionLost(
            "connect_timeout",
            f"no connection to {self._endpoint} after {self._timeout_seconds:g} s "
            f"({phase}): check the endpoint, the network and the proxy",
            was_established=False,
        )

    def cancel(self) -> None:
        """Give up. Not after the outcome was taken: the socket belongs to who took it."""
        self._dial.cancel()
        if self._job is not None:
            self._job.cancel()


def refusal(error: TunnelError) -> HandshakeError | None:
    """The error itself if no retry can help, else None.

    See docs/architecture.md section 4: `refused`.
    """
    if isinstance(error, HandshakeError) and not error.retryable:
        return error
    return None


def outcome_of(error: TunnelError) -> AttemptOutcome:
    """What the failure of an attempt tells of the endpoint."""
    status = error.status if isinstance(error, HandshakeError) else None
    if status is not None:
        # Below that it is about this request: a token, a redirect, a throttle.
        return AttemptOutcome.FAILED if status >= SERVER_ERRORS else AttemptOutcome.REFUSED
    if is_exhausted(error) or refusal(error) is not None:
        return AttemptOutcome.CANCELLED
    return AttemptOutcome.FAILED


def connect_failure(error: TunnelError) -> ConnectionLost:
    """The error to end with after an attempt that failed and may be repeated."""
    label = error.label if isinstance(error, HandshakeError) else "connect_failed"
    lost = ConnectionLost(label, str(error), was_established=False)
    lost.__cause__ = error
    return lost


class Tokens(Protocol):
    """The tokens of a tunnel; they may be replaced between two attempts."""

    def current(self) -> tuple[str, str]:
        """The access token and the client token to send."""


class WebSocketContext(NamedTuple):
    """Given to every WebSocketActor of a tunnel.

    Attributes:
        config: the tunnel; an SSLContext of its own goes before the shared one.
        credentials: its tokens.
        tunnel: the TunnelActor.
        governor: the ConnectGovernor, which grants the permit to connect.
        supervisor: learns that the connection stands.
        connector: on whose threads attempts run.
        ssl_context: the runtime's shared one, or None.
        stats: counts attempts, connects and pings.
    """

    config: TunnelConfig
    credentials: Tokens
    tunnel: ActorRef[Any]
    governor: ActorRef[Any]
    supervisor: ActorRef[Any]
    connector: Connector
    ssl_context: ssl.SSLContext | None
    stats: TunnelStats

    def connect_request(self) -> ConnectRequest:
        """What an attempt of this tunnel asks for, with the tokens of this moment.

        `local_bind` is not in it: as localproxy's `-b` it is for the application's side alone.
        """
        config = self.config
        access_token, client_token = self.credentials.current()
        return ConnectRequest(
            config.endpoint,
            config.mode,
            access_token,
            client_token,
            config.ssl_context or self.ssl_context,
            config.http_proxy,
            config.user_agent,
            config.limits.connect_timeout_seconds,
        )


class AttemptTimedOut(NamedTuple):
    """The attempt took too long."""


class AttemptPhase(Enum):
    """Whether the attempt counts as one."""

    WAITING = auto()
    """For the permit to connect: nothing was tried yet."""
    TRYING = auto()
    """The attempt has begun, and is counted."""


class Connecting:
    """What a WebSocketActor does until it has a socket: one attempt, with a permit, in time.

    It ends the actor when the attempt fails. When it succeeds the actor is told `Connected`, and
    has to call `succeeded`.

    Args:
        actor: in whose turns it lives; it passes on the messages of `CONNECT_STEPS`.
        context: what the tunnel's connections share.
        epoch: the number of the connection.
    """

    __slots__ = ("_actor", "_attempt", "_context", "_epoch", "_phase", "_timer")

    def __init__(self, actor: DispatchedActor, context: WebSocketContext, epoch: int) -> None:
        config = context.config
        self._actor, self._context, self._epoch = actor, context, epoch
        self._phase = AttemptPhase.WAITING
        self._timer: Timer | None = None
        self._attempt = ConnectAttempt(
            actor,
            context.connector,
            config.endpoint,
            config.http_proxy,
            timeout_seconds=config.limits.connect_timeout_seconds,
            tunnel=context.tunnel.actor_urn,
            next_address_after_seconds=config.limits.next_address_after_seconds,
        )

    def begin(self) -> None:
        """Look up the name of the service, then ask for a permit to connect."""
        self._actor.watch(self._context.governor)
        self._set_timer(self._context.config.limits.connect_timeout_seconds)
        self._attempt.prepare(self._ask_permit, time.monotonic)
        if self._timer is not None:
            # A name is looked up: the attempt has begun.
            self._count()

    def handle(self, message: ConnectStep) -> None:
        """Go on, or end, with a message of `CONNECT_STEPS`."""
        CONNECT_STEPS[type(message)](self, message)

    def succeeded(self, now: float) -> float:
        """There is a socket; return how many seconds it took since the permit."""
        self._end_timer()
        self._release_permit(AttemptOutcome.CONNECTED)
        return self._attempt.seconds(now)

    def cancel(self) -> None:
        """The actor ends before there is an outcome."""
        self._attempt.cancel()

    def _set_timer(self, seconds: float) -> None:
        self._timer = self._actor.schedule(seconds, AttemptTimedOut())

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ask_permit(self) -> None:
        # Waiting for the permit is no part of the time to connect.
        self._end_timer()
        config = self._context.config
        request = RequestPermit(self._actor.actor_ref, config.permit_group, config.name)
        self._context.governor.tell(request)

    def _release_permit(self, outcome: AttemptOutcome) -> None:
        self._context.governor.tell(ReleasePermit(self._actor.actor_ref, outcome))

    def _count(self) -> None:
        """Once: with its look-up or, if it needs none, with its permit."""
        if self._phase is AttemptPhase.WAITING:
            self._phase = AttemptPhase.TRYING
            self._context.stats.count_connect_attempt()

    def _on_granted(self, _message: PermitGranted) -> None:
        self._actor.unwatch(self._context.governor)
        self._count()
        request = self._context.connect_request()
        self._set_timer(request.timeout_seconds)
        self._attempt.connect(request, time.monotonic())

    def _on_called_back(self, message: PermitCalledBack) -> None:
        self._fail(ConnectionLost(message.label, message.reason, was_established=False))

    def _on_governor_ended(self, _message: Terminated) -> None:
        text = "the connect governor ended"
        self._fail(ConnectionLost("connect_failed", text, was_established=False))

    def _on_timed_out(self, _message: AttemptTimedOut) -> None:
        self._count()
        # Harmless without a permit, while a name is looked up.
        self._release_permit(AttemptOutcome.FAILED)
        self._fail(self._attempt.timed_out())

    def _on_failed(self, message: ConnectFailed) -> None:
        self._count()
        self._release_permit(outcome_of(message.error))
        refused = refusal(message.error)
        if refused is None:
            self._fail(connect_failure(message.error))
            return
        self._context.tunnel.tell(ConnectionRefused(self._epoch, refused))
        self._actor.exit()

    def _fail(self, lost: ConnectionLost) -> None:
        self._actor.exit(ExitReason.failed(lost))


ConnectStep: TypeAlias = (
    PermitGranted | PermitCalledBack | Terminated | AttemptTimedOut | ConnectFailed
)
CONNECT_STEPS: Final[dict[type[Any], Callable[[Connecting, Any], None]]] = {
    PermitGranted: Connecting._on_granted,  # noqa: SLF001 - methods of the class above
    PermitCalledBack: Connecting._on_called_back,  # noqa: SLF001
    Terminated: Connecting._on_governor_ended,  # noqa: SLF001
    AttemptTimedOut: Connecting._on_timed_out,  # noqa: SLF001
    ConnectFailed: Connecting._on_failed,  # noqa: SLF001
}
"""What a WebSocketActor is told while it connects, but for the success."""
