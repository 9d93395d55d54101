"""What a service has done so far and what it has now, in plain numbers.

Owns the sums over tunnels, closed ones included, so that no count ever goes back. It is not safe
for threads; the service counts and asks on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunnelfleet.proto import Mode

if TYPE_CHECKING:
    from .events import ServiceEvent, ServiceEventKind
    from .relay import RelayedTunnel


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

    def retire(self, tunnel: RelayedTunnel) -> None:
        """Take over what a tunnel did, for it is forgotten now."""
        snapshot = tunnel.snapshot()
        self._relayed_bytes[Mode.SOURCE] += snapshot.source_sent_bytes
        self._relayed_bytes[Mode.DESTINATION] += snapshot.destination_sent_bytes
        self._dropped_messages += snapshot.dropped_messages

    def stats(self, tunnels: Iterable[RelayedTunnel], connections: int) -> ServiceStats:
        """Return what there is now."""
        relayed_bytes = Counter(self._relayed_bytes)
        clients = dict.fromkeys(Mode, 0)
        count = streams = buffered_bytes = 0
        dropped_messages = self._dropped_messages
        for tunnel in tunnels:
            each = tunnel.snapshot()
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
