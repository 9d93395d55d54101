"""FleetWatch: the other gateways of a shared fleet, for the status page.

Owns a thread that surveys the fleet while somebody looks, and what it found last: a gateway that
does not answer holds up no page.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from tunnelfleet.actors.net.daemon_threads import DaemonExecutor
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.forward.survey import FleetSurvey, look_at_fleet

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.gateway import Gateway

__all__ = ["FleetWatch"]

SURVEY_AGE_SECONDS = 5.0
"""How old what is shown of others may be before they are asked again."""
SURVEYS_SHARE = 0.1
"""The largest share of time that asking may take: large fleets are asked less often."""

logger = logging.getLogger(__name__)


class FleetWatch:
    """What was last found of a fleet.

    Args:
        gateway: who looks.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._thread = DaemonExecutor(1, "tunnelfleet-page-fleet")
        self._guard = threading.Lock()
        self._is_asking = False
        self._due_at = float("-inf")
        self._found = FleetSurvey()

    def look(self) -> FleetSurvey:
        """What was found last, nothing where the fleet is not shared. It waits for nobody."""
        if not self._gateway.placement.members():
            return FleetSurvey()
        with self._guard:
            if time.monotonic() >= self._due_at and not self._is_asking:
                self._is_asking = True
                self._thread.submit(self._ask)
            return self._found

    def _ask(self) -> None:
        found, began = None, time.monotonic()
        try:
            found = look_at_fleet(self._gateway, self._gateway.others)
        except TunnelError as error:
            logger.debug("the fleet cannot be surveyed: %s", error)
        finally:
            with self._guard:
                now = time.monotonic()
                self._is_asking = False
                self._due_at = now + max(SURVEY_AGE_SECONDS, (now - began) / SURVEYS_SHARE)
                self._found = found or self._found

    def close(self) -> None:
        """Ask no more. A question that is under way has its own limit, and is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
