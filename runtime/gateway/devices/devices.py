"""Devices: the `[[notify]]` of a gateway as a program holds them.

Owns what outlives NotifyActor, and the end of its threads: each is told to end with the actor, and
waited for when the gateway has ended.

    devices = Devices(store)
    with devices, Gateway(load, config, more_children=lambda gateway: [devices.child(gateway)]):
        ...
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Final, Self

from tunnelfleet.runtime.gateway.supervisor import FLEET, NOTIFY, child

from .actor import NotifyActor
from .keeper import DeviceKeeper
from .state import DeviceState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import ChildSpec
    from tunnelfleet.runtime.gateway.gateway import Gateway

    from .keeper import KeepsDevices

__all__ = ["Devices"]

CLOSE_SECONDS: Final = 5.0
"""For the threads of all connections together; one that waits for a look-up ends by itself."""


class Devices:
    """The devices of a gateway. A context manager, around the gateway's.

    Args:
        store: keeps their tokens and takes refusals down; None keeps nothing.
    """

    def __init__(self, store: KeepsDevices | None = None) -> None:
        self._store = store
        self._keepers: list[DeviceKeeper] = []
        self.state: DeviceState | None = None
        """What is known of them, once the gateway has started; to be read only."""

    def child(self, gateway: Gateway) -> ChildSpec:
        """How the gateway runs their actor, as one of `more_children`."""
        state = self.state = DeviceState(gateway.state, self._store)
        gateway.collector.add(self.collect)
        return child(NOTIFY, functools.partial(self._start, state, gateway))

    def _start(self, state: DeviceState, gateway: Gateway) -> ActorRef[Any]:
        keeper = DeviceKeeper(self._store)
        self._keepers.append(keeper)
        tell_fleet = functools.partial(gateway.refs.tell, FLEET)
        return NotifyActor.start(state, keeper, gateway.runtime, tell_fleet)

    def collect(self) -> Iterator[Metric]:
        """Their metrics."""
        if self.state is not None:
            yield from self.state.counters.collect()

    def brokers(self) -> list[dict[str, Any]]:
        """The connections to brokers, for `/readyz`."""
        return [] if self.state is None else self.state.brokers()

    def close(self) -> None:
        """Wait for the threads, when the gateway has ended. Safe to call twice."""
        for keeper in self._keepers:
            keeper.end()
            keeper.join()
        self._keepers.clear()
        state = self.state
        if state is None:
            return
        until = time.monotonic() + CLOSE_SECONDS
        for connection in (*state.connections, *state.ending):
            connection.end()
            connection.join(max(0.0, until - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()
