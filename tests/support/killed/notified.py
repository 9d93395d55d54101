"""A gateway of devices that a real broker tells of their tunnels.

Owns what it is made to do while the actor of its devices is killed, and what must be so afterwards:
a connection to a device that was told of its tunnel before did not notice; each device that was
told meanwhile, and the next one, has its tunnel, and its token is kept.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from tests.support.fleet import Fleet
from tests.support.killed.killing import live
from tests.support.killed.shared import SharedCase
from tests.support.mosquitto import publish, running_mosquitto
from tests.support.rig import FAST_LIMITS, connect, receive_exactly
from tests.support.stores import make_store
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import Endpoint, Mode, TunnelError
from tunnelfleet.runtime import TcpAddress, TunnelConfig, TunnelState, TunnelStateChanged
from tunnelfleet.runtime.gateway import messages as asks
from tunnelfleet.runtime.gateway.config.devices import BrokerSettings, NotifySection
from tunnelfleet.runtime.gateway.config.things import BrokerAddress
from tunnelfleet.runtime.gateway.devices import actor
from tunnelfleet.runtime.gateway.devices.actor import Devices, NotifyActor
from tunnelfleet.runtime.gateway.devices.notification import (
    Arrived,
    ConnectionChanged,
    SubscriptionRefused,
    topic_of,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.runtime.gateway.config import FleetConfig

THINGS = tuple(f"thing-{number}" for number in range(200))


class Notified(Fleet):
    """A context manager; the gateway runs when it is entered."""

    spared: tuple[Any, ...] = ()

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "state")
        self._folder = folder
        self._numbers = count()

    def __enter__(self) -> Self:
        super().__enter__()
        broker = self._folder / "broker"
        broker.mkdir()
        self._broker = self._stack.enter_context(running_mosquitto(broker))
        self._section = NotifySection(
            broker=BrokerSettings(
                BrokerAddress("127.0.0.1", self._broker.port, is_tls=False), "gw", subscriptions=500
            ),
            things=THINGS,
            services={"SSH": str(self._target)},
            endpoint=Endpoint.parse(self.service.endpoint),
            limits=FAST_LIMITS,
            labels={},
            tunnels_per_thing=3,
        )
        self.store = make_store(f"sqlite:///{self._folder}/state.db")
        self.devices = self._stack.enter_context(Devices(self.store))
        files = self.files
        self.files = _NotifyFiles(files, self._section)  # type: ignore[assignment]
        self.start(store=self.store, more_children=lambda gateway: [self.devices.child(gateway)])
        self._wait_subscribed()
        self._witness = self._stack.enter_context(self._talk_to(self.notify()))
        return self

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """Those of the gateway."""
        return self.gateway.dispatchers

    def _wait_subscribed(self) -> None:
        def granted() -> bool:
            found = self.devices.brokers()
            return [each["things"] for each in found if each["connected"]] == [len(THINGS)]

        eventually(granted, "all things are subscribed to")

    # -- what is done with it

    def notify(self) -> str:
        """Open a tunnel to the next device, and have it told; returns the thing."""
        thing = THINGS[next(self._numbers)]
        tokens = self.service.open_tunnel(thing, ["SSH"])
        payload = {
            "clientAccessToken": tokens.destination_token,
            "clientMode": "destination",
            "region": "eu-west-1",
            "services": ["SSH"],
        }
        publish(self._broker, topic_of(thing), json.dumps(payload).encode())
        config = TunnelConfig(
            name=f"operator {thing}",
            mode=Mode.SOURCE,
            endpoint=Endpoint.parse(self.service.endpoint),
            access_token=tokens.source_token,
            services={"SSH": TcpAddress("127.0.0.1", 0)},
            limits=FAST_LIMITS,
        )
        self._rig.runtime.open_tunnel(config).wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        return thing

    def _talk_to(self, thing: str) -> socket.socket:
        """A connection to a device, once that is there, which has been echoed."""
        eventually(lambda: self._runs(thing), f"a tunnel to {thing}")
        operator = self._rig.runtime.tunnel(f"operator {thing}")
        with contextlib.ExitStack() as stack:
            address = operator.wait_listening("SSH", WAIT_SECONDS)
            sock = stack.enter_context(connect(address, WAIT_SECONDS))
            sock.sendall(b"hello")
            assert receive_exactly(sock, 5) == b"hello"
            stack.pop_all()
        return sock

    def _runs(self, thing: str) -> bool:
        try:
            state = self.gateway.runtime.tunnel(thing).stats.state
        except KeyError:
            return False
        return state is TunnelState.CONNECTED

    def actor_ref(self) -> Any:
        """The actor that is to be killed."""
        (found,) = live(self.dispatchers, NotifyActor)
        return found

    def connection(self) -> Any:
        """The connection to the broker."""
        assert self.devices.state is not None
        return self.devices.state.connections[0]

    # -- before and after

    def begin(self) -> None:
        """The broker is there."""
        self._wait_subscribed()
        self.told: list[str] = []

    def check(self, _case: SharedCase) -> None:
        """Nothing is lost, and what comes now is dealt with."""
        self._witness.sendall(b"still there?")
        assert receive_exactly(self._witness, 12) == b"still there?"
        self._wait_subscribed()
        self.told.append(self.notify())
        for each in self.told:
            self._talk_to(each).close()
        eventually(self._has_all_tokens, "each token is kept")
        assert self.connects(THINGS[0]) == 1

    def _has_all_tokens(self) -> bool:
        kept = {each.notification.thing for each in self.store.load_devices()}
        return kept >= {THINGS[0], *self.told}


class _NotifyFiles:
    """What the files say, with a `[[notify]]`."""

    def __init__(self, files: Any, section: NotifySection) -> None:
        self._files = files
        self._section = section
        self.settings = files.settings
        self.tunnels = files.tunnels

    def __call__(self) -> FleetConfig:
        return replace(self._files(), notify=(self._section,))


# -- what is done


def tell_a_device(rig: Notified, _case: SharedCase) -> None:
    rig.told.append(rig.notify())


def reload(rig: Notified, _case: SharedCase) -> None:
    with contextlib.suppress(TunnelError):
        rig.gateway.reload()


def sent(make: Callable[[Notified], Any]) -> Callable[[Notified, SharedCase], None]:
    """A timer, a broker or the gateway sends it."""

    def do(rig: Notified, _case: SharedCase) -> None:
        rig.actor_ref().tell(make(rig))

    return do


CASES = [
    SharedCase(NotifyActor, Arrived, tell_a_device),
    SharedCase(NotifyActor, actor._Saved, tell_a_device),
    SharedCase(NotifyActor, TunnelStateChanged, tell_a_device),
    SharedCase(NotifyActor, asks.FilesTaken, reload),
    SharedCase(NotifyActor, asks.RuntimeStarted, sent(lambda _: asks.RuntimeStarted())),
    SharedCase(
        NotifyActor,
        ConnectionChanged,
        sent(lambda rig: ConnectionChanged(rig.connection(), True, len(THINGS), "")),
    ),
    SharedCase(
        NotifyActor,
        SubscriptionRefused,
        sent(lambda rig: SubscriptionRefused(rig.connection(), (THINGS[-1],), "for a test")),
    ),
    SharedCase(NotifyActor, actor._Restored, sent(lambda _: actor._Restored([], None))),
    SharedCase(NotifyActor, actor._Forgotten, sent(lambda _: actor._Forgotten((), None))),
    SharedCase(NotifyActor, actor._Confirm, sent(lambda _: actor._Confirm("nobody", "none"))),
    SharedCase(NotifyActor, actor._Sweep, sent(lambda _: actor._Sweep())),
    SharedCase(NotifyActor, actor._TellAgain, sent(lambda _: actor._TellAgain())),
]
CLASSES = (NotifyActor,)
