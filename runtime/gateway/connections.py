"""The connections that are open in a gateway, for people and programs.

Owns the fields of a row and how many there are at most. It reads what the core keeps, on the
caller's thread, and asks no actor: what it finds is as it was at that moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnelfleet.runtime import Tunnel, TunnelRuntime

__all__ = ["MAX_CONNECTION_ROWS", "connection_rows"]

MAX_CONNECTION_ROWS = 10_000
"""In one answer; a gateway may have more."""


def connection_rows(
    runtime: TunnelRuntime, tunnel: str | None = None, limit: int = MAX_CONNECTION_ROWS
) -> list[dict[str, Any]]:
    """The open connections, the oldest of each tunnel first.

    Args:
        runtime: runs the tunnels.
        tunnel: of this tunnel alone; there may be none of this name.
        limit: at most so many.
    """
    rows: list[dict[str, Any]] = []
    for each in _tunnels(runtime, tunnel):
        # A copy made in one step: the tunnel's own thread goes on changing it.
        for live in list(each.stats.connections.values()):
            if len(rows) >= limit:
                return rows
            rows.append(
                {
                    "tunnel": each.name,
                    "service_id": live.service_id,
                    "stream_id": live.stream_id,
                    "connection_id": live.connection_id,
                    "peer": live.peer,
                    "user": live.user,
                    "since": round(live.opened_at, 3),
                    "sent_bytes": live.sent_bytes,
                    "received_bytes": live.received_bytes,
                }
            )
    return rows


def _tunnels(runtime: TunnelRuntime, name: str | None) -> Iterable[Tunnel]:
    if name is None:
        return runtime.tunnels()
    try:
        return [runtime.tunnel(name)]
    except KeyError:
        return []
