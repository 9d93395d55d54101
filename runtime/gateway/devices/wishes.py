"""From a notification to the tunnel that it asks for, by the section that has its thing.

Owns which services a tunnel gets, and where it connects to. It is made anew from the files at each
reload, so a change of a section reaches the tunnels that are open. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tunnelfleet.proto import ConfigError, Endpoint, Mode
from tunnelfleet.runtime.gateway.config.devices import THING_LABEL
from tunnelfleet.runtime.gateway.config.things import address_for
from tunnelfleet.runtime.gateway.wanted import WantedTunnel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnelfleet.runtime.gateway.config.devices import NotifySection

    from .notification import Notification

__all__ = ["DeviceTunnel", "Sections", "ServiceChoice", "choose_services", "wanted_tunnel"]

ANY_SERVICE = ""
"""The entry of `services` for a tunnel without service ids."""


@dataclass(frozen=True, slots=True)
class DeviceTunnel:
    """A tunnel that a device was told of.

    Attributes:
        name: in the fleet.
        broker: that has told it.
        notification: what was told.
        received_at: when, in seconds of the Unix epoch.
    """

    name: str
    broker: str
    notification: Notification
    received_at: float


class ServiceChoice(NamedTuple):
    """Which services of a notification are carried, and which are not in the allow-list."""

    allowed: tuple[str, ...]
    refused: tuple[str, ...]


def choose_services(notification: Notification, section: NotifySection) -> ServiceChoice:
    """Compare what is asked for with what the section allows; ids are compared as they are."""
    asked = notification.services or (ANY_SERVICE,)
    return ServiceChoice(
        tuple(each for each in asked if each in section.services),
        tuple(each for each in asked if each not in section.services),
    )


def wanted_tunnel(tunnel: DeviceTunnel, section: NotifySection) -> WantedTunnel:
    """The wish for a tunnel that a device was told of.

    Raises:
        ConfigError: nothing of it is allowed, or there is no endpoint for its region.
    """
    notification = tunnel.notification
    allowed, _refused = choose_services(notification, section)
    if not allowed:
        raise ConfigError("none of its services is in the allow-list")
    thing = notification.thing
    return WantedTunnel(
        name=tunnel.name,
        mode=Mode.DESTINATION,
        endpoint=section.endpoint or Endpoint.for_region(notification.region),
        access_token=notification.access_token,
        services={each: address_for(thing, section.services[each]) for each in allowed},
        bind=section.bind,
        http_proxy=section.http_proxy,
        ca=section.ca,
        ca_fingerprint=section.ca_fingerprint,
        limits=section.limits,
        labels={**section.labels, THING_LABEL: thing},
        ssl_context=section.ssl_context,
        place=section.place,
    )


class Sections:
    """The sections of the files, by what they have.

    Args:
        sections: in the order of the files.
    """

    def __init__(self, sections: Iterable[NotifySection] = ()) -> None:
        self.all = tuple(sections)
        self._by_thing: dict[str, list[NotifySection]] = {}
        for section in self.all:
            for thing in section.things:
                self._by_thing.setdefault(thing, []).append(section)

    def find(self, broker: str, thing: str) -> NotifySection | None:
        """The section of a thing at a broker.

        Where the address of the broker has changed since, the first that has the thing.
        """
        found = self._by_thing.get(thing, [])
        same = (each for each in found if str(each.broker) == broker)
        return next(same, found[0] if found else None)
