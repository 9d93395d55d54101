"""The tunnels of a fleet and their open connections, as people and programs look at them.

Owns the fields that `tunnelfleet ls --json` and `connections --json` print, and what the filters of
the admin API mean, which other gateways of a shared fleet get too. It asks no actor: it reads what
FleetActor knows and the core keeps, as it is at that moment.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunnelfleet.proto import Mode
from tunnelfleet.runtime import Tunnel, TunnelRuntime, TunnelState
from tunnelfleet.runtime.gateway.config.schema import DOOR
from tunnelfleet.runtime.tunnel import TunnelStatus

from .reconcile import RunPhase
from .wanted import WantedTunnel

Row = dict[str, Any]
"""A tunnel, for programs."""
Filters = dict[str, list[str]]
"""Values by the name of the filter."""


def name_pattern(pattern: str) -> Callable[[str], object]:
    """Return whether a name matches; `*` stands for anything, and nothing else is special."""
    # fnmatch's expressions do not run away on many stars.
    plain = pattern.replace("[", "[[]").replace("?", "[?]")
    return re.compile(fnmatch.translate(plain)).match


class Choice:
    """Some tunnels of a fleet.

    Args:
        given: values by the name of the filter; none of them excludes nothing. One of several
            values has to match, of labels (`NAME=VALUE`) all.
    """

    def __init__(self, given: Mapping[str, Sequence[str]]) -> None:
        self._patterns = [name_pattern(each) for each in given.get("name", [])]
        self._modes, self._sources = given.get("mode"), given.get("source")
        self._states = given.get("state")
        self._labels = [each.partition("=") for each in given.get("label", [])]

    def has(self, name: str, mode: str, source: str, labels: Mapping[str, Any]) -> bool:
        """Whether a tunnel is one of them, but for its state."""
        return (
            (not self._patterns or any(each(name) for each in self._patterns))
            and (self._modes is None or mode in self._modes)
            and (self._sources is None or source in self._sources)
            and all(labels.get(label) == value for label, _equals, value in self._labels)
        )

    def has_state(self, state: str) -> bool:
        """Whether a tunnel in this state is one of them."""
        return self._states is None or state in self._states


MAX_CONNECTION_ROWS = 10_000
"""In one answer; a gateway may have more."""


def connection_rows(
    runtime: TunnelRuntime, tunnel: str | None = None, limit: int = MAX_CONNECTION_ROWS
) -> list[dict[str, Any]]:
    """Return the open connections, the oldest of each tunnel first.

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


@dataclass(frozen=True, slots=True)
class TunnelRow:
    """One tunnel at one moment.

    `services` are addresses by service id: what a source listens on, what a destination connects
    to. `streams` and `connections` are the open ones; `sent_bytes` went from here to the service,
    `received_bytes` came; `since` is when it entered its state, in seconds of the Unix epoch.
    """

    name: str
    mode: str
    state: str
    reason: str
    services: Mapping[str, str]
    labels: Mapping[str, str]
    streams: int
    connections: int
    sent_bytes: int
    received_bytes: int
    reconnects: int
    since: float
    source: str
    endpoint: str
    place: str
    channel_id: str

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "name": self.name,
            "mode": self.mode,
            "state": self.state,
            "reason": self.reason,
            "services": dict(self.services),
            "labels": dict(self.labels),
            "streams": self.streams,
            "connections": self.connections,
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "reconnects": self.reconnects,
            "since": round(self.since, 3),
            "source": self.source,
            "endpoint": self.endpoint,
            "place": self.place,
            "channel_id": self.channel_id,
        }


@dataclass(frozen=True, slots=True)
class Entry:
    """What FleetActor knows of a tunnel.

    Attributes:
        tunnel: what it runs as, or should.
        phase: where it stands; None if it does not run.
        source: who wants it; empty if nobody does any more.
        note: why it does not run, or what was decided about it; may be empty.
        since: of `note`, in seconds of the Unix epoch.
    """

    tunnel: WantedTunnel
    phase: RunPhase | None
    source: str
    note: str
    since: float

    def row(self, runtime: TunnelRuntime) -> TunnelRow:
        """Look at it now."""
        wanted, status = self.tunnel, self._status(runtime)
        state, reason, since = self._state(status)
        targets = {name: str(each or DOOR) for name, each in (wanted.services or {}).items()}
        if status is not None and wanted.mode is Mode.SOURCE and self.phase is RunPhase.RUNNING:
            reason = reason or self._not_listening(status)
            targets |= {name: each[0] for name, each in status.listening.items() if each}
        return TunnelRow(
            name=wanted.name,
            mode=wanted.mode.value,
            state=state.value,
            reason=reason,
            services=targets,
            labels=wanted.labels,
            streams=status.streams_active if status else 0,
            connections=status.connections_active if status else 0,
            sent_bytes=status.sent_bytes if status else 0,
            received_bytes=status.received_bytes if status else 0,
            reconnects=status.reconnects if status else 0,
            since=since,
            source=self.source,
            endpoint=str(wanted.endpoint),
            place=wanted.place,
            channel_id=status.channel_id if status else "",
        )

    def state(self, runtime: TunnelRuntime) -> str:
        """The state alone: a fraction of the work of `row`."""
        return self._state(self._status(runtime))[0].value

    def _status(self, runtime: TunnelRuntime) -> TunnelStatus | None:
        if self.phase is None:
            return None
        try:
            return runtime.tunnel(self.tunnel.name).status()
        except KeyError:
            # It has ended since.
            return None

    def _state(self, status: TunnelStatus | None) -> tuple[TunnelState, str, float]:
        """Return the state for people, with its reason and since when it is so."""
        if status is None:
            return TunnelState.STOPPED, self.note, self.since
        if self.phase is RunPhase.DRAINING and status.state is not TunnelState.STOPPED:
            return TunnelState.DRAINING, self.note, status.since
        return status.state, status.reason or self.note, status.since

    def _not_listening(self, status: TunnelStatus) -> str:
        """Say for which services nothing listens, though it should; empty if all do."""
        missing = [
            name
            for name, address in (self.tunnel.services or {}).items()
            if address is not None and not status.listening.get(name)
        ]
        return f"not listening for {', '.join(missing)}: {status.last_event}" if missing else ""
