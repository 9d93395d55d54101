"""One attempt to connect: permit, dial, handshake; and what its failure means.

Owns the order of those steps and what can end them. It lives in the turns of its WebSocketActor.
Must not know streams, nor when the next attempt is made.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from tunnelfleet.actors.addresses import HttpProxy, TcpAddress
from tunnelfleet.actors.kernel import DispatchedActor
from tunnelfleet.actors.net.dial import Dial, DialFailed
from tunnelfleet.actors.net.socket_io import is_exhausted
from tunnelfleet.actors.state import AttemptOutcome
from tunnelfleet.proto import ConnectionLost, Endpoint, HandshakeError, TunnelError

from .connector import ConnectFailed, ConnectJob, Connector, ConnectRequest, connect_error, discard

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
        self._peer = peer = http_proxy or endpoint
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
