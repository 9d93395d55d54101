"""What a gateway knows of its tunnels on demand, kept where a crash of the actor does not lose it.

Owns the plan, and what is needed to run and to close the tunnel of each request; and the way from
the rows of an earlier life into the plan. It calls nobody.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .facts import Demanded, DemandPhase

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.config import CloudPlace
    from tunnelfleet.runtime.gateway.store import StoredDemand
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

    from .plan import DemandPlan

__all__ = ["DemandMemory", "KeptDemand"]

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
        self.has_loaded = True
        self.plan.remember_opens(now - (wall - each.begun_at) for each in stored)
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
        begun_at = now - (wall - stored.begun_at)
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
            ends_at=now if tunnel is None else now + (stored.ends_at - wall),
            used_at=now,
            tunnel_id=stored.tunnel_id,
        )
        extra = {"event": "demand_found", "fields": {"thing": thing, "id": stored.tunnel_id}}
        is_used = self.plan.adopt(made, now)
        if tunnel is None:
            logger.error("the tunnel to %s is closed: %s", thing, stored.problem, extra=extra)
        elif is_used:
            text = "the tunnel to %s was open when the gateway ended, and is used again"
            logger.info(text, thing, extra=extra)
        else:
            text = "the tunnel to %s was open when the gateway ended, and is closed"
            logger.info(text, thing, extra=extra)
