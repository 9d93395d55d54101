"""ConnectionLost: the error that says why a WebSocket connection of a tunnel is no more.

Owns the error and how the end of a connection's actor is read as one. It knows no socket and no
retry: TunnelActor counts the loss by its label, and the supervisor decides what follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnelfleet.proto import TunnelClosed, TunnelError

if TYPE_CHECKING:
    from .kernel import ExitReason

__all__ = ["ConnectionLost", "lost_reason"]


class ConnectionLost(TunnelError):  # noqa: N818 - says what happened
    """The connection ended.

    Attributes:
        label: why, in one word, for metrics: `closed`, `lost`, `ping_timeout`, `protocol_error`,
            `connect_failed`...
        was_established: whether the upgrade had succeeded.
    """

    def __init__(self, label: str, text: str, *, was_established: bool = True) -> None:
        super().__init__(text)
        self.label = label
        self.was_established = was_established


def lost_reason(reason: ExitReason) -> TunnelError:
    """The error that a connection ended with, whatever ended it."""
    if isinstance(reason.exception, TunnelError):
        return reason.exception
    if reason.is_failure:
        return ConnectionLost("crashed", f"the connection's actor failed: {reason}")
    return TunnelClosed(str(reason))
