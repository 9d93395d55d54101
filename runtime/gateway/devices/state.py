"""What is kept of a gateway's devices: over a crash of NotifyActor, in the state, in metrics.

Owns the book, the counters and their families, and the thread on which the state is written, which
may block. Its queue is bounded.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from tunnelfleet.proto import TunnelError, counted
from tunnelfleet.runtime.gateway.config.devices import BrokerSettings, NotifySection
from tunnelfleet.runtime.gateway.supervisor import NOTIFY

from .book import DeviceBook, DeviceTunnel, Verdict

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.fleet_state import FleetState

    # It needs paho-mqtt, an extra: it is loaded with the first broker.
    from .connection import BrokerConnection, ThingDeal

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


MAX_WAITING: Final = 2_000
"""Tasks that wait for the thread."""


class KeepsDevices(Protocol):
    """What is asked of the state. All of it waits, and may raise a `TunnelError`."""

    def load_devices(self) -> list[DeviceTunnel]:
        """The tunnels that were kept."""

    def save_device(self, tunnel: DeviceTunnel) -> None:
        """Keep a tunnel, over restarts."""

    def forget_devices(self, token_hashes: Sequence[str]) -> None:
        """Keep them no more."""

    def note_denied(
        self, tunnel: str, service_id: str, *, peer: str, user: str, reason: str
    ) -> None:
        """Take down a refusal. Never waits."""


class DeviceKeeper:
    """Keeps tunnels on a thread of its own.

    Args:
        store: what it keeps them in; None keeps nothing.
    """

    def __init__(self, store: KeepsDevices | None) -> None:
        self._store = store
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tunnelfleet-devices")
        self._room = threading.BoundedSemaphore(MAX_WAITING)

    def load(self) -> Future[list[DeviceTunnel]] | None:
        """Load what was kept; None if too much waits."""
        store = self._store
        return self._submit(lambda: [] if store is None else store.load_devices())

    def save(self, tunnel: DeviceTunnel) -> Future[None] | None:
        """Keep a tunnel; None if too much waits."""
        store = self._store
        return self._submit(lambda: None if store is None else store.save_device(tunnel))

    def forget(self, token_hashes: Sequence[str]) -> Future[None] | None:
        """Keep tunnels no more; None if too much waits."""
        store = self._store
        return self._submit(lambda: None if store is None else store.forget_devices(token_hashes))

    def _submit(self, task: Callable[[], Any]) -> Future[Any] | None:
        if not self._room.acquire(blocking=False):
            return None
        try:
            return self._executor.submit(self._run, task)
        except RuntimeError:
            # It is being ended.
            self._room.release()
            return None

    def _run(self, task: Callable[[], Any]) -> Any:
        try:
            return task()
        finally:
            self._room.release()

    def end(self) -> None:
        """End when what goes on is over; does not wait."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Wait for the end."""
        self._executor.shutdown(wait=True)


def failure_of(future: Future[Any]) -> str | None:
    """Why a task has failed; None if it has not."""
    if future.cancelled():
        return "it was given up"
    error = future.exception()
    if error is None:
        return None
    return str(error) if isinstance(error, TunnelError) else f"{type(error).__name__}"


MAX_LISTED: Final = 100
"""Connections to brokers that `/readyz` lists."""


class DeviceState:
    """The facts.

    Args:
        fleet: what is known of the fleet; only read here.
        store: takes refusals down; None takes down nothing.
    """

    def __init__(self, fleet: FleetState, store: KeepsDevices | None) -> None:
        self.fleet = fleet
        self._store = store
        self.book = DeviceBook()
        self.unsaved: dict[str, None] = {}
        """Hashes of tokens that are not in the state so far."""
        self.unforgotten: dict[str, None] = {}
        """Hashes of tokens that are still in the state, and should not be."""
        self.is_keeping = True
        """Whether tokens can be put into the state, as far as it is known."""
        self.connections: tuple[BrokerConnection, ...] = ()
        """Those that are wanted."""
        self.ending: list[BrokerConnection] = []
        """Those whose threads are about to end."""
        self.seldom = Seldom()
        self.counters = DeviceCounters()
        self.counters.tunnels = lambda: len(self.fleet.sources.get(NOTIFY, {}))
        self.counters.unsaved = lambda: len(self.unsaved)
        self.counters.connections = lambda: self.connections

    def is_taken(self, name: str) -> bool:
        """Whether another source wants a tunnel of this name."""
        sources = tuple(self.fleet.sources.items())
        return any(name in tunnels for source, tunnels in sources if source != NOTIFY)

    def note_refused(self, thing: str, service_id: str, broker: str) -> None:
        """Take down that a device was asked for a service that it does not give."""
        told = self.seldom.ask(("audit", thing), time.monotonic())
        if self._store is None or told is None:
            return
        reason = "the service is not in the allow-list of [[notify]]"
        if told:
            reason += f"; so it was {counted(told, 'time')} more since"
        self._store.note_denied(thing, service_id, peer=broker, user="", reason=reason)

    def brokers(self) -> list[dict[str, Any]]:
        """The connections to brokers, those that are away first, for `/readyz`."""
        found = sorted(self.connections, key=lambda each: each.is_up)[:MAX_LISTED]
        return [
            {
                "broker": str(each.settings),
                "client_id": each.client_id,
                "connected": each.is_up,
                "things": each.subscribed,
                "reason": each.reason,
            }
            for each in found
        ]


class _Reached(NamedTuple):
    subscriptions: ThingDeal
    connections: dict[int, BrokerConnection]


class Brokers:
    """The connections.

    Args:
        tell: is told by them what happens.
        state: has the list of them.
    """

    def __init__(self, tell: Callable[[object], object], state: DeviceState) -> None:
        self._tell = tell
        self._state = state
        self._brokers: dict[BrokerSettings, _Reached] = {}

    def change(self, sections: Sequence[NotifySection]) -> None:
        """These are the sections from now on."""
        wanted: dict[BrokerSettings, list[str]] = {}
        for section in sections:
            wanted.setdefault(section.broker, []).extend(section.things)
        sessions = {(each.address, each.client_id) for each in wanted}
        for settings in [each for each in self._brokers if each not in wanted]:
            # The same session with another certificate is kept for the connection that follows.
            is_over = (settings.address, settings.client_id) not in sessions
            for connection in self._brokers.pop(settings).connections.values():
                self._end(connection, forget=is_over)
        for settings, things in wanted.items():
            if settings not in self._brokers:
                from .connection import ThingDeal  # noqa: PLC0415

                self._brokers[settings] = _Reached(ThingDeal(settings.subscriptions), {})
            self._change(settings, things)
        self._show()

    def _change(self, settings: BrokerSettings, things: list[str]) -> None:
        subscriptions, connections = self._brokers[settings]
        subscriptions.change(things)
        dealt = subscriptions.connections
        for number in [each for each in connections if each not in dealt]:
            self._end(connections.pop(number), forget=True)
        for number, some in dealt.items():
            connection = connections.get(number)
            if connection is None:
                from .connection import BrokerConnection  # noqa: PLC0415

                connection = connections[number] = BrokerConnection(settings, number, self._tell)
                connection.want(some)
                connection.start()
            else:
                connection.want(some)

    def end(self) -> None:
        """End all; the brokers keep the sessions."""
        for broker in self._brokers.values():
            for connection in broker.connections.values():
                self._end(connection, forget=False)
        self._brokers.clear()
        self._show()

    def _end(self, connection: BrokerConnection, *, forget: bool) -> None:
        connection.end(forget=forget)
        state = self._state
        state.ending = [each for each in state.ending if not each.join(0.0)]
        state.ending.append(connection)

    def _show(self) -> None:
        self._state.connections = tuple(
            connection
            for broker in self._brokers.values()
            for connection in broker.connections.values()
        )
