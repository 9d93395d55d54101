"""How a tunnel is, and which connections it has open, for those who look from other threads."""

from __future__ import annotations

from enum import Enum, StrEnum


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


class LiveConnection:
    """One open connection.

    Attributes:
        service_id: of its stream.
        stream_id: of its stream.
        connection_id: on the wire.
        serial: tells the connections of a tunnel's actor apart.
        peer: the local application: in a source the address that connected, in a destination the
            one that is connected to; empty for a user of the client API.
        user: who it is, if it is known: `uid=1000` at a Unix socket, or the user of a front door.
        opened_at: when it was opened, in seconds of the Unix epoch.
        sent_bytes: from the local application to the tunnel.
        received_bytes: from the tunnel for the local application.
    """

    __slots__ = (
        "connection_id",
        "opened_at",
        "peer",
        "received_bytes",
        "sent_bytes",
        "serial",
        "service_id",
        "stream_id",
        "user",
    )

    def __init__(
        self,
        service_id: str,
        stream_id: int,
        connection_id: int,
        serial: int,
    ) -> None:
        self.service_id = service_id
        self.stream_id = stream_id
        self.connection_id = connection_id
        self.serial = serial
        self.peer = ""
        self.user = ""
        self.opened_at = 0.0
        self.sent_bytes = 0
        self.received_bytes = 0
