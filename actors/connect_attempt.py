"""ConnectAttempt: one attempt to connect a tunnel, and what its outcome means.

Owns the job on the Connector's threads until it is over. It knows no actor, permit, retry or
counter: whoever made the attempt takes its outcome. The time is an argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnelfleet.proto import HandshakeError

from .connection_lost import ConnectionLost

if TYPE_CHECKING:
    from tunnelfleet.proto import TunnelError

    from .connector import Connector, ConnectRequest

__all__ = ["ConnectAttempt", "connect_failure", "refusal"]


class ConnectAttempt:
    """An attempt, under way from its making on. It keeps no token.

    Args:
        connector: on whose threads.
        request: where to connect, and as whom.
        now: monotonic seconds.

    Attributes:
        outcome: resolves to `Connected` or `NotConnected`. Whoever does not take it owes it
            `connector.discard`.
    """

    __slots__ = ("_endpoint", "_job", "_started_at", "_timeout_seconds", "outcome")

    def __init__(self, connector: Connector, request: ConnectRequest, now: float) -> None:
        self._endpoint = request.endpoint
        self._timeout_seconds = request.timeout_seconds
        self._started_at = now
        self._job, self.outcome = connector.connect(request)

    def seconds(self, now: float) -> float:
        """How long it has taken."""
        return now - self._started_at

    def timed_out(self) -> ConnectionLost:
        """The error to end with when the time is up; it says how far the attempt came."""
        return ConnectionLost(
            "connect_timeout",
            f"no connection to {self._endpoint} after {self._timeout_seconds:g} s "
            f"({self._job.phase}): check the endpoint, the network and the proxy",
            was_established=False,
        )

    def cancel(self) -> None:
        """Give up. Not after the outcome was taken: the socket belongs to who took it."""
        self._job.cancel()


def refusal(error: TunnelError) -> HandshakeError | None:
    """The error itself if no retry can help (DESIGN.md section 2: `refused`), else None."""
    if isinstance(error, HandshakeError) and not error.retryable:
        return error
    return None


def connect_failure(error: TunnelError) -> ConnectionLost:
    """The error to end with after an attempt that failed and may be repeated."""
    status = error.status if isinstance(error, HandshakeError) else None
    label = f"http_{status}" if status else "connect_failed"
    lost = ConnectionLost(label, str(error), was_established=False)
    lost.__cause__ = error
    return lost
