"""What the embedded service tells its owner: events, one for each thing that happens, and sums.

Owns the kinds of event, their JSON form, and the sums over tunnels, closed ones included, so that
no count goes back. An event names a tunnel and a mode, never a token. It does not know who listens.
The sums are not safe for threads; the service counts and asks on its own.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
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


@dataclass(frozen=True, slots=True)
class TunnelSnapshot:
    """A tunnel at one moment.

    Attributes:
        name: its name.
        services: its service ids.
        source_connected: whether a source is connected.
        destination_connected: whether a destination is connected.
        source_sent_bytes: DATA payload relayed from source to destination, ever.
        destination_sent_bytes: DATA payload relayed from destination to source, ever.
        source_buffered_bytes: what waits in the service for the source to read.
        destination_buffered_bytes: what waits for the destination.
        streams_active: active streams, as the service saw them start.
        dropped_messages: messages that had nobody to go to, ever.
    """

    name: str
    services: tuple[str, ...]
    source_connected: bool
    destination_connected: bool
    source_sent_bytes: int
    destination_sent_bytes: int
    source_buffered_bytes: int
    destination_buffered_bytes: int
    streams_active: int
    dropped_messages: int


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """A service at one moment.

    Attributes:
        tunnels: open tunnels.
        connections: accepted connections, with or without a token so far.
        clients: clients that are connected to a tunnel, by mode.
        streams: active streams.
        buffered_bytes: what waits in the service for a client to read.
        relayed_bytes: DATA payload that was relayed, ever, by the mode of its sender.
        dropped_messages: messages that had nobody to go to, ever.
        events: how often each thing happened, ever.
    """

    tunnels: int
    connections: int
    clients: Mapping[Mode, int]
    streams: int
    buffered_bytes: int
    relayed_bytes: Mapping[Mode, int]
    dropped_messages: int
    events: Mapping[ServiceEventKind, int]


class StatsKeeper:
    """Counts what happens in a service, and keeps what its closed tunnels did."""

    def __init__(self) -> None:
        self._events: Counter[ServiceEventKind] = Counter()
        self._relayed_bytes: Counter[Mode] = Counter()
        self._dropped_messages = 0

    def note(self, event: ServiceEvent) -> None:
        """Count an event."""
        self._events[event.kind] += 1

    def retire(self, snapshot: TunnelSnapshot) -> None:
        """Take over what a tunnel did, for it is forgotten now."""
        self._relayed_bytes[Mode.SOURCE] += snapshot.source_sent_bytes
        self._relayed_bytes[Mode.DESTINATION] += snapshot.destination_sent_bytes
        self._dropped_messages += snapshot.dropped_messages

    def stats(self, tunnels: Iterable[TunnelSnapshot], connections: int) -> ServiceStats:
        """Return what there is now."""
        relayed_bytes = Counter(self._relayed_bytes)
        clients = dict.fromkeys(Mode, 0)
        count = streams = buffered_bytes = 0
        dropped_messages = self._dropped_messages
        for each in tunnels:
            count += 1
            clients[Mode.SOURCE] += each.source_connected
            clients[Mode.DESTINATION] += each.destination_connected
            streams += each.streams_active
            buffered_bytes += each.source_buffered_bytes + each.destination_buffered_bytes
            relayed_bytes[Mode.SOURCE] += each.source_sent_bytes
            relayed_bytes[Mode.DESTINATION] += each.destination_sent_bytes
            dropped_messages += each.dropped_messages
        return ServiceStats(
            count,
            connections,
            clients,
            streams,
            buffered_bytes,
            {mode: relayed_bytes[mode] for mode in Mode},
            dropped_messages,
            dict(self._events),
        )
