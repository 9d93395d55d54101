"""How a tunnel is, for people, the API and metrics; and what became of its attempts."""

from __future__ import annotations

from enum import Enum, StrEnum

__all__ = ["AttemptOutcome", "TunnelState"]


class TunnelState(StrEnum):
    """The states of a tunnel, for people, API and metrics (docs/architecture.md section 4)."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    BACKOFF = "backoff"
    REFUSED = "refused"
    QUARANTINED = "quarantined"
    DRAINING = "draining"
    STOPPED = "stopped"


class AttemptOutcome(Enum):
    """What has become of an attempt, as far as it tells something of the endpoint."""

    CONNECTED = "connected"
    REFUSED = "refused"
    """The endpoint lives, and will not have this tunnel."""
    FAILED = "failed"
    """The endpoint did not answer, or with an error of its own."""
    CANCELLED = "cancelled"
    """Nothing is known of the endpoint: the tunnel was stopped, or this machine is at its end."""
