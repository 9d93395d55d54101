"""What the status page shows: one look at a gateway and its fleet, and what is new since the last.

`look_at` waits for the gateway's actors; `FleetWatch` owns a thread that surveys the other gateways
of a shared fleet while somebody looks, so that one that does not answer holds up no page. The rest
is pure.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.actors.net.daemon_threads import DaemonExecutor
from tunnelfleet.proto import TunnelError, counted
from tunnelfleet.runtime import TunnelState
from tunnelfleet.runtime.gateway.forward.survey import FleetSurvey, look_at_fleet
from tunnelfleet.version import VERSION

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.gateway import Gateway
    from tunnelfleet.runtime.gateway.snapshot import TunnelRow

logger = logging.getLogger(__name__)

SURVEY_AGE_SECONDS = 5.0
"""How old what is shown of others may be before they are asked again."""
SURVEYS_SHARE = 0.1
"""The largest share of time that asking may take: large fleets are asked less often."""


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


TUNNEL_FIELDS: Final = (
    "name",
    "state",
    "reason",
    "since",
    "mode",
    "services",
    "labels",
    "connections",
    "sent_bytes",
    "received_bytes",
    "reconnects",
    "gateway",
)
GATEWAY_FIELDS: Final = ("name", "state", "tunnels", "connected", "shards", "address", "trouble")
CONNECTION_FIELDS: Final = (
    "tunnel",
    "service_id",
    "stream_id",
    "connection_id",
    "peer",
    "user",
    "since",
    "sent_bytes",
    "received_bytes",
)
FIELDS: Final = {
    "tunnels": TUNNEL_FIELDS,
    "connections": CONNECTION_FIELDS,
    "gateways": GATEWAY_FIELDS,
}
"""What the values of each table of the page are."""
MAX_CONNECTIONS: Final = 500
"""Connections that the page lists; it says how many there are."""
MAX_TUNNELS_OF_OTHERS: Final = 10_000
"""Tunnels of other gateways of the fleet that it lists."""
Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a gateway.

    Attributes:
        gateway: what the head of the page says.
        tunnels: the values of `TUNNEL_FIELDS` by name.
        connections: the values of `CONNECTION_FIELDS` by what the page knows a connection by.
        gateways: the values of `GATEWAY_FIELDS` by name, where gateways share the fleet.
    """

    gateway: Mapping[str, Any]
    tunnels: Mapping[str, Values] = field(default_factory=dict)
    connections: Mapping[str, Values] = field(default_factory=dict)
    gateways: Mapping[str, Values] = field(default_factory=dict)


def tunnel_values(rows: Iterable[TunnelRow]) -> dict[str, Values]:
    """Return the values that the page shows of tunnels."""
    found: dict[str, Values] = {}
    for row in rows:
        fields = row.to_json()
        found[row.name] = tuple(fields.get(name, "") for name in TUNNEL_FIELDS)
    return found


def values_of_others(survey: FleetSurvey, own: Iterable[str]) -> dict[str, Values]:
    """Return the values of tunnels that other gateways have.

    Args:
        survey: of the fleet.
        own: the names of those that this gateway has.
    """
    here = frozenset(own)
    others = (row for row in survey.tunnels if row["name"] not in here)
    return {
        row["name"]: tuple(row.get(name, "") for name in TUNNEL_FIELDS)
        for row in itertools.islice(others, MAX_TUNNELS_OF_OTHERS)
    }


def gateway_values(survey: FleetSurvey) -> dict[str, Values]:
    """Return the values that the page shows of gateways."""
    found: dict[str, Values] = {}
    for row in survey.gateways:
        state = "up" if row["reached"] else "unreached" if row["fresh"] else "away"
        states = row["tunnels"]
        connected = states.get(TunnelState.CONNECTED.value, 0)
        counts = (sum(states.values()), connected)
        values = (row["name"], state, *counts, row["shards"], row["address"], row["trouble"])
        found[row["name"]] = values
    return found


def connection_values(connections: Iterable[Mapping[str, Any]]) -> dict[str, Values]:
    """Return the values that the page shows of connections, of so many as it lists."""
    found: dict[str, Values] = {}
    for each in connections:
        if len(found) >= MAX_CONNECTIONS:
            break
        key = "/".join(str(each.get(name)) for name in CONNECTION_FIELDS[:4])
        found[key] = tuple(each.get(name) for name in CONNECTION_FIELDS)
    return found


def news(before: Sample | None, now: Sample) -> dict[str, Any] | None:
    """Return what a reader who knows `before` has to be told.

    Args:
        before: what it was told last; None if it knows nothing.
        now: the present look.

    Returns:
        The object that the page takes, or None if nothing is new.
    """
    old = Sample({}) if before is None else before
    found: dict[str, Any] = {
        "gateway": now.gateway,
        "whole": before is None,
        "fields": dict(FIELDS),
        "gone": {},
    }
    for name in FIELDS:
        was: Mapping[str, Values] = getattr(old, name)
        present: Mapping[str, Values] = getattr(now, name)
        found[name] = [values for key, values in present.items() if was.get(key) != values]
        found["gone"][name] = [key for key in was if key not in present]
    is_new = before is None or _timeless(before) != _timeless(now)
    return found if is_new or any(found[name] or found["gone"][name] for name in FIELDS) else None


def _timeless(sample: Sample) -> dict[str, Any]:
    return {key: value for key, value in sample.gateway.items() if key != "time"}


def look_at(gateway: Gateway, others: Callable[[], FleetSurvey] = FleetSurvey) -> Sample:
    """Look at a gateway; waits for the answer of its actors.

    Args:
        gateway: to look at.
        others: what is known of the fleet that it shares; must not wait.

    Raises:
        TunnelError: they do not answer.
    """
    state = gateway.state
    survey = others()
    rows = gateway.snapshot().rows(gateway.runtime)
    if survey.gateways:
        # The others tell of theirs, which stand in the files of this one as well.
        rows = [row for row in rows if row.name in state.running or state.is_ours(row.name)]
    tunnels = tunnel_values(rows)
    if survey.gateways:
        name_at = TUNNEL_FIELDS.index("gateway")
        me = state.config.gateway.name
        tunnels = {name: (*values[:name_at], me) for name, values in tunnels.items()}
        tunnels |= values_of_others(survey, tunnels)
    about = {
        "name": state.config.gateway.name,
        "version": VERSION,
        "started": round(gateway.started_at, 3),
        "time": round(time.time(), 3),
        "connections": sum(row.connections for row in rows),
        "alerts": alerts(rows, is_reloaded=state.reload_ok),
    }
    connections = connection_values(gateway.connections())
    return Sample(about, tunnels, connections, gateway_values(survey))


ADVICE: Final = {
    TunnelState.REFUSED: "the service does not take the token. Rotate it, then replace it in its "
    "file and reload, or use `tunnelfleet replace-token`.",
    TunnelState.QUARANTINED: "it failed again and again, and is tried at the longest delay. "
    "Look at its reason; `tunnelfleet retry` tries at once.",
}
"""What to do about tunnels that do not help themselves."""


def alerts(rows: Sequence[TunnelRow], *, is_reloaded: bool) -> list[str]:
    """Return what somebody has to do something about, a sentence each."""
    found: list[str] = []
    if not is_reloaded:
        found.append(
            "The files were not taken over when they were last read: they have mistakes. "
            "`tunnelfleet check` shows them; until they are mended the fleet is as it was."
        )
    counts = Counter(row.state for row in rows)
    for state, what in ADVICE.items():
        if count := counts[state.value]:
            tunnels = counted(count, "tunnel", "is", "are")
            found.append(f"{tunnels} {state.value}: {what}")
    return found
