"""The book of devices: what a gateway knows of the tunnels that its devices were told of.

Owns what becomes of a notification (its `Verdict`), which services a tunnel gets, and where it
connects to, by the section that has its thing. Sections are read anew at each reload, so a change
reaches the tunnels that are open. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from tunnelfleet.actors.kernel.moments import CLOCK, Clock
from tunnelfleet.proto import ConfigError, Endpoint, Mode, counted
from tunnelfleet.runtime.gateway.config.devices import THING_LABEL, NotifySection
from tunnelfleet.runtime.gateway.config.things import address_for
from tunnelfleet.runtime.gateway.wanted import WantedTunnel

if TYPE_CHECKING:
    from .notification import Notification


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


TAKE_OVER_SECONDS: Final = 60.0
"""A link that was lost longer ago was not lost by the rotation that is told now."""
KEEP_SECONDS: Final = 12 * 3_600.0
"""How long the token of a thing that has gone from the files is kept: AWS's longest lifetime."""
MAX_TUNNELS: Final = 10_000
"""Of all things together."""
MAX_RECENT: Final = 10_000
"""Hashes of tokens that have ended; a duplicate of one opens nothing."""


class Verdict(Enum):
    """What became of a notification."""

    OPENED = "opened"
    TAKES_OVER = "takes_over"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    """No service of it is in the allow-list."""
    UNKNOWN_THING = "unknown_thing"
    INVALID = "invalid"
    TOO_MANY = "too_many"


class LinkSeen(NamedTuple):
    """What is known of the link of a tunnel: whether it is up, and when it was lost."""

    is_up: bool = False
    lost_at: float | None = None
    """The moment; None if it is up, or never was."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about a notification.

    Attributes:
        outcome: in a word.
        tunnel: that is wanted now; None if nothing has changed.
        wish: for the fleet.
        refused: services that are not in the allow-list.
        gives_way: name of a tunnel that is not wanted any more.
        reason: for people; may be empty.
    """

    outcome: Verdict
    tunnel: DeviceTunnel | None = None
    wish: WantedTunnel | None = field(default=None, repr=False)
    refused: tuple[str, ...] = ()
    gives_way: str | None = None
    reason: str = ""


class DeviceBook:
    """The tunnels that devices were told of, by name.

    Args:
        clock: what its callers read the time from.
    """

    def __init__(self, clock: Clock = CLOCK) -> None:
        self._clock = clock
        self._sections = Sections()
        self.tunnels: dict[str, DeviceTunnel] = {}
        self._links: dict[str, LinkSeen] = {}
        self._heard_at: dict[str, float] = {}
        """At which moment a tunnel was told of; those of an earlier process are not in it."""
        self._names: dict[str, list[str]] = {}
        """Names of the tunnels of a thing, the oldest first."""
        self._hashes: dict[str, str] = {}
        """Names of tunnels by the hash of their tokens."""
        self._recent: OrderedDict[str, None] = OrderedDict()
        """Hashes of tokens that have ended."""
        self._turned_away: OrderedDict[str, None] = OrderedDict()
        """Hashes of tokens that these sections have not let in."""

    @property
    def sections(self) -> Sections:
        """What the files say."""
        return self._sections

    @sections.setter
    def sections(self, sections: Sections) -> None:
        self._sections = sections
        # What was turned away may be let in when it is told again.
        self._turned_away.clear()

    # -- notifications

    def take(
        self,
        broker: str,
        notification: Notification,
        now: float,
        is_taken: Callable[[str], bool] = lambda _name: False,
    ) -> Decision:
        """Decide about a notification, and remember it.

        Args:
            broker: that has told it.
            notification: what was told.
            now: in seconds of the Unix epoch.
            is_taken: tells of a name whether somebody else wants a tunnel of that name.
        """
        token_hash = notification.token_hash
        if any(token_hash in each for each in (self._hashes, self._recent, self._turned_away)):
            return Decision(Verdict.DUPLICATE)
        decision = self._decide(broker, notification, now, is_taken)
        if decision.tunnel is None:
            self._turned_away[token_hash] = None
            if len(self._turned_away) > MAX_RECENT:
                self._turned_away.popitem(last=False)
        return decision

    def _decide(
        self,
        broker: str,
        notification: Notification,
        now: float,
        is_taken: Callable[[str], bool],
    ) -> Decision:
        section = self._sections.find(broker, notification.thing)
        if section is None:
            return Decision(Verdict.UNKNOWN_THING)
        allowed, refused = choose_services(notification, section)
        if not allowed:
            return Decision(Verdict.REFUSED, refused=refused)
        lost = self._lost_one(notification, self._clock.moment(now))
        gives_way = None
        if lost is None:
            gives_way, has_room = self._make_room(notification.thing, section.tunnels_per_thing)
            if not has_room:
                text = (
                    counted(section.tunnels_per_thing, "tunnel", "is open", "are open") + " already"
                )
                return Decision(Verdict.TOO_MANY, refused=refused, reason=text)
        name = lost or self._free_name(notification.thing, is_taken, gives_way)
        tunnel = DeviceTunnel(name, broker, notification, now)
        try:
            wish = wanted_tunnel(tunnel, section)
        except ConfigError as error:
            return Decision(Verdict.INVALID, refused=refused, reason=str(error))
        if gives_way is not None:
            self.drop(gives_way)
        if lost is not None:
            self.drop(lost)
        self._put(tunnel)
        self._heard_at[name] = self._clock.moment(now)
        outcome = Verdict.OPENED if lost is None else Verdict.TAKES_OVER
        gone = None if gives_way == name else gives_way
        return Decision(outcome, tunnel, wish, refused, gone)

    def _lost_one(self, notification: Notification, moment: float) -> str | None:
        """The tunnel that a rotation was about, if there is one."""
        for name in self._names.get(notification.thing, ()):
            lost_at = self._links[name].lost_at
            is_same = set(self.tunnels[name].notification.services) == set(notification.services)
            if is_same and lost_at is not None and moment - lost_at <= TAKE_OVER_SECONDS:
                return name
        return None

    def _make_room(self, thing: str, limit: int) -> tuple[str | None, bool]:
        """Who gives way to one tunnel more, and whether it has room."""
        names = self._names.get(thing, [])
        if len(names) < limit:
            return None, len(self.tunnels) < MAX_TUNNELS
        # The oldest that carries nothing: its token is most likely of no use any more.
        idle = next((name for name in names if not self._links[name].is_up), None)
        return idle, idle is not None

    def _free_name(self, thing: str, is_taken: Callable[[str], bool], gives_way: str | None) -> str:
        """The thing's name, or with the first number behind it that is free.

        No thing has a dot in its name, so none of these is the name of another thing.
        """
        name, number = thing, 1
        while (name in self.tunnels and name != gives_way) or is_taken(name):
            number += 1
            name = f"{thing}.{number}"
        return name

    def _put(self, tunnel: DeviceTunnel) -> None:
        self.tunnels[tunnel.name] = tunnel
        self._links[tunnel.name] = LinkSeen()
        self._names.setdefault(tunnel.notification.thing, []).append(tunnel.name)
        self._hashes[tunnel.notification.token_hash] = tunnel.name

    def restore(
        self, tunnels: Iterable[DeviceTunnel], is_taken: Callable[[str], bool]
    ) -> list[DeviceTunnel]:
        """Take up what was kept; returns those that were not known yet.

        One whose name has been given to another since gets a free one.
        """
        found = []
        for tunnel in tunnels:
            if tunnel.notification.token_hash not in self._hashes:
                if tunnel.name in self.tunnels:
                    name = self._free_name(tunnel.notification.thing, is_taken, None)
                    tunnel = replace(tunnel, name=name)  # noqa: PLW2901 - the same tunnel
                self._put(tunnel)
                found.append(tunnel)
        return found

    def hashes_of(self, thing: str) -> list[str]:
        """Of the tokens of the tunnels of a thing."""
        names = self._names.get(thing, ())
        return [self.tunnels[name].notification.token_hash for name in names]

    def has_token(self, token_hash: str) -> bool:
        """Whether a tunnel has the token of this hash."""
        return token_hash in self._hashes

    # -- what becomes of them

    def link_up(self, name: str) -> None:
        """The tunnel is connected."""
        if name in self._links:
            self._links[name] = LinkSeen(is_up=True)

    def link_down(self, name: str, now: float) -> None:
        """The tunnel is not connected."""
        link = self._links.get(name)
        if link is not None and link.is_up:
            self._links[name] = LinkSeen(lost_at=self._clock.moment(now))

    def drop(self, name: str) -> DeviceTunnel | None:
        """Forget a tunnel; returns it if it was known."""
        tunnel = self.tunnels.pop(name, None)
        if tunnel is None:
            return None
        thing, token_hash = tunnel.notification.thing, tunnel.notification.token_hash
        del self._links[name]
        self._heard_at.pop(name, None)
        self._names[thing].remove(name)
        if not self._names[thing]:
            del self._names[thing]
        del self._hashes[token_hash]
        self._recent[token_hash] = None
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        return tunnel

    def outdated(self, now: float) -> list[str]:
        """Names of tunnels that nothing in the files wants, and that are too old to be kept."""
        return [
            name
            for name, tunnel in self.tunnels.items()
            if self._age_seconds(tunnel, now) > KEEP_SECONDS and self._wish(tunnel) is None
        ]

    def _age_seconds(self, tunnel: DeviceTunnel, now: float) -> float:
        """How long ago it was told of: nobody sets that, unless it was an earlier process."""
        heard_at = self._heard_at.get(tunnel.name)
        if heard_at is None:
            return now - tunnel.received_at
        return self._clock.moment(now) - heard_at

    # -- what is wanted

    def wishes(self) -> dict[str, WantedTunnel]:
        """What is wanted by the present sections, by name."""
        found = {name: self._wish(tunnel) for name, tunnel in self.tunnels.items()}
        return {name: wish for name, wish in found.items() if wish is not None}

    def _wish(self, tunnel: DeviceTunnel) -> WantedTunnel | None:
        section = self._sections.find(tunnel.broker, tunnel.notification.thing)
        if section is None:
            return None
        try:
            return wanted_tunnel(tunnel, section)
        except ConfigError:
            # The section allows nothing of it any more.
            return None
