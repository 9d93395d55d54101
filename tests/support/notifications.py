"""A section of `[[notify]]`, and what its things are told, for the tests of devices."""

from __future__ import annotations

from tunnelfleet.proto import Endpoint
from tunnelfleet.runtime.gateway.config.devices import BrokerSettings, NotifySection
from tunnelfleet.runtime.gateway.config.things import BrokerAddress
from tunnelfleet.runtime.gateway.devices import Notification

BROKER = BrokerSettings(BrokerAddress("broker", 8883, is_tls=True), "gw")
SECTION = NotifySection(
    broker=BROKER,
    things=("press-4", "press-5"),
    services={"SSH": "{thing}.lan:22", "HTTP": "10.0.0.{n}:80"},
    endpoint=Endpoint.parse("ws://127.0.0.1:1"),
    labels={"site": "lyon"},
    tunnels_per_thing=3,
)


def told(number: int = 1, thing: str = "press-4", *services: str) -> Notification:
    return Notification(thing, f"token-{number}-" + "t" * 30, services or ("SSH",), "eu-west-1")
