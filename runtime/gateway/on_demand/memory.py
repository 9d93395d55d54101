"""What a gateway knows of its tunnels on demand, and who waits for them.

`DemandMemory` is kept where a crash of the actor does not lose it: the plan, and what is needed to
run and to close the tunnel of each request. `WaitingRoom` has those who wait, by name, each client
once, not more than a limit; it ends with the actor. Both are for one thread and call nobody.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .facts import Demanded, DemandPhase

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Reply
    from tunnelfleet.runtime.gateway.config import CloudPlace
    from tunnelfleet.runtime.gateway.door.resolver import AskedTunnel
    from tunnelfleet.runtime.gateway.store import StoredDemand
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

    from .plan import DemandPlan

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class KeptDemand:
    """What is known of a request beside the plan.

    Attributes:
        place: whose OpenTunnel it was.
        thing: its name.
        tunnel: as the fleet runs it, once it is open.
    """

    place: CloudPlace
    thing: str
    tunnel: WantedTunnel | None = field(default=None, repr=False)


class DemandMemory:
    """See above.

    Args:
        plan: the tunnels.
    """

    def __init__(self, plan: DemandPlan) -> None:
        self.plan = plan
        self.kept: dict[str, KeptDemand] = {}
        """By request."""
        self.has_begun = False
        """Whether an actor has lived before."""
        self.has_asked = False
        """Whether the state was asked for what is open; nothing is opened before."""
        self.has_loaded = False
        """Whether it has answered."""

    def take_up(self, stored: list[StoredDemand], now: float, wall: float) -> list[str]:
        """Take up what an earlier life has left.

        Args:
            stored: its rows, the newest first.
            now: the plan's time.
            wall: the same in seconds of the Unix epoch.

        Returns:
            The requests whose tunnels may be open, and have to be looked for.
        """
        if not self.has_loaded:
            self.has_loaded = True
            self.plan.remember_opens(_begun_at(each, now, wall) for each in stored)
        return self.inherit(stored, now, wall)

    def inherit(self, stored: list[StoredDemand], now: float, wall: float) -> list[str]:
        """Take up what is this gateway's now, as above; what it has already is left out."""
        unanswered = []
        for each in stored:
            if each.is_over or each.request in self.kept:
                continue
            self.kept[each.request] = KeptDemand(each.place, each.thing, each.tunnel)
            if each.tunnel_id:
                self._adopt(each, now, wall)
            else:
                unanswered.append(each.request)
        return unanswered

    def _adopt(self, stored: StoredDemand, now: float, wall: float) -> None:
        thing, tunnel = stored.thing, stored.tunnel
        begun_at = _begun_at(stored, now, wall)
        slot = "" if tunnel is None else tunnel.name
        made = Demanded(
            stored.request,
            thing,
            slot,
            DemandPhase.AWAITED,
            now,
            asked_at=begun_at,
            opened_at=begun_at,
            # What cannot be used is closed.
            ends_at=now if tunnel is None else begun_at + (stored.ends_at - stored.begun_at),
            used_at=now,
            tunnel_id=stored.tunnel_id,
        )
        extra = {"event": "demand_found", "fields": {"thing": thing, "id": stored.tunnel_id}}
        is_used = self.plan.adopt(made, now)
        if tunnel is None:
            logger.error("the tunnel to %s is closed: %s", thing, stored.problem, extra=extra)
        elif is_used:
            text = "the tunnel to %s was open when its gateway ended, and is used again"
            logger.info(text, thing, extra=extra)
        else:
            text = "the tunnel to %s was open when its gateway ended, and is closed"
            logger.info(text, thing, extra=extra)


def _begun_at(stored: StoredDemand, now: float, wall: float) -> float:
    """When it was begun, in the plan's time: not in the future, though the clock was set back."""
    return now - max(0.0, wall - stored.begun_at)


MAX_WAITING = 4_096
"""Clients that wait for tunnels on demand; the doors let fewer in."""


class WaitingClient(NamedTuple):
    """What it has asked for, and its answer."""

    asked: AskedTunnel
    reply: Reply


class WaitingRoom:
    """See above."""

    def __init__(self) -> None:
        self._by_name: dict[str, dict[ActorRef[Any], WaitingClient]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether nobody more may wait."""
        return self._count >= MAX_WAITING

    def enter(self, client: WaitingClient) -> None:
        """Wait for what it has asked for."""
        asked = client.asked
        self._by_name.setdefault(asked.name, {})[asked.client] = client
        self._count += 1

    def leave(self, client: ActorRef[Any]) -> list[str]:
        """A client waits no more; returns the names for which nobody waits now."""
        left = [name for name, waiting in self._by_name.items() if client in waiting]
        for name in left:
            del self._by_name[name][client]
            self._count -= 1
        alone = [name for name in left if not self._by_name[name]]
        for name in alone:
            del self._by_name[name]
        return alone

    def take(self, name: str) -> list[WaitingClient]:
        """All who wait for a name; they wait no more."""
        taken = list(self._by_name.pop(name, {}).values())
        self._count -= len(taken)
        return taken

    def names(self) -> list[str]:
        """The names for which somebody waits."""
        return list(self._by_name)
