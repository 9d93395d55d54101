"""How a tunnel is, for people, the API and metrics."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["TunnelState"]


class TunnelState(StrEnum):
    """The states of a tunnel, for people, API and metrics (docs/architecture.md section 4)."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    BACKOFF = "backoff"
    REFUSED = "refused"
    QUARANTINED = "quarantined"
    DRAINING = "draining"
    STOPPED = "stopped"
