"""What is counted of notifications and brokers, and how seldom the log hears of trouble.

Owns the numbers, their metrics, and the rule that keeps whoever may publish at a broker from
filling the log and the audit.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from .book import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client import Metric

    from .connection import BrokerConnection

__all__ = ["DEVICE_METRICS", "DeviceCounters", "Seldom"]

NOTIFICATIONS: Final = "tunnelfleet_notifications"
CONNECTIONS: Final = "tunnelfleet_notify_connections"
THINGS: Final = "tunnelfleet_notify_things"
TUNNELS: Final = "tunnelfleet_notify_tunnels"
UNSAVED: Final = "tunnelfleet_notify_unsaved"
_HELP = {
    NOTIFICATIONS: "Notifications that brokers have delivered, by what became of them.",
    CONNECTIONS: "Connections to the brokers of devices, by state: up, or away and tried again.",
    THINGS: "Things whose notifications the brokers have granted.",
    TUNNELS: "Tunnels that devices were told of, and that are wanted.",
    UNSAVED: "Tunnels of devices whose tokens could not be kept in the state so far.",
}
DEVICE_METRICS = frozenset(f"{name}_total" if name == NOTIFICATIONS else name for name in _HELP)
"""The names of all that devices add."""

QUIET_SECONDS: Final = 60.0
BURST: Final = 10
MAX_KEYS: Final = 1_000


class DeviceCounters:
    """The numbers.

    Attributes:
        notifications: by `Verdict`.
        tunnels: tells how many tunnels of devices are wanted.
        unsaved: tells how many tokens could not be kept so far.
        connections: tells those there are.
    """

    def __init__(self) -> None:
        self.notifications = Counter(dict.fromkeys(Verdict, 0))
        self.tunnels: Callable[[], int] = lambda: 0
        self.unsaved: Callable[[], int] = lambda: 0
        self.connections: Callable[[], Sequence[BrokerConnection]] = tuple

    def collect(self) -> Iterator[Metric]:
        """The families, for a collector of prometheus_client."""
        family = CounterMetricFamily(NOTIFICATIONS, _HELP[NOTIFICATIONS], labels=["outcome"])
        for outcome, count in self.notifications.items():
            family.add_metric([outcome.value], count)
        yield family
        connections = self.connections()
        up = sum(each.is_up for each in connections)
        states = GaugeMetricFamily(CONNECTIONS, _HELP[CONNECTIONS], labels=["state"])
        states.add_metric(["up"], up)
        states.add_metric(["away"], len(connections) - up)
        yield states
        for name, value in (
            (THINGS, sum(each.subscribed for each in connections)),
            (TUNNELS, self.tunnels()),
            (UNSAVED, self.unsaved()),
        ):
            yield GaugeMetricFamily(name, _HELP[name], value=value)


class Seldom:
    """Lets a few things through a minute, and knows how many more there were.

    Args:
        burst: so many of one key in a minute.
    """

    def __init__(self, burst: int = BURST) -> None:
        self._burst = burst
        self._seen: OrderedDict[Any, list[float]] = OrderedDict()
        """Since when, how many, and how many were held back, by key."""

    def ask(self, key: Any, now: float) -> int | None:
        """Ask for one more.

        Args:
            key: of what.
            now: in seconds.

        Returns:
            None if it is held back; else how many were before it.
        """
        since, count, held = self._seen.pop(key, [now, 0.0, 0.0])
        told = 0
        if now - since >= QUIET_SECONDS:
            since, count, told, held = now, 0.0, int(held), 0.0
        is_let = count < self._burst
        self._seen[key] = [since, count + 1, held if is_let else held + 1]
        if len(self._seen) > MAX_KEYS:
            self._seen.popitem(last=False)
        return told if is_let else None
