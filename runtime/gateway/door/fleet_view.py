"""The fleet as a front door sees it: which tunnel is meant, and whether it can be reached now.

Owns the way from a name to a tunnel of the runtime, with the reasons why not. It looks at what
FleetActor knows, on FleetActor's thread, and changes nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

from tunnelfleet.proto import Mode, printable
from tunnelfleet.proto.text import MAX_REASON_CHARACTERS
from tunnelfleet.runtime import Limits, Tunnel, TunnelRuntime, TunnelState
from tunnelfleet.runtime.gateway.reconcile import RunPhase
from tunnelfleet.runtime.gateway.wanted import WantedTunnel

from .handshake import Denial
from .names import (
    DoorRefused,
    TunnelNames,
    choose_service,
    find_tunnel,
    match_service,
    may_reach,
    readings,
)

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.fleet_state import FleetState

    from .names import Asked
    from .resolver import Resolver

ON_DEMAND = "on demand"
"""The source of the tunnels that a resolver has opened: they are found through it alone."""


class Entrance(NamedTuple):
    """Where a client is let in."""

    tunnel: Tunnel
    service_id: str


class NotYet(NamedTuple):
    """A tunnel that may be connected soon.

    Attributes:
        tunnel: its name.
        grace_seconds: how long its clients may wait.
        reason: why it is not connected, for people.
    """

    tunnel: str
    grace_seconds: float
    reason: str


class Unopened(NamedTuple):
    """A tunnel that may be had for the asking: the resolver has to be asked for it."""

    tunnel: str
    service_id: str


class Away(NamedTuple):
    """A tunnel of the fleet that another gateway has, or is about to have.

    Attributes:
        tunnel: its name.
        service: what the client called the service; None if it named none.
        port: the number behind it.
        grace_seconds: how long its clients may wait until it can be reached.
    """

    tunnel: str
    service: str | None
    port: int | None
    grace_seconds: float = Limits().offline_grace_seconds


class Unlisted(NamedTuple):
    """No file here has such a tunnel: it may have been added at another gateway at run time.

    Attributes:
        readings: what the client may mean, best first; it may reach each if there is one.
    """

    readings: tuple[Away, ...]


Found = Entrance | NotYet | Unopened | Away | Unlisted
MAX_READINGS = 8
"""Ways to read a text that are looked up in the state."""
MAX_TUNNEL_NAME = 200
NAMES_SECONDS = 1.0
"""How old what is known of the fleet's names may be."""
_ENDING = frozenset({TunnelState.DRAINING, TunnelState.STOPPED})
_DOWN = frozenset({TunnelState.REFUSED, TunnelState.QUARANTINED})
"""It takes somebody to bring such a tunnel back: waiting is of no use."""


class FleetView:
    """Looks at a fleet.

    Args:
        state: what FleetActor knows.
        runtime: returns the runtime that has the tunnels now.
        resolver: finds tunnels for other names; None if nobody does.
        is_shared: whether other gateways have a part of the fleet, and can be found out.
    """

    def __init__(
        self,
        state: FleetState,
        runtime: Callable[[], TunnelRuntime],
        resolver: Resolver | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        self._state = state
        self._runtime = runtime
        self._resolver = resolver
        self._is_shared = is_shared
        self._names = TunnelNames(())
        self._names_at = float("-inf")

    def enter(self, text: str, port: int | None, user: str) -> Found:
        """Where a user gets who asks for this, now.

        Args:
            text: the name, as the client wrote it.
            port: the number behind it, if there is one.
            user: who asks; empty if nobody knows.

        Raises:
            DoorRefused: not now, and not by waiting. Whom no rule lets in cannot tell from it
                whether there is such a tunnel.
        """
        try:
            asked = find_tunnel(text, port, self._find, self._services_of)
        except DoorRefused as refused:
            return self._enter_unknown(text, port, user, refused)
        name = asked.tunnel
        if not self._may_reach(user, name, asked.service):
            raise _forbidden(user, text)
        wanted = self._wanted(name)
        assert wanted is not None
        if wanted.mode is Mode.DESTINATION:
            reason = f"tunnel {printable(name)} is a destination here: clients enter at its source"
            raise DoorRefused(Denial.NAME, reason)
        if self._is_away(name):
            port = port if asked.service is None else None
            return Away(name, asked.service, port, wanted.limits.offline_grace_seconds)
        tunnel = self._running(name)
        services = self._services_of(name)
        if tunnel is None or services is None:
            reason = "is about to start" if tunnel is None else _state_of(tunnel)
            return NotYet(name, wanted.limits.offline_grace_seconds, reason)
        service_id = self._choose(asked, services, user, text)
        if tunnel.stats.state is not TunnelState.CONNECTED:
            return NotYet(name, wanted.limits.offline_grace_seconds, _state_of(tunnel))
        return Entrance(tunnel, service_id)

    def _is_away(self, name: str) -> bool:
        """Whether another gateway has the tunnel, or gets it as soon as it has ended here."""
        if not self._is_shared or self._state.is_ours(name):
            return False
        running = self._state.running.get(name)
        return running is None or running.phase is RunPhase.DRAINING

    def _enter_unknown(self, text: str, port: int | None, user: str, refused: DoorRefused) -> Found:
        """The same for a name that no tunnel here has."""
        found = self._enter_unopened(text, port, user)
        if found is None and self._is_shared:
            found = self._unlisted(text, port, user)
        if found is not None:
            return found
        if self._may_reach(user, text, None):
            raise refused
        raise _forbidden(user, text) from None

    def _unlisted(self, text: str, port: int | None, user: str) -> Unlisted | None:
        """What may be a tunnel of another gateway; None if the user may reach none of it."""
        found: list[Away] = []
        for name, service, number in itertools.islice(readings(text, port), 2 * MAX_READINGS):
            is_name = 0 < len(name) <= MAX_TUNNEL_NAME and name.isprintable()
            is_new = all(each.tunnel != name or each.service != service for each in found)
            if is_name and is_new and self._may_reach(user, name, service):
                found.append(Away(name, service, number))
        return Unlisted(tuple(found[:MAX_READINGS])) if found else None

    def _enter_unopened(self, text: str, port: int | None, user: str) -> Found | None:
        """The same for a name that the resolver knows; None if it does not.

        All that can be refused is refused before it is asked to open anything.
        """
        resolver = self._resolver
        if resolver is None:
            return None
        try:
            asked = find_tunnel(text, port, resolver.name_of, resolver.services_of)
        except DoorRefused:
            return None
        if not self._may_reach(user, asked.tunnel, asked.service):
            raise _forbidden(user, text)
        services = resolver.services_of(asked.tunnel) or ()
        service_id = self._choose(asked, services, user, text)
        current = resolver.current(asked.tunnel)
        if current is None:
            return Unopened(asked.tunnel, service_id)
        return self.enter_tunnel(current, service_id)

    def enter_tunnel(self, name: str, service_id: str) -> Entrance | NotYet:
        """Where somebody gets who was let in to this service of a tunnel.

        Raises:
            DoorRefused: it is down, and will not come up by itself.
        """
        wanted, tunnel = self._wanted(name), self._running(name)
        if wanted is None:
            reason = f"tunnel {printable(name)} has ended; try again"
            raise DoorRefused(Denial.UNAVAILABLE, reason)
        if tunnel is None or tunnel.stats.state is not TunnelState.CONNECTED:
            reason = "is about to start" if tunnel is None else _state_of(tunnel)
            return NotYet(name, wanted.limits.offline_grace_seconds, reason)
        return Entrance(tunnel, service_id)

    def _choose(self, asked: Asked, services: Collection[str], user: str, text: str) -> str:
        allowed = [each for each in services if self._may_reach(user, asked.tunnel, each)]
        if services and not allowed:
            raise _forbidden(user, text)
        named = None if asked.service is None else match_service(asked.service, services)
        if named is not None and named not in allowed:
            raise _forbidden(user, text)
        service_id = choose_service(asked, allowed)
        if not self._may_reach(user, asked.tunnel, service_id):
            raise _forbidden(user, text)
        return service_id

    def _may_reach(self, user: str, tunnel: str, service: str | None) -> bool:
        return may_reach(self._state.config.door_rules, user, tunnel, service)

    # -- what is there

    def _find(self, name: str) -> str | None:
        if self._is_here(name):
            return name
        now = time.monotonic()
        if now - self._names_at > NAMES_SECONDS:
            # All names of a fleet, at most once a second, however many ask for unknown ones.
            self._names, self._names_at = TunnelNames(self._state.names()), now
        found = self._names(name)
        return found if found is not None and self._is_here(found) else None

    def _is_here(self, name: str) -> bool:
        """Whether there is such a tunnel, other than one that the resolver has opened."""
        if self._wanted(name) is None:
            return False
        running = self._state.running.get(name)
        source = self._state.source_of(name) or ("" if running is None else running.source)
        return source != ON_DEMAND

    def _wanted(self, name: str) -> WantedTunnel | None:
        running = self._state.running.get(name)
        return self._state.wish(name) if running is None else running.tunnel

    def _running(self, name: str) -> Tunnel | None:
        """The tunnel in the runtime; None if it is about to be there.

        Raises:
            DoorRefused: it is down, and will not come up by itself.
        """
        state = self._state
        running = state.running.get(name)
        shown = printable(name)
        if state.is_leaving:
            raise DoorRefused(Denial.UNAVAILABLE, "the gateway is stopping")
        if running is None:
            if name in state.held or name in state.failures or not state.is_ours(name):
                (entry,) = state.entries([name])
                raise DoorRefused(Denial.UNAVAILABLE, f"tunnel {shown} is down: {entry.note}")
            return None
        if running.phase is RunPhase.DRAINING:
            reason = f"tunnel {shown} is draining: it takes no new connections"
            raise DoorRefused(Denial.UNAVAILABLE, reason)
        try:
            tunnel = self._runtime().tunnel(name)
        except KeyError:
            return None
        found = tunnel.stats.state
        if found in _DOWN or (found in _ENDING and running.phase is RunPhase.RUNNING):
            raise DoorRefused(Denial.UNAVAILABLE, f"tunnel {shown} {_state_of(tunnel)}")
        return tunnel

    def _services_of(self, name: str) -> Collection[str] | None:
        """The service ids that can be asked for; None if the tunnel has not announced them yet."""
        wanted = self._wanted(name)
        given = None if wanted is None else wanted.services
        if given is not None and set(given) != {""}:
            return list(given)
        try:
            stats = self._runtime().tunnel(name).stats
        except KeyError:
            return None
        if stats.state is not TunnelState.CONNECTED:
            return stats.service_ids or None
        return stats.service_ids


def _forbidden(user: str, text: str) -> DoorRefused:
    who = printable(user) or "a client without a name"
    return DoorRefused(Denial.RULE, f"{who} may not reach {printable(text)}: no rule allows it")


def _state_of(tunnel: Tunnel) -> str:
    reason = tunnel.reason
    text = f"is {tunnel.stats.state}" + (f": {reason}" if reason else "")
    return printable(text, MAX_REASON_CHARACTERS)
