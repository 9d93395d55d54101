"""What the events of `tunnelfleet localproxy` mean for the command: go on, advise, or end.

Owns when the command gives up, and what it says the user can do. Pure: it is given events, and
returns notes for people or raises the error that ends the command.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tunnelfleet.actors.config import ANY_SERVICE
from tunnelfleet.actors.events import ServiceIdsReceived, TunnelStateChanged
from tunnelfleet.actors.state import TunnelState
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.cli.errors import CommandFailed

from .settings import RETRY_FOR_EVER

if TYPE_CHECKING:
    from tunnelfleet.actors.events import TunnelEvent

    from .config import Plan


_RETRY: Final = re.compile(r"(?:; )?retry in [0-9.]+ s$")
"""The end of a reason when another attempt follows."""

_ADVICE: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), advice)
    for pattern, advice in (
        (
            "certificate verify failed.*(local issuer|self.signed|issuer certificate)",
            "if the service's authority is one of your own, give its certificate with -c FILE",
        ),
        (
            "certificate verify failed.*(mismatch|not valid for)",
            "give with -e a name that stands in the service's certificate",
        ),
        (
            "certificate verify failed.*(expired|not yet valid)",
            "check this machine's clock, and the service's certificate",
        ),
        (
            "wrong.version.number|record layer failure|http request",
            "a service without TLS is written -e ws://HOST:PORT",
        ),
        (
            "name or service not known|name resolution|nodename|no address associated",
            "check the region (-r) or the endpoint (-e), and this machine's DNS",
        ),
        (
            "cannot reach.*(refused|no route|unreachable|timed out)",
            "check the endpoint (-e), that it runs, and whether a proxy is needed (HTTPS_PROXY)",
        ),
    )
)


def advice_on(reason: str) -> str:
    """Return what the user can do about a failed connect, or an empty text."""
    for pattern, advice in _ADVICE:
        if pattern.search(reason):
            return advice
    return ""


class Judge:
    """Follows one tunnel.

    Args:
        plan: what the command was asked for.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._was_connected = False
        self._failures = 0
        self._compared = False
        self._told: set[str] = set()

    def judge(self, event: TunnelEvent) -> list[str]:
        """Take an event.

        Returns:
            Notes for people.

        Raises:
            CommandFailed: the command has to end.
        """
        match event:
            case TunnelStateChanged():
                return self._state(event)
            case ServiceIdsReceived(service_ids=service_ids):
                return self._compare(service_ids)
        return []

    def _state(self, change: TunnelStateChanged) -> list[str]:
        match change.state:
            case TunnelState.CONNECTED:
                self._was_connected = True
                self._failures = 0
            case TunnelState.REFUSED:
                raise CommandFailed(f"the tunnel was refused: {change.reason}")
            case TunnelState.STOPPED:
                raise CommandFailed(f"the tunnel stopped: {change.reason or 'no reason given'}")
            case TunnelState.BACKOFF | TunnelState.QUARANTINED:
                return self._failed(_RETRY.sub("", change.reason))
        return []

    def _compare(self, announced: tuple[str, ...]) -> list[str]:
        """Tell, once, what the mapping lacks of the tunnel's services, and what it has too much."""
        if not self._plan.is_mapped:
            example = ",".join(f"{each}=HOST:PORT" for each in announced) or "HOST:PORT"
            raise CommandFailed(
                f"nothing to connect to: the tunnel's services are "
                f"{', '.join(announced) or 'none'}; give -d {example}, "
                "or a directory of mapping files with --config-dir"
            )
        config = self._plan.config
        problem = config.mismatch(announced)
        if problem:
            raise CommandFailed(problem)
        services = config.services
        if self._compared or services is None:
            return []
        self._compared = True
        if ANY_SERVICE in services:
            if config.mode is Mode.DESTINATION and len(announced) > 1:
                return [f"every service of the tunnel ({', '.join(announced)}) has this address"]
            return []
        notes = [
            f"the tunnel's service {each!r} has no mapping and is not served"
            for each in announced
            if each not in services
        ]
        if self._plan.from_files:
            return notes + [
                f"{each} connects to {services[each]}" for each in announced if each in services
            ]
        if announced:
            notes += [
                f"{each!r} is mapped and is no service of this tunnel"
                for each in services
                if each not in announced
            ]
        return notes

    def _failed(self, reason: str) -> list[str]:
        if self._was_connected:
            self._was_connected = False
            if not self._plan.reconnect:
                raise CommandFailed(
                    f"the connection was lost: {reason}; the settings say not to reconnect "
                    "(websocket.reconnect_on_data_error), so start it again"
                )
            return []
        self._failures += 1
        advice = advice_on(reason)
        if RETRY_FOR_EVER < self._plan.retry_count <= self._failures:
            tries = f"{self._failures} failed connect{'' if self._failures == 1 else 's'}"
            advice = advice or "start it again, or raise websocket.connect_retry_count"
            raise CommandFailed(f"gave up after {tries}: {reason}; {advice}")
        if not advice or advice in self._told:
            return []
        self._told.add(advice)
        return [advice]
