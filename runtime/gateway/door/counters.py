"""What is counted at the front doors of a gateway, and the sockets that count themselves.

Owns the numbers and their metrics. Whoever counts is on the doors' thread, but for the ends of
sockets, which tunnels close on theirs.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from tunnelfleet.actors.net.socket_io import AcceptedSocket

from .handshake import Denial

if TYPE_CHECKING:
    from prometheus_client import Metric


_HELP = {
    "tunnelfleet_door_accepted": "Clients that connected to a front door.",
    "tunnelfleet_door_connections": "Connections that came through a front door and are open.",
    "tunnelfleet_door_handed_over": "Connections that a front door handed over to a tunnel.",
    "tunnelfleet_door_denied": "Clients that a front door refused, by reason.",
    "tunnelfleet_door_handshakes": "Clients in their handshake, or refused and about to go.",
    "tunnelfleet_door_left": "Clients that left, or were late, before they had said all.",
}
_COUNTERS = ("accepted", "handed_over", "denied", "left")
DOOR_METRICS = frozenset(
    f"{name}_total" if name.removeprefix("tunnelfleet_door_") in _COUNTERS else name
    for name in _HELP
)
"""The names of all metrics of front doors."""

PROTOCOLS = ("http", "socks5", "fleet")


class DoorCounters:
    """The numbers of all front doors of a gateway.

    Attributes:
        accepted: clients that connected.
        handed_over: connections that a tunnel has taken, by protocol.
        denied: clients that were refused, by `Denial`.
        left: clients that left or were too late before they had said all.
        handshakes: tells how many are in their handshake, or about to go.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.handed_over = Counter(dict.fromkeys(PROTOCOLS, 0))
        self.denied = Counter(dict.fromkeys(Denial, 0))
        self.left = 0
        self.handshakes: Callable[[], int] = lambda: 0
        self._open = 0
        self._lock = threading.Lock()

    @property
    def open(self) -> int:
        """Sockets that came through a front door and are not closed, whoever has them."""
        return self._open

    def opened(self, change: int) -> None:
        """Count that so many more, or fewer, sockets are open. Any thread."""
        with self._lock:
            self._open += change

    def collect(self) -> Iterator[Metric]:
        """Return the families, for a collector of prometheus_client."""
        yield self._counter("accepted", self.accepted)
        yield self._counter("left", self.left)
        family = self._counter("handed_over", None, "protocol")
        for protocol, count in self.handed_over.items():
            family.add_metric([protocol], count)
        yield family
        family = self._counter("denied", None, "reason")
        for refusal, count in self.denied.items():
            family.add_metric([refusal.value], count)
        yield family
        for name, value in (("connections", self.open), ("handshakes", self.handshakes())):
            full = f"tunnelfleet_door_{name}"
            yield GaugeMetricFamily(full, _HELP[full], value=value)

    @staticmethod
    def _counter(name: str, value: int | None, *labels: str) -> CounterMetricFamily:
        full = f"tunnelfleet_door_{name}"
        return CounterMetricFamily(full, _HELP[full], value=value, labels=labels or None)


class CountedSocket(AcceptedSocket):
    """A socket that is counted as open until it is closed, by whomever.

    Args:
        accepted: the socket; this one takes its place.
        counters: where it counts.
    """

    def __init__(self, accepted: socket.socket, counters: DoorCounters) -> None:
        self._counters: DoorCounters | None = None
        super().__init__(accepted)
        self._counters = counters
        counters.opened(1)

    def close(self) -> None:
        """Close the socket."""
        counters, self._counters = self._counters, None
        super().close()
        if counters is not None:
            counters.opened(-1)
