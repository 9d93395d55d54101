"""The connections to all brokers, and how a reload changes them.

Owns which connections there are. One that is wanted as before does not notice; sections with equal
settings of a broker share connections. It is an actor's, and waits for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .deal import ThingDeal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tunnelfleet.runtime.gateway.config.devices import BrokerSettings, NotifySection

    from .connection import BrokerConnection
    from .state import DeviceState

__all__ = ["Brokers"]


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
                # Loaded with the first broker: a gateway without any needs no paho-mqtt.
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
