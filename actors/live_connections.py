"""A connection that is open, as other threads may look at it while it carries bytes.

Owns what is known of a connection beside the state of its protocol: who is at its local end, since
when, and how much it has carried. TunnelActor alone writes it, plain integers, so that a byte costs
no lock and no message; `TunnelStats.connections` has those of a tunnel that are open.
"""

from __future__ import annotations

__all__ = ["LiveConnection"]


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
