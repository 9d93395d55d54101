"""What the embedded service tells its owner: one event for each thing that happens.

Owns the kinds of event and their JSON form. Must not know who listens, nor any token: an
event names a tunnel and a mode, never a secret.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tunnelfleet.proto import MAX_REASON_CHARACTERS, Mode, printable


class ServiceEventKind(StrEnum):
    """What happened, in the past tense."""

    TUNNEL_OPENED = "tunnel_opened"
    TUNNEL_CLOSED = "tunnel_closed"
    TOKEN_ROTATED = "token_rotated"  # noqa: S105 (the name of an event)
    CLIENT_CONNECTED = "client_connected"
    CLIENT_DISCONNECTED = "client_disconnected"
    CLIENT_REPLACED = "client_replaced"
    CLIENT_REFUSED = "client_refused"
    STREAM_STARTED = "stream_started"
    STREAM_STOPPED = "stream_stopped"
    SESSION_RESET = "session_reset"
    PROTOCOL_ERROR = "protocol_error"
    DROPPED = "dropped"
    BLACK_HOLED = "black_holed"
    THROTTLED = "throttled"
    DELAYED = "delayed"
    CORRUPTED = "corrupted"
    CERTIFICATE_RELOADED = "certificate_reloaded"
    CERTIFICATE_REFUSED = "certificate_refused"


@dataclass(frozen=True, slots=True)
class ServiceEvent:
    """One thing that happened in the service.

    Attributes:
        kind: what happened.
        tunnel: the tunnel's name, or "" when no tunnel is known (a refused stranger).
        mode: whose connection it is about, or None when it is about the tunnel.
        detail: the rest, for people; never a token. The service's own are printable and bounded.
        time_seconds: unix time at which it happened.
    """

    kind: ServiceEventKind
    tunnel: str = ""
    mode: Mode | None = None
    detail: str = ""
    time_seconds: float = field(default_factory=time.time)

    def made_printable(self) -> ServiceEvent:
        """Return the event with a detail that is one bounded line: clients chose parts of it."""
        return replace(self, detail=printable(self.detail, MAX_REASON_CHARACTERS))

    def to_json(self) -> str:
        """Return the event as one line of JSON, without the fields that say nothing."""
        fields: dict[str, object] = {"event": self.kind.value, "time": round(self.time_seconds, 3)}
        if self.tunnel:
            fields["tunnel"] = self.tunnel
        if self.mode is not None:
            fields["mode"] = self.mode.value
        if self.detail:
            fields["detail"] = self.detail
        return json.dumps(fields)
