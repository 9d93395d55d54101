"""What the status page shows of a gateway, and what of it is new for a reader.

Owns the fields that the page gets, the alerts above them, and the difference between two looks:
`look_at` makes a `Sample`, and `news`, which is pure, compares two of them.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.runtime import TunnelState
from tunnelfleet.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tunnelfleet.runtime.gateway.gateway import Gateway
    from tunnelfleet.runtime.gateway.snapshot import TunnelRow

__all__ = ["CONNECTION_FIELDS", "MAX_CONNECTIONS", "TUNNEL_FIELDS", "Sample", "look_at", "news"]

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
)
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
MAX_CONNECTIONS: Final = 500
"""Connections that the page lists; it says how many there are."""

ADVICE: Final = {
    TunnelState.REFUSED: "the service does not take the token. Rotate it, then replace it in its "
    "file and reload, or use `tunnelfleet replace-token`.",
    TunnelState.QUARANTINED: "it failed again and again, and is tried at the longest delay. "
    "Look at its reason; `tunnelfleet retry` tries at once.",
}
"""What to do about tunnels that do not help themselves."""

Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a gateway.

    Attributes:
        gateway: what the head of the page says.
        tunnels: the values of `TUNNEL_FIELDS` by name.
        connections: the values of `CONNECTION_FIELDS` by what the page knows a connection by.
    """

    gateway: Mapping[str, Any]
    tunnels: Mapping[str, Values] = field(default_factory=dict)
    connections: Mapping[str, Values] = field(default_factory=dict)


def tunnel_values(rows: Iterable[TunnelRow]) -> dict[str, Values]:
    """The values that the page shows of tunnels."""
    found: dict[str, Values] = {}
    for row in rows:
        fields = row.to_json()
        found[row.name] = tuple(fields[name] for name in TUNNEL_FIELDS)
    return found


def connection_values(connections: Iterable[Mapping[str, Any]]) -> dict[str, Values]:
    """The values that the page shows of connections, of so many as it lists."""
    found: dict[str, Values] = {}
    for each in connections:
        if len(found) >= MAX_CONNECTIONS:
            break
        key = "/".join(str(each.get(name)) for name in CONNECTION_FIELDS[:4])
        found[key] = tuple(each.get(name) for name in CONNECTION_FIELDS)
    return found


def news(before: Sample | None, now: Sample) -> dict[str, Any] | None:
    """What a reader who knows `before` has to be told.

    Args:
        before: what it was told last; None if it knows nothing.
        now: the present look.

    Returns:
        The object that the page takes, or None if nothing is new.
    """
    gateway = {key: value for key, value in now.gateway.items() if key != "time"}
    found: dict[str, Any] = {
        "gateway": now.gateway,
        "whole": before is None,
        "fields": {"tunnels": TUNNEL_FIELDS, "connections": CONNECTION_FIELDS},
        "gone": {},
    }
    is_new = before is None or gateway != {k: v for k, v in before.gateway.items() if k != "time"}
    for name in ("tunnels", "connections"):
        old: Mapping[str, Values] = {} if before is None else getattr(before, name)
        new: Mapping[str, Values] = getattr(now, name)
        found[name] = [values for key, values in new.items() if old.get(key) != values]
        found["gone"][name] = [key for key in old if key not in new]
        is_new = is_new or bool(found[name] or found["gone"][name])
    return found if is_new else None


def look_at(gateway: Gateway) -> Sample:
    """Look at a gateway; waits for the answer of its actors.

    Raises:
        TunnelError: they do not answer.
    """
    rows = gateway.snapshot().rows(gateway.runtime)
    tunnels = tunnel_values(rows)
    state = gateway.state
    about = {
        "name": state.config.gateway.name,
        "version": VERSION,
        "started": round(gateway.started_at, 3),
        "time": round(time.time(), 3),
        "connections": sum(row.connections for row in rows),
        "alerts": alerts(rows, is_reloaded=state.reload_ok),
    }
    return Sample(about, tunnels, connection_values(gateway.connections()))


def alerts(rows: Sequence[TunnelRow], *, is_reloaded: bool) -> list[str]:
    """What somebody has to do something about, a sentence each."""
    found: list[str] = []
    if not is_reloaded:
        found.append(
            "The files were not taken over when they were last read: they have mistakes. "
            "`tunnelfleet check` shows them; until they are mended the fleet is as it was."
        )
    counts = Counter(row.state for row in rows)
    for state, what in ADVICE.items():
        if count := counts[state.value]:
            tunnels = "1 tunnel is" if count == 1 else f"{count} tunnels are"
            found.append(f"{tunnels} {state.value}: {what}")
    return found
